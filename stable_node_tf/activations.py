"""Activations whose slope is known to stay in [alpha, 1].

The slope bounds are what turns the worst-case logarithmic norm of the weight
matrix into a statement about the flow of u' = sigma(Au + b).
"""

import types
from collections.abc import Callable
from typing import Any, get_args

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.checks import check_alpha
from stable_node_tf.deserialization import rebuilt
from stable_node_tf.operation_errors import reason
from stable_node_tf.read_only_settings import ReadOnlySettings

_PACKAGE = "stable_node_tf"
_SLOPE_TOLERANCE = 1e-9


@keras.saving.register_keras_serializable(package=_PACKAGE)
class LeakyTanh(ReadOnlySettings):
    """`alpha * x + (1 - alpha) * tanh(x)`: smooth, odd, slope in [alpha, 1].

    The slope is 1 at the origin and tends to `alpha` at infinity. A call maps
    a float tensor of any shape and dtype to one of the same shape and dtype.

    Args:
      alpha: smallest slope, in (0, 1].

    Raises:
      TypeError: if `alpha` is not a real number.
      ValueError: if `alpha` lies outside (0, 1].

    >>> round(float(LeakyTanh(alpha=0.5)(tf.constant(2.0))), 4)
    1.482
    """

    def __init__(self, alpha: float = 0.1) -> None:
        """See the class."""
        self.alpha = check_alpha(alpha)

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

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {"alpha": self.alpha}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LeakyTanh":
        """Builds the activation that `get_config` described."""
        return cls(**config)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class SmoothLeakyReLU(ReadOnlySettings):
    """The smoothed leaky ReLU of the literature, slope in [alpha, 1].

    With z >= 0 the solution of tanh'(z) = alpha, it is

        x                           for x >= 0,
        tanh(x)                     for -z <= x < 0,
        alpha * (x + z) - tanh(z)   for x < -z,

    continuously differentiable, with a jump of the second derivative at -z
    only. A call maps a float tensor of any shape and dtype to one of the same
    shape and dtype. Gradients are exact at the joints as well.

    Source: Guglielmi, De Marinis, Savostianov, Tudisco, arXiv 2402.13092;
    De Marinis, Guglielmi, Sicilia, Tudisco, arXiv 2501.10740.

    Args:
      alpha: smallest slope, in (0, 1].

    Raises:
      TypeError: if `alpha` is not a real number.
      ValueError: if `alpha` lies outside (0, 1].

    >>> x = tf.constant([-10.0, -1.0, 0.0, 2.0], tf.float64)
    >>> SmoothLeakyReLU(alpha=0.1)(x).numpy().round(4).tolist()
    [-1.7668, -0.7616, 0.0, 2.0]
    """

    def __init__(self, alpha: float = 0.1) -> None:
        """See the class."""
        self.alpha = check_alpha(alpha)
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

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {"alpha": self.alpha}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SmoothLeakyReLU":
        """Builds the activation that `get_config` described."""
        return cls(**config)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class CustomActivation(ReadOnlySettings):
    """A function of one's own together with its slope bound `alpha`.

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
    ValueError: the slope of `function` must stay in [alpha, 1]. Received: ...
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
        self.alpha = check_alpha(alpha)
        self.function = function
        _check_slopes(function, self.alpha)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the activation of every entry of `x`."""
        return self.function(tf.convert_to_tensor(x))

    def value_and_slope(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the activation of every entry of `x`, and its slope."""
        x = tf.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = self.function(x)
        return y, tape.gradient(y, x)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, the function by its Keras name.

        Raises:
          ValueError: if the function could not be found again on loading,
            because it is a lambda or is not registered with Keras.
        """
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


Activation = LeakyTanh | SmoothLeakyReLU | CustomActivation

_BY_NAME: dict[str, type[LeakyTanh] | type[SmoothLeakyReLU]] = {
    "leaky_tanh": LeakyTanh,
    "smooth_leaky_relu": SmoothLeakyReLU,
}


def get(identifier: str | dict[str, Any] | Activation) -> Activation:
    """Returns the activation that `identifier` stands for.

    Args:
      identifier: "leaky_tanh" or "smooth_leaky_relu" (both with alpha = 0.1),
        an activation of this module, which passes through, or what
        `keras.saving.serialize_keras_object` made of one.

    Raises:
      ValueError: if the name is not known, or a dictionary describes nothing.
      TypeError: if it is, or describes, anything else, an object of a subclass
        for instance. Nothing is known of its slopes, nor of those of a plain
        function: wrap it in `CustomActivation(function, alpha)`.

    >>> get("leaky_tanh").alpha
    0.1
    """
    activation: Any = identifier
    if isinstance(identifier, str):
        if identifier not in _BY_NAME:
            raise ValueError(_refusal(identifier, _keras_function(identifier)))
        return _BY_NAME[identifier]()
    if isinstance(identifier, dict):
        activation = rebuilt("activation", identifier)
    if type(activation) not in get_args(Activation):
        raise TypeError(_refusal(identifier, activation))
    return activation


def _keras_function(name: str) -> Any:
    """Keras's activation of that name, or None."""
    try:
        return keras.activations.get(name)
    except ValueError:
        return None


def _refusal(identifier: Any, function: Any) -> str:
    """Says which activations there are, and why this is none of them."""
    said = (
        "`activation` must be 'leaky_tanh' or LeakyTanh(alpha), "
        "'smooth_leaky_relu' or SmoothLeakyReLU(alpha), or "
        "CustomActivation(function, alpha) of a function whose slopes stay in "
        f"[alpha, 1], alpha > 0. Received: activation={identifier!r}"
    )
    if isinstance(function, get_args(Activation)) or not callable(function):
        return said
    try:
        slopes, _ = _slopes(function, tf.constant(_grid()))
    except (TypeError, ValueError):  # of what is not elementwise, say
        return said
    smallest, largest = float(np.min(slopes)), float(np.max(slopes))
    said += f", whose slopes go from {smallest:.4g} to {largest:.4g}"
    if 1e-6 < smallest and largest <= 1.0 + _SLOPE_TOLERANCE:
        return said + ": wrap it in a CustomActivation"
    if smallest >= -_SLOPE_TOLERANCE and largest <= 1.0 + _SLOPE_TOLERANCE:
        return said + ": no alpha > 0 bounds them from below"
    return said + ": they leave [alpha, 1]"


def _grid() -> np.ndarray:
    tail = np.geomspace(10.0, 1e6, 10_001)[1:]
    near = np.arange(-20_000, 20_001) / 2000
    return np.concatenate([-tail[::-1], near, tail])


def _check_slopes(
    function: Callable[[tf.Tensor], tf.Tensor], alpha: float
) -> None:
    points = _grid()
    slopes, values = _slopes(function, tf.constant(points))
    _refuse_slopes(points, slopes, alpha, 0.0)
    steps = np.diff(points)
    rounding = 8 * np.finfo(np.float64).eps * np.abs(values)
    _refuse_slopes(
        (points[1:] + points[:-1]) / 2,
        np.diff(values) / steps,
        alpha,
        (rounding[1:] + rounding[:-1]) / steps,
    )


def _slopes(
    function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and values of an elementwise function; refuses any other."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        try:
            y = tf.convert_to_tensor(function(x))
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(
                "`function` must accept tensors of any float dtype, float64 to "
                f"begin with. Received: function={function!r}, which says: "
                f"{reason(error)}"
            ) from error
    slopes = tape.gradient(y, x)
    if (
        slopes is None
        or y.shape != x.shape
        or y.dtype != x.dtype
        or not np.allclose(function(x[::7]), y[::7], 1e-9, equal_nan=True)
    ):
        raise ValueError(
            "`function` must be elementwise and differentiable, and keep "
            f"shape and dtype. Received: function={function!r}"
        )
    return slopes.numpy(), y.numpy()


def _refuse_slopes(
    points: np.ndarray,
    slopes: np.ndarray,
    alpha: float,
    rounding: np.ndarray | float,
) -> None:
    excess = np.maximum(alpha - slopes, slopes - 1.0) - rounding
    wrong = ~(excess <= _SLOPE_TOLERANCE)
    if np.any(wrong):
        worst = np.argmax(
            np.where(wrong, np.nan_to_num(excess, nan=np.inf), -1)
        )
        raise ValueError(
            "the slope of `function` must stay in [alpha, 1]. Received: "
            f"alpha={alpha}, and a function with slope {slopes[worst]:.6g} "
            f"at x={points[worst]:.6g}"
        )


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
