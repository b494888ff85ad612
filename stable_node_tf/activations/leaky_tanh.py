"""A leaky tanh."""

import keras
import tensorflow as tf

from stable_node_tf.activations.activation import Activation


@keras.saving.register_keras_serializable(package="stable_node_tf")
class LeakyTanh(Activation, proven=True):
    """`alpha * x + (1 - alpha) * tanh(x)`: smooth, odd, slope in [alpha, 1].

    The slope is 1 at the origin and tends to `alpha` at infinity.

    Args:
      alpha: smallest slope, in (0, 1].

    >>> round(float(LeakyTanh(alpha=0.5)(tf.constant(2.0))), 4)
    1.482
    """

    name = "leaky_tanh"

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the activation of every entry of `x`."""
        return self.value_and_slope(x)[0]

    def value_and_slope(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the activation of every entry of `x`, and its slope."""
        x = tf.convert_to_tensor(x)
        alpha, rest = (
            tf.constant(weight, x.dtype)
            for weight in (self.alpha, 1.0 - self.alpha)
        )
        bent = tf.tanh(x)
        return alpha * x + rest * bent, 1.0 - rest * tf.square(bent)

    def slope_bounds(
        self, lower: tf.Tensor, upper: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Bounds of all slopes between two tensors: they fall with |x|."""
        farthest = tf.maximum(tf.abs(lower), tf.abs(upper))
        nearest = tf.nn.relu(tf.maximum(lower, -upper))
        smallest, largest = (
            self.value_and_slope(x)[1] for x in (farthest, nearest)
        )
        return smallest, largest
