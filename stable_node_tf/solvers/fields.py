"""The vector fields of layers: one dense layer, or several."""

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class LayerField:
    """(t, u, kernel=A, bias=b) -> σ(u Aᵀ + b) for rows u.

    Explicit fixed grids are differentiated by a reverse sweep written out by
    hand, and implicit ones take `jacobian`. σ is an `activations.Activation`.

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
        return self.activation(_affine(state, kernel, bias))

    def jacobian(
        self, time: Any, state: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
    ) -> tf.Tensor:
        """Returns D A for each row, (batch, d, d), D the slopes of σ."""
        affine = _affine(state, kernel, bias)
        _, slopes = self.activation.value_and_slope(affine)
        return slopes[..., tf.newaxis] * kernel


@dataclasses.dataclass(frozen=True)
class DeepField:
    """(t, u, A_i, b_i) -> σ(A_k σ(⋯ σ(A_1 u + b_1) ⋯) + b_k) - cu.

    The weights are passed by the names kernel_1, bias_1, kernel_2 and so on;
    c is the damping, not negative. Implicit solvers take `jacobian`.

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
        """Names the weights A_1, ..., A_k and b_1, ..., b_k for a call."""
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
        value = state
        for kernel, bias in _layers(weights):
            value = self.activation(_affine(value, kernel, bias))
        return value - self.damping * state if self.damping else value

    def jacobian(
        self, time: Any, state: tf.Tensor, **weights: tf.Tensor
    ) -> tf.Tensor:
        """Returns D_k A_k ⋯ D_1 A_1 - cI for each row, (batch, d, d)."""
        value = state
        product = eye = tf.eye(state.shape[-1], dtype=state.dtype)
        for kernel, bias in _layers(weights):
            affine = _affine(value, kernel, bias)
            value, slopes = self.activation.value_and_slope(affine)
            product = slopes[..., tf.newaxis] * tf.matmul(kernel, product)
        return product - self.damping * eye


def _layers(weights):
    return [
        (weights[f"kernel_{index}"], weights[f"bias_{index}"])
        for index in range(1, len(weights) // 2 + 1)
    ]


def _affine(state, kernel, bias):
    return tf.nn.bias_add(tf.matmul(state, kernel, transpose_b=True), bias)
