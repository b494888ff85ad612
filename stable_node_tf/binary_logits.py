"""Classifiers of two classes that have a single logit."""

from typing import Any

import tensorflow as tf


def class_logits(logits: Any) -> tf.Tensor:
    """One logit for each class: a single one, z, stands for (0, z).

    Softmax then makes sigmoid(z) the probability of class 1, and the largest
    logit is that of class 1 where z > 0, of class 0 where z <= 0.

    Args:
      logits: of shape (n, K), K >= 1.

    Returns:
      Tensor of shape (n, max(K, 2)).

    >>> class_logits([[-3.0], [2.0]]).numpy().tolist()
    [[0.0, -3.0], [0.0, 2.0]]
    """
    logits = tf.convert_to_tensor(logits)
    if logits.shape[-1] != 1:
        return logits
    return tf.concat([tf.zeros_like(logits), logits], axis=-1)
