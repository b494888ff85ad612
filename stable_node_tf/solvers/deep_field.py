"""The vector field of several dense layers."""

from typing import Any

import tensorflow as tf


class DeepField:
    """(t, u, A_i, b_i) -> σ(A_k σ(⋯ σ(A_1 u + b_1) ⋯) + b_k) - cu.

    The weights are passed by the names kernel_1, bias_1, kernel_2 and so on.
    Gradients are those of automatic differentiation.

    Args:
      activation: σ, see `stable_node_tf.activations`.
      damping: c >= 0.

    >>> from stable_node_tf.activations import LeakyTanh
    >>> field, eye = DeepField(LeakyTanh(1.0), 0.5), tf.eye(1)
    >>> weights = DeepField.constants([2 * eye, 3 * eye], [tf.zeros(1)] * 2)
    >>> field(0.0, tf.ones((1, 1)), **weights).numpy()
    array([[5.5]], dtype=float32)
    """

    def __init__(self, activation: Any, damping: float = 0.0) -> None:
        self.activation = activation
        self.damping = damping

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
        for index in range(1, len(weights) // 2 + 1):
            value = tf.matmul(
                value, weights[f"kernel_{index}"], transpose_b=True
            )
            value = self.activation(
                tf.nn.bias_add(value, weights[f"bias_{index}"])
            )
        return value - self.damping * state if self.damping else value
