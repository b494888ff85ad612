"""What an attack answers with."""

import dataclasses
from collections.abc import Iterable

import numpy as np


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """What an attack with E budgets did to n images.

    Attributes:
        epsilons: the budgets, float64, shape (E,).
        adversarial: the attacked images, float32, shape (E, n, ...).
        predictions: the classes answered for them, int64, shape (E, n).
        clean_predictions: the classes answered for the images as they were
            given, int64, shape (n,).
        labels: the true classes, int64, shape (n,).
        success: bool, shape (E, n): True where the attacked image is
            misclassified or, with targets, classified as the target. It may
            have been so without any attack.
        distances: how far the images have been moved, in the attack's norm,
            shape (E, n); infinite where there is no success.
        zero_gradient: bool, shape (n,): True where the gradient of the loss
            is exactly zero in every pixel, so that a gradient attack cannot
            move the image (a symptom of masked gradients). None for an attack
            that uses no gradients.
    """

    epsilons: np.ndarray
    adversarial: np.ndarray
    predictions: np.ndarray
    clean_predictions: np.ndarray
    labels: np.ndarray
    success: np.ndarray
    distances: np.ndarray
    zero_gradient: np.ndarray | None

    @property
    def right(self) -> np.ndarray:
        """Whether the answer to the attacked image is right, bool, (E, n)."""
        return np.asarray(self.predictions == self.labels)

    @property
    def accuracies(self) -> np.ndarray:
        """The share of attacked images that are classified correctly, (E,)."""
        return np.asarray(self.right.mean(axis=1))

    def without_images(self) -> "AttackResult":
        """The same, but `adversarial` has shape (E, n, 0)."""
        nothing = np.empty([*self.success.shape, 0], np.float32)
        return dataclasses.replace(self, adversarial=nothing)


def collect(batches: Iterable[AttackResult]) -> AttackResult:
    """Puts the batches of an attack together, in their order."""
    parts = list(batches)
    joined = {
        name: np.concatenate([vars(part)[name] for part in parts], axis)
        for axis, names in enumerate(
            (
                ("clean_predictions", "labels", "zero_gradient"),
                ("adversarial", "predictions", "success", "distances"),
            )
        )
        for name in names
        if vars(parts[0])[name] is not None
    }
    return dataclasses.replace(parts[0], **joined)
