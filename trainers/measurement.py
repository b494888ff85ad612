"""Accuracy of saved and unsaved classifiers under FGSM, with progress bars."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich import progress

from stable_node_tf import attacks, evaluation, export

EPSILONS = (
    *(0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1),
    *(0.12, 0.15, 0.2, 0.25, 0.3),
)
_BATCH_SIZE = 500


def load_model(path: str | Path) -> Callable[[Any], Any]:
    """Loads a `.keras` file or an exported SavedModel.

    Raises:
      FileNotFoundError: if there is nothing at `path`.
      ValueError: if what is there cannot be read as a model.
    """
    path = Path(path)
    if path.suffix != ".keras":
        return export.load(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path} cannot be read as a Keras model: {reason}"
        ) from error


def fgsm_curve(
    model: Callable[[Any], Any],
    images: np.ndarray,
    labels: np.ndarray,
    epsilons: Sequence[float],
    description: str,
) -> evaluation.AccuracyCurve:
    """Accuracy under FGSM, with a progress bar.

    Args:
      model: maps images to logits.
      images: uint8, of shape (n, 28, 28, 1).
      labels: of shape (n,).
      epsilons: attack budgets.
      description: what the progress bar says.
    """
    batches = attacks.fgsm_batches(
        model,
        images.astype(np.float32) / 255.0,
        labels,
        epsilons,
        batch_size=_BATCH_SIZE,
    )
    total = -(-len(labels) // _BATCH_SIZE)
    watched = progress.track(
        batches, description, total, disable=not sys.stdout.isatty()
    )
    return evaluation.accuracy_curve(watched, epsilons)


def points(curve: evaluation.AccuracyCurve) -> list[dict[str, float]]:
    """The curve as a list of {"epsilon", "accuracy"}."""
    return [
        {"epsilon": float(epsilon), "accuracy": float(accuracy)}
        for epsilon, accuracy in zip(
            curve.epsilons, curve.accuracies, strict=True
        )
    ]
