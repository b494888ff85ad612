"""What an attack returns, and what it yields batch by batch."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

Classifier = Callable[[Any], Any]
"""What is attacked: maps images to logits, differentiably."""


class Attack(NamedTuple):
    """The outcome of an attack on n images with E budgets.

    Attributes:
        adversarial: the attacked images, float32, shape (E, n, ...).
        success: bool, shape (E, n): True where the attacked image is
            misclassified. An image that is misclassified without any attack
            counts as a success, so accuracy is `1 - success.mean(axis=1)`.
    """

    adversarial: np.ndarray
    success: np.ndarray


class AttackedBatch(NamedTuple):
    """The outcome of an attack on one batch of b images with E budgets.

    Attributes:
        adversarial: the attacked images, float32, shape (E, b, ...).
        predictions: the classes answered for them, int64, shape (E, b).
        clean_predictions: the classes answered for the images as they were
            given, int64, shape (b,).
        labels: the true classes, int64, shape (b,).
        zero_gradient: bool, shape (b,): True where the gradient of the loss
            is exactly zero in every pixel, so that a gradient attack cannot
            move the image (a symptom of masked gradients). None for an attack
            that uses no gradients.
    """

    adversarial: np.ndarray
    predictions: np.ndarray
    clean_predictions: np.ndarray
    labels: np.ndarray
    zero_gradient: np.ndarray | None


def collect(
    batches: Iterable[AttackedBatch], budgets: int, shape: tuple[int, ...]
) -> Attack:
    """Puts the batches of an attack together, in their order.

    Args:
        batches: what an attack yields.
        budgets: E, the number of budgets.
        shape: of all images together, (n, ...).

    Example:
        >>> batch = AttackedBatch(
        ...     adversarial=np.zeros([1, 2, 3], np.float32),
        ...     predictions=np.array([[7, 1]]),
        ...     clean_predictions=np.array([7, 5]),
        ...     labels=np.array([7, 5]),
        ...     zero_gradient=None,
        ... )
        >>> collect([batch, batch], 1, (4, 3)).success.tolist()
        [[False, True, False, True]]
    """
    adversarial = np.empty([budgets, *shape], np.float32)
    success = np.empty([budgets, shape[0]], bool)
    start = 0
    for batch in batches:
        stop = start + len(batch.labels)
        adversarial[:, start:stop] = batch.adversarial
        success[:, start:stop] = batch.predictions != batch.labels
        start = stop
    return Attack(adversarial, success)
