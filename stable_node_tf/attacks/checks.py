"""Checks of what attacks are given, and of what models answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def check_epsilons(epsilons: Sequence[float]) -> np.ndarray:
    """Checks a list of attack budgets.

    Args:
        epsilons: budgets, finite and >= 0, at least one, in any order.

    Returns:
        The budgets as a float64 array of shape (len(epsilons),).

    Raises:
        ValueError: if the list is empty or not a flat list of finite,
            non-negative numbers.

    Example:
        >>> check_epsilons([0, 0.25]).tolist()
        [0.0, 0.25]
    """
    try:
        budgets = np.asarray(epsilons, dtype=np.float64)
    except (TypeError, ValueError):
        budgets = np.empty(0)
    valid = budgets.ndim == 1 and budgets.size > 0
    if not valid or not np.all(np.isfinite(budgets) & (budgets >= 0)):
        raise ValueError(
            "epsilons must be a non-empty list of finite numbers >= 0. "
            f"Received: epsilons={epsilons!r}"
        )
    return budgets


def check_logits(logits: np.ndarray, labels: np.ndarray, start: int) -> None:
    """Raises ValueError unless these are finite logits that fit the labels.

    Probabilities are told by their rows, which sum to 1.

    Args:
        logits: floats (b, classes).
        labels: the true classes, integers (b,).
        start: the number of the first of these images.
    """
    if len(logits) != len(labels):
        raise ValueError(
            "model must return one row of logits for each image. "
            f"Received: {len(logits)} rows for {len(labels)} images"
        )
    check_finite(logits, start, "the logits")
    if labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels must be below {logits.shape[1]}, the number of classes of "
            f"the model. Received: labels up to {labels.max()}"
        )
    totals = logits.sum(axis=1, dtype=np.float64)
    if np.all(logits >= 0) and np.allclose(totals, 1.0, rtol=0, atol=1e-5):
        raise ValueError(
            "model must return logits, not probabilities: through a softmax "
            "the gradient vanishes and the attack fails. "
            "Received: rows that sum to 1"
        )


def check_finite(values: np.ndarray, start: int, what: str) -> None:
    """Raises ValueError if a value is NaN or infinite.

    Args:
        values: floats (b, ...), one entry per image.
        start: the number of the first of these images.
        what: what the values are, for the message.
    """
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    refuse_not_finite(finite, start + np.arange(len(values)), what)


def refuse_not_finite(
    finite: np.ndarray, numbers: np.ndarray, what: str
) -> None:
    """Raises ValueError that names the first image that is not finite.

    Args:
        finite: bool (b,), one entry per image.
        numbers: the numbers of these images, integers (b,).
        what: what is not finite, for the message.
    """
    if not finite.all():
        raise ValueError(
            f"{what} must be finite. Received: NaN or infinity for "
            f"{np.sum(~finite)} of {len(finite)} images of a batch, first for "
            f"image {numbers[~finite].min()}"
        )


def check_data(images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns images as float32 and labels as int64.

    Raises:
        TypeError: if the images are not floats or the labels not integers.
        ValueError: if shapes do not fit, or values are out of range.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(
            "images must be floats in [0, 1]; divide bytes by 255. "
            f"Received: images of dtype {images.dtype}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(
            "labels must be integer classes. "
            f"Received: labels of dtype {labels.dtype}"
        )
    if images.ndim < 2 or len(images) == 0 or labels.shape != images.shape[:1]:
        raise ValueError(
            "images must have shape (n, ...) and labels shape (n,), n >= 1. "
            f"Received: images {images.shape}, labels {labels.shape}"
        )
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            "images must lie in [0, 1]. "
            f"Received: values from {images.min()} to {images.max()}"
        )
    if labels.min() < 0:
        raise ValueError(
            f"labels must be >= 0. Received: labels from {labels.min()}"
        )
    return images.astype(np.float32), labels.astype(np.int64)
