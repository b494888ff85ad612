"""Keras constraint: a budget of the spectral norm of a layer."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from stable_node_tf.checks import check_count, check_positive
from stable_node_tf.constraints.kernels import AVERAGE_MARGIN, check_kernel
from stable_node_tf.read_only_settings import ReadOnlySettings
from stable_node_tf.stability.clipping.convolution import clip_convolution
from stable_node_tf.stability.clipping.singular_values import (
    clip_singular_values,
    smallest_limit,
)


@keras.saving.register_keras_serializable(package="stable_node_tf")
class SpectralNormConstraint(ReadOnlySettings, keras.constraints.Constraint):
    """Keeps the spectral norm of a layer below a budget.

    A bound on A alone lets training move the gain into the layers around it;
    budgets close that door.

    Kernels of `Dense` and `Embedding`, matrices or vectors, have their singular
    values clipped: they become the nearest kernels in the Frobenius norm whose
    spectral norm is at most `max_norm`.

    Kernels with more dimensions are those of convolutions, of shape
    (k_1, ..., k_d, c, c'). The norm is that of the operator, on images of every
    size and however padded, and the bound of `certified_radii` is at most
    `max_norm`. They end near the nearest, see `clip_convolution`. The budget
    holds as well for dilated, grouped, depthwise and transposed convolutions
    with such a kernel; that of depthwise and grouped ones is then smaller than
    it might be.

    Args:
      max_norm: positive and finite.
      strides: those of the convolution, one or one for each axis. A budget for
        1 holds for all others, which may have a smaller norm.

    >>> kernel = SpectralNormConstraint(1.0)(tf.constant([[3.0, 0.0]]))
    >>> bool(0.999 < kernel[0, 0] <= 1.0)
    True
    >>> layer = keras.layers.Conv2D(
    ...     8, 3, kernel_constraint=SpectralNormConstraint(1.0)
    ... )
    """

    def __init__(
        self, max_norm: float, strides: int | Sequence[int] = 1
    ) -> None:
        self.max_norm = check_positive(max_norm, "max_norm")
        self.strides = (
            tuple(check_count(stride, "strides") for stride in strides)
            if isinstance(strides, Sequence)
            else check_count(strides, "strides")
        )

    def __call__(self, w):
        """Returns the clipped kernel, or `w` itself with NaN or infinity."""
        kernel = tf.convert_to_tensor(w)
        proper = bool(kernel.shape.rank)
        check_kernel("SpectralNormConstraint", "not scalar", proper, kernel)
        least = smallest_limit(kernel.dtype)
        if self.max_norm < least:
            raise ValueError(
                f"`max_norm` must be at least {least:.3g} for kernels of "
                f"{kernel.dtype.name}. Received: max_norm={self.max_norm}"
            )
        limit = min(self.max_norm, kernel.dtype.max)
        axes = kernel.shape.rank - 2
        if axes > 0:
            if isinstance(self.strides, tuple) and len(self.strides) != axes:
                raise ValueError(
                    "`strides` must be one number, or one for each axis of the "
                    f"convolution. Received: strides={self.strides} for a "
                    f"kernel of shape {kernel.shape}"
                )
            return clip_convolution(kernel, limit, self.strides)
        matrix = tf.reshape(kernel, [-1, kernel.shape[-1]])
        return tf.reshape(
            clip_singular_values(matrix, limit).matrix, kernel.shape
        )

    def constrain_average(self, average, average_of) -> None:
        """Moves an average of kernels inside, by more than rounding."""
        del average_of
        kernel = self(average)
        average.assign(kernel * (1.0 - AVERAGE_MARGIN))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {"max_norm": self.max_norm, "strides": self.strides}
