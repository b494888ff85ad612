"""Checks of what attacks are given, and of what models answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stable_node_tf.checks import increasing_ends


def check_epsilons(
    epsilons: float | Sequence[float] | None, minimal: bool = False
) -> np.ndarray:
    """Returns one budget or several, finite and >= 0, as float64 of shape (E,).

    An attack that is minimal needs no budget: None is a single infinite one.

    Example:
        >>> check_epsilons([0, 0.25]).tolist(), check_epsilons(0.5).tolist()
        ([0.0, 0.25], [0.5])
    """
    if minimal and epsilons is None:
        return np.array([np.inf])
    try:
        budgets = np.asarray(epsilons, dtype=np.float64)
    except (TypeError, ValueError):
        budgets = np.empty(0)
    valid = budgets.ndim <= 1 and budgets.size > 0
    if not valid or not np.all(np.isfinite(budgets) & (budgets >= 0)):
        raise ValueError(
            "epsilons must be a finite number >= 0 or a non-empty list of "
            f"them. Received: epsilons={epsilons!r}"
        )
    return budgets.reshape(-1)


def check_bounds(bounds: Sequence[float]) -> tuple[float, float]:
    """Returns the smallest and the largest value of a pixel."""
    ends = increasing_ends(bounds, np.float32)
    if ends is None:
        raise ValueError(
            "bounds must be two finite numbers, the smaller one first. "
            f"Received: bounds={bounds!r}"
        )
    return ends


def check_same_order(labels: np.ndarray, others: np.ndarray) -> None:
    """Raises a ValueError unless two attacks have seen the same labels."""
    if not np.array_equal(labels, others):
        raise ValueError(
            "images must come in the same order for each attack. "
            "Received: a data set that shuffles them anew"
        )


def check_data(
    bounds: tuple[float, float], images: Any, labels: Any, *targets: Any
) -> tuple[np.ndarray, ...]:
    """Returns images as float32, labels and targets, if any, as int64."""
    images = np.asarray(images)
    pixels = "[{:g}, {:g}]".format(*bounds)
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(
            f"images must be floats in {pixels}; divide bytes by 255. "
            f"Received: images of dtype {images.dtype}"
        )
    checked = [images.astype(np.float32)]
    named = zip(("labels", "targets"), (labels, *targets), strict=False)
    for name, given in named:
        classes = np.asarray(given)
        if not np.issubdtype(classes.dtype, np.integer):
            raise TypeError(
                f"{name} must be integer classes. "
                f"Received: {name} of dtype {classes.dtype}"
            )
        if images.ndim < 2 or not classes.shape == images.shape[:1] > (0,):
            raise ValueError(
                f"images must have shape (n, ...) and {name} shape (n,), "
                f"n >= 1. Received: images {images.shape}, {name} "
                f"{classes.shape}"
            )
        if classes.min() < 0:
            raise ValueError(
                f"{name} must be >= 0. Received: {name} from {classes.min()}"
            )
        checked.append(classes.astype(np.int64))
    smallest, largest = checked[0].min(), checked[0].max()
    if not (smallest >= bounds[0] and largest <= bounds[1]):
        raise ValueError(
            f"images must lie in {pixels}, or other `bounds` be given. "
            f"Received: values from {smallest} to {largest}"
        )
    return tuple(checked)


def check_logits(
    logits: np.ndarray, numbers: np.ndarray, *classes: np.ndarray
) -> None:
    """Raises ValueError unless these are finite logits that fit the classes.

    Probabilities are told by their rows, which sum to 1.

    Args:
        logits: floats (b, classes).
        numbers: the numbers of these images, integers (b,).
        *classes: labels and, if there are any, targets, integers (b,).
    """
    if len(logits) != len(numbers):
        raise ValueError(
            "model must return one row of logits for each image. "
            f"Received: {len(logits)} rows for {len(numbers)} images"
        )
    check_finite(logits, numbers, "the logits")
    for name, given in zip(("labels", "targets"), classes, strict=False):
        if given.max() >= logits.shape[1]:
            raise ValueError(
                f"{name} must be below {logits.shape[1]}, the number of "
                f"classes of the model. Received: {name} up to {given.max()}"
            )
    totals = logits.sum(axis=1, dtype=np.float64)
    if np.all(logits >= 0) and np.allclose(totals, 1.0, rtol=0, atol=1e-5):
        raise ValueError(
            "model must return logits, not probabilities: through a softmax "
            "the gradient vanishes and the attack fails. "
            "Received: rows that sum to 1"
        )


def check_finite(values: np.ndarray, numbers: np.ndarray, what: str) -> None:
    """Raises ValueError, which names the first image that is not finite.

    Args:
        values: floats (b, ...), one entry per image.
        numbers: the numbers of these images, integers (b,).
        what: what the values are, for the message.
    """
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{what} must be finite. Received: NaN or infinity for "
            f"{np.sum(~finite)} of {len(finite)} images of a batch, first for "
            f"image {numbers[~finite].min()}"
        )
