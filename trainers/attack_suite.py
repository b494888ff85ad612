"""The attacks that an evaluation runs, one after another, and their record.

A record is written after every attack, so that an evaluation that was
interrupted goes on where it stopped.
"""

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import progress

from stable_node_tf import attacks, evaluation
from trainers import report
from trainers.data.datasets import Split

_BATCH_SIZE = 500


@dataclasses.dataclass(frozen=True)
class Suite:
    """Which attacks are run, and how hard they try.

    Attributes:
      attacks: names out of `TITLES`.
      epsilons: budgets in the l-infinity norm.
      epsilons_l2: budgets in the 2-norm.
      pgd_steps: of each run of PGD.
      restarts: runs of PGD from random starts.
      queries: of Square.
      seed: of all random numbers.
      jit_compile: whether XLA compiles the iterations.
    """

    attacks: Sequence[str]
    epsilons: Sequence[float]
    epsilons_l2: Sequence[float]
    pgd_steps: int = 100
    restarts: int = 1
    queries: int = 1000
    seed: int = 0
    jit_compile: bool = True

    def settings(self, name: str) -> dict[str, Any]:
        """What an attack is called with: two that agree give equal figures."""
        common = {"seed": self.seed, "jit_compile": self.jit_compile}
        pgd = common | {"steps": self.pgd_steps, "restarts": self.restarts}
        settings = {
            "fgsm": {},
            "pgd": pgd,
            "margin": pgd | {"loss": "dlr"},
            "pgd_l2": pgd | {"norm": "l2"},
            "margin_l2": pgd | {"norm": "l2", "loss": "dlr"},
            "square": common | {"queries": self.queries},
        }[name]
        return settings | {"epsilons": list(self.budgets(name))}

    def budgets(self, name: str) -> Sequence[float]:
        """The budgets of an attack, in its norm."""
        return self.epsilons_l2 if norm(name) == "l2" else self.epsilons


TITLES = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "margin": "PGD, margin",
    "square": "Square",
    "pgd_l2": "PGD, 2-norm",
    "margin_l2": "PGD, margin, 2-norm",
}
_BATCHES: dict[str, Callable[..., Iterator[attacks.AttackedBatch]]] = {
    "fgsm": attacks.fgsm_batches,
    "pgd": attacks.pgd_batches,
    "margin": attacks.pgd_batches,
    "square": attacks.square_batches,
    "pgd_l2": attacks.pgd_batches,
    "margin_l2": attacks.pgd_batches,
}


def norm(name: str) -> str:
    """The norm in which an attack has its budgets: "linf" or "l2"."""
    return "l2" if name.endswith("_l2") else "linf"


def attacked_batches(
    name: str,
    model: Callable[[Any], Any],
    images: np.ndarray,
    labels: np.ndarray,
    settings: dict[str, Any],
    description: str,
) -> Iterable[attacks.AttackedBatch]:
    """Carries one attack out batch by batch, with a progress bar.

    Args:
      name: of the attack.
      model: maps images to logits.
      images: floats in [0, 1], of shape (n, 28, 28, 1).
      labels: of shape (n,).
      settings: from `Suite.settings`.
      description: what the progress bar says.
    """
    batches = _BATCHES[name](
        model, images, labels, batch_size=_BATCH_SIZE, **settings
    )
    return progress.track(
        batches,
        description,
        -(-len(labels) // _BATCH_SIZE),
        disable=not sys.stdout.isatty(),
    )


def attack_curve(
    name: str,
    model: Callable[[Any], Any],
    images: np.ndarray,
    labels: np.ndarray,
    settings: dict[str, Any],
    description: str,
) -> evaluation.AccuracyCurve:
    """Accuracy under one attack; the arguments of `attacked_batches`."""
    batches = attacked_batches(
        name, model, images, labels, settings, description
    )
    return evaluation.accuracy_curve(batches, settings["epsilons"])


def run(
    suite: Suite,
    model: Callable[[Any], Any],
    images: np.ndarray,
    labels: np.ndarray,
    record: dict[str, Any],
    path: Path | None,
) -> dict[str, evaluation.AccuracyCurve]:
    """Runs the attacks that the record does not hold yet.

    Args:
      suite: which attacks.
      model: maps images to logits.
      images: floats in [0, 1].
      labels: of shape (n,).
      record: what is known so far, from `open_record`; filled in.
      path: the file that the record is written to after each attack.

    Returns:
      The curve of each attack.
    """
    curves = {}
    for name in suite.attacks:
        settings = suite.settings(name)
        known = record["attacks"].get(name)
        if known is None or known["settings"] != settings:
            start = time.perf_counter()
            curve = attack_curve(
                name, model, images, labels, settings, TITLES[name]
            )
            record["clean_accuracy"] = curve.clean_accuracy
            record["attacks"][name] = {
                "norm": norm(name),
                "settings": settings,
                "accuracies": curve.accuracies.tolist(),
                "zero_gradient_share": curve.zero_gradient_share,
                "seconds": round(time.perf_counter() - start, 2),
            }
            if path is not None:
                report.write_json(record, path)
        curves[name] = recorded_curve(record, name)
    return curves


def recorded_curve(
    record: dict[str, Any], name: str
) -> evaluation.AccuracyCurve:
    """The curve of an attack that a record holds."""
    entry = record["attacks"][name]
    return evaluation.AccuracyCurve(
        np.array(entry["settings"]["epsilons"]),
        np.array(entry["accuracies"]),
        record["clean_accuracy"],
        entry["zero_gradient_share"],
        record["num_images"],
    )


def open_record(
    path: Path | None, model: Path, dataset: str, test: Split
) -> dict[str, Any]:
    """The record at `path` if it is of this model and images, or a new one.

    Args:
      path: of an evaluation.json, which need not exist; None for none.
      model: the `.keras` file, or the version directory of the SavedModel.
      dataset: name of the data set.
      test: the images that are attacked, and their labels.
    """
    head = {
        "model": str(model),
        "digest": digest(model),
        "dataset": dataset,
        "num_images": len(test.labels),
        "images_digest": test.fingerprint(),
    }
    try:
        old = json.loads(path.read_text()) if path is not None else {}
    except (OSError, ValueError):
        old = {}
    if not isinstance(old, dict) or any(
        old.get(key) != head[key] for key in head if key != "model"
    ):
        return head | {"attacks": {}}
    return old | head


def digest(path: Path) -> str:
    """Sixteen hexadecimal digits that name what a saved model holds."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        if file.is_file():
            total.update(file.read_bytes())
    return total.hexdigest()[:16]
