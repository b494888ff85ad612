"""Classifiers on disk; accuracy curves and the environment as plain data."""

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

import stable_node_tf
from stable_node_tf import evaluation
from stable_node_tf.certification.certifier import CertifiedCurve
from stable_node_tf.saved_model import load_classifier

EPSILONS = (
    *(0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1),
    *(0.12, 0.15, 0.2, 0.25, 0.3),
)


def load_model(path: str | Path) -> Callable[[Any], Any]:
    """Loads a `.keras` file or an exported SavedModel."""
    path = Path(path)
    return (
        load_keras(path) if path.suffix == ".keras" else load_classifier(path)
    )


def load_keras(path: str | Path) -> keras.Model:
    """Loads a `.keras` file, or raises an error that names it."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path} cannot be read as a Keras model: {reason}"
        ) from error


def points(curve: evaluation.AccuracyCurve) -> list[dict[str, float]]:
    """The curve as a list of {"epsilon", "accuracy"}."""
    return [
        {"epsilon": float(epsilon), "accuracy": float(accuracy)}
        for epsilon, accuracy in zip(
            curve.epsilons, curve.accuracies, strict=True
        )
    ]


def certified_points(curve: CertifiedCurve) -> dict[str, Any]:
    """A certified curve as {"certified": [{"radius", "accuracy"}], ...}."""
    return {
        "clean_accuracy": curve.clean_accuracy,
        "certified": [
            {"radius": float(radius), "accuracy": float(accuracy)}
            for radius, accuracy in zip(
                curve.radii, curve.accuracies, strict=True
            )
        ],
        "holds_for": curve.holds_for,
        "num_images": curve.num_images,
    }


def environment() -> dict[str, Any]:
    """What figures depend on besides the code: versions and the machine."""
    packages = ("tensorflow", "keras", "tensorflow-probability")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "versions": versions | {"python": platform.python_version()},
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
    }


def package_digest() -> str:
    """Sixteen hexadecimal digits that name what the package's modules say."""
    total = hashlib.sha256()
    for file in sorted(Path(stable_node_tf.__file__).parent.rglob("*.py")):
        total.update(file.read_bytes())
    return total.hexdigest()[:16]
