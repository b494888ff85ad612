"""Keras constraint: a budget of the spectral norm of a kernel."""

from typing import Any

import keras
import tensorflow as tf

from stable_node_tf.checks import check_positive
from stable_node_tf.constraints.kernels import AVERAGE_MARGIN, check_kernel
from stable_node_tf.read_only_settings import ReadOnlySettings
from stable_node_tf.stability.clipping.singular_values import (
    clip_singular_values,
    smallest_limit,
)


@keras.saving.register_keras_serializable(package="stable_node_tf")
class SpectralNormConstraint(ReadOnlySettings, keras.constraints.Constraint):
    """Keeps the spectral norm of a kernel below a budget.

    It clips singular values, that is, it returns the nearest kernel in the
    Frobenius norm with spectral norm at most `max_norm`. A bound on A alone
    lets training move the gain into the layers around it; budgets close that
    door.

    Kernels are matrices, those of `Dense` and `Embedding` for example, or
    vectors. The norm of a convolution is not that of its kernel, however
    reshaped: kernels with more dimensions are refused.

    Args:
      max_norm: positive and finite.

    >>> kernel = SpectralNormConstraint(1.0)(tf.constant([[3.0, 0.0]]))
    >>> bool(0.999 < kernel[0, 0] <= 1.0)
    True
    """

    def __init__(self, max_norm: float) -> None:
        self.max_norm = check_positive(max_norm, "max_norm")

    def __call__(self, w):
        """Returns the clipped kernel, or `w` itself with NaN or infinity."""
        kernel = tf.convert_to_tensor(w)
        if (kernel.shape.rank or 0) > 2:
            raise ValueError(
                "The kernel of a `SpectralNormConstraint` must be a matrix or "
                "a vector: the norm of a convolution is not that of its "
                f"reshaped kernel. Received: shape {kernel.shape}"
            )
        proper = bool(kernel.shape.rank)
        check_kernel("SpectralNormConstraint", "not scalar", proper, kernel)
        least = smallest_limit(kernel.dtype)
        if self.max_norm < least:
            raise ValueError(
                f"`max_norm` must be at least {least:.3g} for kernels of "
                f"{kernel.dtype.name}. Received: max_norm={self.max_norm}"
            )
        limit = min(self.max_norm, kernel.dtype.max)
        matrix = tf.reshape(kernel, [-1, kernel.shape[-1]])
        wide = matrix.shape[0] < matrix.shape[1]
        if wide:
            matrix = tf.transpose(matrix)
        clipped = clip_singular_values(matrix, limit).matrix
        if wide:
            clipped = tf.transpose(clipped)
        return tf.reshape(clipped, kernel.shape)

    def constrain_average(self, average, average_of) -> None:
        """Moves an average of kernels inside, by more than rounding."""
        del average_of
        kernel = self(average)
        average.assign(kernel * (1.0 - AVERAGE_MARGIN))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {"max_norm": self.max_norm}
