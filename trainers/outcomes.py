"""Which images a model gets right under attack, one by one, kept on disk.

Two models are compared image by image, for which their accuracies do not do.
What has been attacked once is not attacked again: a comparison that was
interrupted goes on where it stopped.
"""

import dataclasses
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stable_node_tf import attacks, evaluation
from stable_node_tf.files import atomic
from trainers.data.datasets import Split


def strongest_pgd(seed: int) -> attacks.WorstCase:
    """PGD with 100 steps on two losses, the stronger one for each image."""
    return attacks.WorstCase(
        [
            attacks.PGD(steps=100, loss=loss, seed=seed, jit_compile=True)
            for loss in ("cross_entropy", "dlr")
        ]
    )


def settings(
    attack: attacks.Attack, epsilons: Sequence[float]
) -> dict[str, Any]:
    """What an attack depends on: two that agree give equal figures."""
    return attack.describe()["settings"] | {"epsilons": list(epsilons)}


def attacked(
    attack: attacks.Attack,
    model: attacks.Classifier,
    split: Split,
    epsilons: Sequence[float],
    description: str,
) -> attacks.AttackResult:
    """Attacks a model, and keeps the answers but not the images.

    The description is what the progress bar says.
    """
    compared = evaluation.compare(
        {"model": model},
        split.pixels,
        split.labels,
        attacks={description: attack},
        epsilons=epsilons,
        verbose=sys.stdout.isatty(),
    )
    return compared.results["model"][description]


def curve(*arguments: Any) -> evaluation.AccuracyCurve:
    """Accuracy under an attack; the arguments of `attacked`."""
    return evaluation.AccuracyCurve.of(attacked(*arguments))


def kept(
    path: Path,
    made_from: dict[str, Any],
    attack: Callable[[], attacks.AttackResult],
) -> attacks.AttackResult:
    """The outcome at `path` if it is of the same attack, or a new one.

    Args:
      path: of an .npz file, which need not exist and is written.
      made_from: all that the outcome depends on, as JSON takes it.
      attack: called where there is nothing to be read; uses gradients.
    """
    description = json.dumps(made_from, sort_keys=True)
    names = [field.name for field in dataclasses.fields(attacks.AttackResult)]
    try:
        with np.load(path) as file:
            if str(file["made_from"]) == description:
                return attacks.AttackResult(**{n: file[n] for n in names})
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        pass
    outcome = attack()
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file, made_from=np.array(description), **vars(outcome)
        )
    return outcome
