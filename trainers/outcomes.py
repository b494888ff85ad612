"""Which images a model gets right under attack, one by one, kept on disk.

Two models are compared image by image, for which their accuracies do not do.
What has been attacked once is not attacked again: a comparison that was
interrupted goes on where it stopped.
"""

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stable_node_tf import evaluation
from trainers import attack_suite, report
from trainers.data.datasets import Split


class Outcome(NamedTuple):
    """What an attack with E budgets leaves of the answers to n images.

    Attributes:
      epsilons: the budgets, float64, of shape (E,).
      right: whether the answer to the attacked image is right, bool, (E, n).
      clean: whether the answer is right without an attack, bool, (n,).
      stuck: whether the gradient of the loss is exactly zero, bool, (n,).
    """

    epsilons: np.ndarray
    right: np.ndarray
    clean: np.ndarray
    stuck: np.ndarray

    def curve(self) -> evaluation.AccuracyCurve:
        """Accuracy against the budget."""
        return evaluation.AccuracyCurve(
            self.epsilons,
            self.right.mean(axis=1),
            float(self.clean.mean()),
            float(self.stuck.mean()),
            len(self.clean),
        )


def attacked(
    name: str,
    model: Callable[[Any], Any],
    split: Split,
    settings: dict[str, Any],
    description: str,
) -> Outcome:
    """Attacks a model, with a progress bar.

    Args:
      name: of an attack that follows gradients, see `attack_suite.TITLES`.
      model: maps images to logits.
      split: images and labels.
      settings: what the attack is called with.
      description: what the progress bar says.
    """
    rights, cleans, stuck = [], [], []
    for batch in attack_suite.attacked_batches(
        name, model, split.pixels, split.labels, settings, description
    ):
        rights.append(batch.predictions == batch.labels)
        cleans.append(batch.clean_predictions == batch.labels)
        stuck.append(batch.zero_gradient)
    return Outcome(
        np.array(settings["epsilons"], np.float64),
        np.concatenate(rights, axis=1),
        np.concatenate(cleans),
        np.concatenate(stuck),
    )


def strongest(outcomes: Sequence[Outcome]) -> Outcome:
    """Takes for every image the attack that fools it, if there is one.

    Args:
      outcomes: of several attacks on the same images with the same budgets.

    Example:
      >>> one, two = (
      ...     Outcome(
      ...         np.array([0.1]),
      ...         np.array([right]),
      ...         np.array([True, True, True]),
      ...         np.array([False, False, False]),
      ...     )
      ...     for right in ([True, True, False], [False, True, True])
      ... )
      >>> strongest([one, two]).right.tolist()
      [[False, True, False]]
    """
    epsilons, right, clean, stuck = zip(*outcomes, strict=True)
    return Outcome(
        epsilons[0],
        np.logical_and.reduce(right),
        clean[0],
        np.logical_and.reduce(stuck),
    )


def kept(
    path: Path, made_from: dict[str, Any], attack: Callable[[], Outcome]
) -> Outcome:
    """The outcome at `path` if it is of the same attack, or a new one.

    Args:
      path: of an .npz file, which need not exist and is written.
      made_from: all that the outcome depends on, as JSON takes it.
      attack: called where there is nothing to be read.
    """
    description = json.dumps(made_from, sort_keys=True)
    try:
        with np.load(path) as file:
            if str(file["made_from"]) == description:
                return Outcome(*(file[name] for name in Outcome._fields))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        pass
    outcome = attack()
    with report.atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file, made_from=np.array(description), **outcome._asdict()
        )
    return outcome
