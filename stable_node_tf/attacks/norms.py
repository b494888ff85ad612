"""The balls in which an attack may move an image."""

from typing import Any

import numpy as np
import tensorflow as tf


class MaxNorm:
    """The l-infinity norm of a whole image."""

    symbol = "ℓ∞"
    order = np.inf

    @staticmethod
    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """A uniform point of the unit ball, float32."""
        return rng.uniform(-1.0, 1.0, shape).astype(np.float32)

    @staticmethod
    def direction(gradient: Any) -> Any:
        """The steepest step of length 1 for each image."""
        return tf.sign(gradient)

    @staticmethod
    def project(offset: Any, epsilon: Any) -> Any:
        """The nearest offset in the ball of radius epsilon."""
        return tf.clip_by_value(offset, -epsilon, epsilon)

    @staticmethod
    def length(offset: Any) -> Any:
        """The norm for each image, shape (b, 1, ...)."""
        return tf.reduce_max(tf.abs(offset), _axes(offset), keepdims=True)

    @staticmethod
    def slope(gradient: Any) -> Any:
        """How much the steepest step of length 1 gains, shape (b, 1, ...)."""
        return tf.reduce_sum(tf.abs(gradient), _axes(gradient), keepdims=True)


class EuclideanNorm:
    """The 2-norm of a whole image."""

    symbol = "ℓ2"
    order = 2

    @staticmethod
    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """A uniform point of the unit ball, float32."""
        normal = rng.standard_normal(shape)
        radius = rng.uniform() ** (1.0 / normal.size)
        return (radius / np.linalg.norm(normal) * normal).astype(np.float32)

    @staticmethod
    def direction(gradient: Any) -> Any:
        """The steepest step of length 1 for each image."""
        # Scaled first, so that squares of tiny gradients do not underflow.
        largest = MaxNorm.length(gradient)
        scaled = tf.math.divide_no_nan(gradient, largest)
        return tf.math.divide_no_nan(scaled, EuclideanNorm.length(scaled))

    @staticmethod
    def project(offset: Any, epsilon: Any) -> Any:
        """The nearest offset in the ball of radius epsilon."""
        shrunk = tf.math.divide_no_nan(epsilon, EuclideanNorm.length(offset))
        return offset * tf.minimum(1.0, shrunk)

    @staticmethod
    def length(offset: Any) -> Any:
        """The norm for each image, shape (b, 1, ...)."""
        squares = tf.reduce_sum(tf.square(offset), _axes(offset), keepdims=True)
        return tf.sqrt(squares)

    @staticmethod
    def slope(gradient: Any) -> Any:
        """How much the steepest step of length 1 gains, shape (b, 1, ...)."""
        return EuclideanNorm.length(gradient)


def _axes(x: Any) -> list[int]:
    """All but the first."""
    return list(range(1, x.shape.rank))


NORMS: dict[str, type[MaxNorm] | type[EuclideanNorm]] = {
    "linf": MaxNorm,
    "l2": EuclideanNorm,
}
