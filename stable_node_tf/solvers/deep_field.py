"""The vector field of several dense layers."""

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class DeepField:
    """(t, u, A_i, b_i) -> σ(A_k σ(⋯ σ(A_1 u + b_1) ⋯) + b_k) - cu.

    The weights are passed by the names kernel_1, bias_1, kernel_2 and so on.
    Gradients are those of automatic differentiation; implicit solvers take
    `jacobian`.

    Args:
      activation: σ, see `stable_node_tf.activations`.
      damping: c >= 0.

    >>> from stable_node_tf.activations import LeakyTanh
    >>> field, eye = DeepField(LeakyTanh(1.0), 0.5), tf.eye(1)
    >>> weights = DeepField.constants([2 * eye, 3 * eye], [tf.zeros(1)] * 2)
    >>> field(0.0, tf.ones((1, 1)), **weights).numpy()
    array([[5.5]], dtype=float32)
    """

    self_contained: ClassVar[bool] = True

    activation: Any
    damping: float = 0.0

    @staticmethod
    def constants(kernels: Any, biases: Any) -> dict[str, tf.Tensor]:
        """Names the weights for a call.

        Args:
          kernels: A_1, ..., A_k.
          biases: b_1, ..., b_k.
        """
        named = {}
        for index, pair in enumerate(zip(kernels, biases, strict=True), 1):
            named[f"kernel_{index}"], named[f"bias_{index}"] = map(
                tf.convert_to_tensor, pair
            )
        return named

    def __call__(
        self, time: Any, state: tf.Tensor, **weights: tf.Tensor
    ) -> tf.Tensor:
        """Returns the derivative of `state`, (batch, d), at any time."""
        del time
        value = state
        for kernel, bias in _layers(weights):
            value = self.activation(_affine(value, kernel, bias))
        return value - self.damping * state if self.damping else value

    def jacobian(
        self, time: Any, state: tf.Tensor, **weights: tf.Tensor
    ) -> tf.Tensor:
        """Returns D_k A_k ⋯ D_1 A_1 - cI for each row, (batch, d, d)."""
        del time
        value = state
        product = tf.eye(state.shape[-1], dtype=state.dtype)
        for kernel, bias in _layers(weights):
            value, slopes = self.activation.value_and_slope(
                _affine(value, kernel, bias)
            )
            product = slopes[..., tf.newaxis] * tf.matmul(kernel, product)
        eye = tf.eye(state.shape[-1], dtype=state.dtype)
        return product - self.damping * eye


def _layers(weights: dict[str, tf.Tensor]) -> list[tuple[Any, Any]]:
    return [
        (weights[f"kernel_{index}"], weights[f"bias_{index}"])
        for index in range(1, len(weights) // 2 + 1)
    ]


def _affine(state: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    return tf.nn.bias_add(tf.matmul(state, kernel, transpose_b=True), bias)
