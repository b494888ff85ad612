"""What an attack increases: functions of the logits and the true labels."""

from typing import Any

import tensorflow as tf


def log_odds(logits: Any, labels: Any) -> Any:
    """Logarithm of (1 - p_y) / p_y: its gradient is that of CE, rescaled.

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
    own, others = _own_and_others(logits, labels)
    return tf.reduce_logsumexp(others, -1) - own


def cw(logits: Any, labels: Any) -> Any:
    """The largest rival logit minus the logit of the true class.

    Positive where the answer is wrong. This is the loss f of Carlini, Wagner
    (2017), arXiv 1608.04644, section V, without its ceiling. Arguments are
    those of `log_odds`.

    Example:
        >>> cw(tf.constant([[3.0, 5.0, 1.0]]), [1]).numpy().tolist()
        [-2.0]
    """
    own, others = _own_and_others(logits, labels)
    return tf.reduce_max(others, -1) - own


def dlr(logits: Any, labels: Any) -> Any:
    """The difference of logits ratio: `cw` over the spread of the logits.

    With the logits z sorted downwards as z_1 >= z_2 >= z_3 >= ..., it is
    `cw` / (z_1 - z_3), which does not change when logits are shifted or
    scaled: Croce, Hein (2020), arXiv 2003.01690, equation 6. Where the true
    class is third it is 1, and has no gradient. Arguments are those of
    `log_odds`.

    Raises:
        ValueError: if there are fewer than three classes.

    Example:
        >>> dlr(tf.constant([[3.0, 5.0, 1.0]]), [1]).numpy().tolist()
        [-0.5]
    """
    logits = tf.convert_to_tensor(logits)
    classes = logits.shape[-1]
    if classes is not None and classes < 3:
        raise ValueError(
            "loss='dlr' needs at least three classes. Received: logits of "
            f"{classes} classes, a single logit counting as two"
        )
    largest = tf.math.top_k(logits, 3).values
    spread = largest[:, 0] - largest[:, 2]
    return cw(logits, labels) / tf.maximum(spread, 1e-12)


def _own_and_others(logits: Any, labels: Any) -> tuple[Any, Any]:
    """The logit of the class in `labels`, and all logits without it."""
    logits = tf.convert_to_tensor(logits)
    mask = tf.one_hot(labels, tf.shape(logits)[1], True, False, dtype=tf.bool)
    own = tf.reduce_sum(tf.where(mask, logits, tf.zeros_like(logits)), -1)
    return own, tf.where(mask, logits.dtype.min, logits)


LOSSES = {"cross_entropy": log_odds, "cw": cw, "dlr": dlr}
