"""What a gradient attack increases: functions of logits and true labels."""

from typing import Any

import tensorflow as tf


def log_odds(logits: Any, labels: Any) -> Any:
    """Logarithm of (1 - p_y) / p_y, which has the gradient of CE, rescaled.

    With CE = -log p_y, the gradient of CE is 1 - p_y times that of the log
    odds: the same direction, hence the same sign. In float32 the factor 1 - p_y
    rounds to 0 for confident answers, which would leave them unattacked.

    Args:
        logits: floats (b, classes).
        labels: the true classes y, integers (b,).

    Returns:
        Tensor of shape (b,).

    Example:
        >>> log_odds(tf.constant([[0.0, 100.0]]), [1]).numpy().tolist()
        [-100.0]
    """
    logits = tf.convert_to_tensor(logits)
    own = _own(logits, labels)
    others = tf.where(own, logits.dtype.min, logits)
    return tf.reduce_logsumexp(others, -1) - _chosen(logits, own)


def margin(logits: Any, labels: Any) -> Any:
    """The largest rival logit minus the logit of the true class.

    Positive where the answer is wrong. This is the loss f of Carlini, Wagner
    (2017), arXiv 1608.04644, section V, without its ceiling.

    Args:
        logits: floats (b, classes).
        labels: the true classes, integers (b,).

    Returns:
        Tensor of shape (b,).

    Example:
        >>> margin(tf.constant([[3.0, 5.0, 1.0]]), [1]).numpy().tolist()
        [-2.0]
    """
    logits = tf.convert_to_tensor(logits)
    own = _own(logits, labels)
    others = tf.where(own, logits.dtype.min, logits)
    return tf.reduce_max(others, -1) - _chosen(logits, own)


def logits_ratio(logits: Any, labels: Any) -> Any:
    """The difference of logits ratio: `margin` over the spread of the logits.

    With the logits z sorted downwards as z_1 >= z_2 >= z_3 >= ..., it is
    `margin` / (z_1 - z_3), which does not change when logits are shifted or
    scaled: Croce, Hein (2020), arXiv 2003.01690, equation 6. It is 1, without
    any gradient, where the true class is third.

    Args:
        logits: floats (b, classes), at least three classes.
        labels: the true classes, integers (b,).

    Returns:
        Tensor of shape (b,).

    Raises:
        ValueError: if there are fewer than three classes.

    Example:
        >>> logits_ratio(tf.constant([[3.0, 5.0, 1.0]]), [1]).numpy().tolist()
        [-0.5]
    """
    logits = tf.convert_to_tensor(logits)
    classes = logits.shape[-1]
    if classes is not None and classes < 3:
        raise ValueError(
            "loss='dlr' needs at least three classes. "
            f"Received: logits of {classes} classes, a single logit counting "
            "as two"
        )
    largest = tf.math.top_k(logits, 3).values
    spread = largest[:, 0] - largest[:, 2]
    return margin(logits, labels) / tf.maximum(spread, 1e-12)


def _own(logits: Any, labels: Any) -> Any:
    return tf.one_hot(labels, tf.shape(logits)[1], True, False, dtype=tf.bool)


def _chosen(logits: Any, own: Any) -> Any:
    return tf.reduce_sum(tf.where(own, logits, tf.zeros_like(logits)), -1)
