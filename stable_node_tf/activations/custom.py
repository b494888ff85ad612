"""A function of your own with the slope bound that you claim for it."""

import types
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from stable_node_tf.activations.activation import Activation


@keras.saving.register_keras_serializable(package="stable_node_tf")
class CustomActivation(Activation):
    """A function of your own together with its slope bound `alpha`.

    At construction the slope is evaluated in float64, by automatic
    differentiation and by difference quotients, on 60 000 points that cover
    [-1e6, 1e6], densely near the origin. This refutes a wrong bound; it cannot
    prove a right one, which remains the caller's claim.

    Args:
      function: elementwise function from a float tensor to one of the same
        shape and dtype, made of TensorFlow operations. To be saved it must
        be registered with `keras.saving.register_keras_serializable`.
      alpha: claimed smallest slope, in (0, 1]; the largest is 1.

    Raises:
      TypeError: if `function` is not callable, or `alpha` no real number.
      ValueError: if `alpha` lies outside (0, 1], if `function` does not keep
        shape and dtype or has no gradient, or if a slope was found that is
        not in [alpha, 1]; the message names the point and the slope.

    >>> half = CustomActivation(lambda x: x - tf.sin(x) / 2, alpha=0.5)
    Traceback (most recent call last):
    ...
    ValueError: The slopes of an activation must stay in [alpha, 1]. Received...
    >>> mild = CustomActivation(lambda x: 0.7 * x + tf.sin(x) / 5, alpha=0.5)
    >>> round(float(mild(tf.constant(1.0))), 4)
    0.8683
    """

    def __init__(
        self, function: Callable[[tf.Tensor], tf.Tensor], alpha: float
    ) -> None:
        """See the class."""
        if not callable(function):
            raise TypeError(
                f"`function` must be callable. Received: function={function!r}"
            )
        super().__init__(alpha)
        self.function = function
        self.check_slopes()

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the activation of every entry of `x`."""
        return self.function(tf.convert_to_tensor(x))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments; refuses unregistered functions."""
        return {
            "function": _serialize_function(self.function),
            "alpha": self.alpha,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CustomActivation":
        """Builds the activation that `get_config` described."""
        function = config["function"]
        if isinstance(function, dict | str):
            function = keras.saving.deserialize_keras_object(function)
        return cls(function, config["alpha"])


def _serialize_function(function: Callable[[tf.Tensor], tf.Tensor]) -> Any:
    advice = (
        "`function` must be found again when the activation is loaded. Define "
        "it with `def` and decorate it with "
        "`@keras.saving.register_keras_serializable(package=...)`. "
        f"Received: function={function!r}"
    )
    if isinstance(function, types.LambdaType) and (
        function.__name__ == "<lambda>"
    ):
        raise ValueError(advice)
    try:
        config = keras.saving.serialize_keras_object(function)
        found = keras.saving.deserialize_keras_object(config)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(advice) from error
    if isinstance(function, types.FunctionType) and found is not function:
        raise ValueError(advice)
    return config
