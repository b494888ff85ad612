"""NaN for what a solver failed to compute."""

import tensorflow as tf


def nan_where(failed: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Returns `values`, with NaN where `failed`, which is broadcast.

    No NaN arises where nothing failed: `tf.debugging.enable_check_numerics`
    would stop at a constant.

    >>> nan_where(tf.constant([False, True]), tf.ones(2)).numpy().tolist()
    [1.0, nan]
    """
    one = tf.ones((), values.dtype)
    return tf.where(failed, tf.sqrt(tf.where(failed, -one, one)), values)
