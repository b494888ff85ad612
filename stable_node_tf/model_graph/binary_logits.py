"""Classifiers of two classes that have a single logit."""

from typing import Any

import tensorflow as tf


def class_logits(logits: Any) -> tf.Tensor:
    """One logit for each class: a single one, z, stands for (0, z).

    Softmax then makes sigmoid(z) the probability of class 1, and the largest
    logit is that of class 1 where z > 0, of class 0 where z <= 0.

    K in their shape (n, K) need not be known when traced.

    >>> class_logits([[-3.0], [2.0]]).numpy().tolist()
    [[0.0, -3.0], [0.0, 2.0]]
    """
    logits = tf.convert_to_tensor(logits)
    if logits.shape[1] not in (1, None):
        return logits
    batch, classes = tf.unstack(tf.shape(logits))
    missing = tf.cast(tf.equal(classes, 1), tf.int32)
    zeros = tf.zeros(tf.stack([batch, missing]), logits.dtype)
    known = logits.shape[:1] + [2 if logits.shape[1] == 1 else None]
    return tf.ensure_shape(tf.concat([zeros, logits], axis=1), known)
