"""The vector field of one dense layer, u' = σ(A u + b)."""

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class LayerField:
    """(t, u, kernel=A, bias=b) -> σ(u Aᵀ + b) for rows u.

    Solvers use what they know about it: explicit fixed grids are
    differentiated by a reverse sweep written out by hand, implicit ones take
    `jacobian`.

    Args:
      activation: σ, with `value_and_slope` as the ones of
        `stable_node_tf.activations`.

    >>> from stable_node_tf.activations import LeakyTanh
    >>> field = LayerField(LeakyTanh(0.5))
    >>> u = tf.constant([[1.0, 2.0]])
    >>> field(0.0, u, kernel=tf.zeros((2, 2)), bias=tf.zeros(2)).numpy()
    array([[0., 0.]], dtype=float32)
    """

    self_contained: ClassVar[bool] = True

    activation: Any

    def __call__(
        self, time: Any, state: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
    ) -> tf.Tensor:
        """Returns the derivative of `state`, (batch, d), at any time."""
        del time
        return self.activation(_affine(state, kernel, bias))

    def jacobian(
        self, time: Any, state: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
    ) -> tf.Tensor:
        """Returns D A for each row, (batch, d, d), D the slopes of σ."""
        del time
        _, slopes = self.activation.value_and_slope(
            _affine(state, kernel, bias)
        )
        return slopes[..., tf.newaxis] * kernel


def _affine(state: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    return tf.nn.bias_add(tf.matmul(state, kernel, transpose_b=True), bias)
