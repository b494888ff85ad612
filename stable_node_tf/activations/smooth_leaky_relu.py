"""The smoothed leaky ReLU of the literature."""

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.activations.activation import Activation


@keras.saving.register_keras_serializable(package="stable_node_tf")
class SmoothLeakyReLU(Activation, proven=True):
    """The smoothed leaky ReLU of the literature, slope in [alpha, 1].

    With z >= 0 the solution of tanh'(z) = alpha, it is

        x                           for x >= 0,
        tanh(x)                     for -z <= x < 0,
        alpha * (x + z) - tanh(z)   for x < -z,

    continuously differentiable, with a jump of the second derivative at -z
    only.
    Gradients are exact at the joints as well.

    Source: Guglielmi, De Marinis, Savostianov, Tudisco, arXiv 2402.13092;
    De Marinis, Guglielmi, Sicilia, Tudisco, arXiv 2501.10740.

    Args:
      alpha: smallest slope, in (0, 1].

    >>> x = tf.constant([-10.0, -1.0, 0.0, 2.0], tf.float64)
    >>> SmoothLeakyReLU(alpha=0.1)(x).numpy().round(4).tolist()
    [-1.7668, -0.7616, 0.0, 2.0]
    """

    name = "smooth_leaky_relu"

    def __init__(self, alpha: float = 0.1) -> None:
        """See the class."""
        super().__init__(alpha)
        self._joint = -float(np.arctanh(np.sqrt(1.0 - self.alpha)))

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the activation of every entry of `x`."""
        return self.value_and_slope(x)[0]

    def value_and_slope(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the activation of every entry of `x`, and its slope."""
        x = tf.convert_to_tensor(x)
        joint = tf.constant(self._joint, x.dtype)
        bent = tf.tanh(tf.maximum(x, joint))
        # The line continues tanh below the joint; x exceeds both above 0 only.
        line = tf.constant(self.alpha, x.dtype) * tf.nn.relu(joint - x)
        return tf.maximum(x, bent - line), 1.0 - tf.square(tf.minimum(bent, 0))

    def slope_bounds(
        self, lower: tf.Tensor, upper: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Bounds of all slopes between two tensors: they rise with x."""
        smallest, largest = (self.value_and_slope(x)[1] for x in (lower, upper))
        return smallest, largest
