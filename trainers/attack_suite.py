"""The attacks that an evaluation runs, one after another, and their record.

A record is written after every attack, so that an evaluation that was
interrupted goes on where it stopped.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stable_node_tf.attacks import Attack, Classifier
from stable_node_tf.evaluation import AccuracyCurve
from stable_node_tf.files import write_json
from trainers import outcomes
from trainers.data.datasets import Split


class Suite(NamedTuple):
    """Which attacks are run, with which budgets.

    Attributes:
      attacks: what to run.
      epsilons: budgets by the norm that they are in.
    """

    attacks: Sequence[Attack]
    epsilons: Mapping[str, Sequence[float]]

    def settings(self) -> dict[str, dict[str, Any]]:
        """What each attack depends on, by its name."""
        return {
            attack.name: outcomes.settings(attack, self.epsilons[attack.norm])
            for attack in self.attacks
        }


def run(
    suite: Suite,
    model: Classifier,
    test: Split,
    record: dict[str, Any],
    path: Path | None,
) -> dict[str, AccuracyCurve]:
    """Runs the attacks that the record does not hold yet.

    Args:
      suite: which attacks.
      model: maps images to logits.
      test: images and labels.
      record: what is known so far, from `open_record`; filled in.
      path: the file that the record is written to after each attack.

    Returns:
      The curves by the names of the attacks.
    """
    wanted = suite.settings()
    for attack in suite.attacks:
        name, epsilons = attack.name, suite.epsilons[attack.norm]
        known = record["attacks"].get(name, {})
        if known.get("settings") == wanted[name]:
            continue
        start = time.perf_counter()
        curve = outcomes.curve(attack, model, test, epsilons, attack.title)
        record["clean_accuracy"] = curve.clean_accuracy
        record["attacks"][name] = attack.describe() | {
            "settings": wanted[name],
            "accuracies": curve.accuracies.tolist(),
            "zero_gradient_share": curve.zero_gradient_share,
            "seconds": round(time.perf_counter() - start, 2),
        }
        if path is not None:
            write_json(record, path)
    return {name: recorded_curve(record, name) for name in wanted}


def recorded_curve(record: dict[str, Any], name: str) -> AccuracyCurve:
    """The curve of an attack that a record holds."""
    entry = record["attacks"][name]
    return AccuracyCurve(
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
      path: an evaluation.json, which need not exist; None for none.
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
