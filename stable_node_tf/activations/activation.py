"""The base of all activations: slopes that stay in [alpha, 1]."""

import inspect
from typing import Any, ClassVar

import tensorflow as tf

from stable_node_tf.activations.slopes import check_slopes
from stable_node_tf.checks import check_alpha
from stable_node_tf.named_classes import register
from stable_node_tf.read_only_settings import ReadOnlySettings

BY_NAME: dict[str, type["Activation"]] = {}
"""Name -> class, for those that declare a `name`."""


class Activation(ReadOnlySettings, settings=("alpha", "name", "proven")):
    """An elementwise function whose slopes stay in [alpha, 1], alpha > 0.

    The slope bounds are what turns the worst-case logarithmic norm of the
    weight matrix into a statement about the flow of u' = σ(Au + b).

    To make your own, override `__call__` and, if the slope is cheaper by hand,
    `value_and_slope`. `get`, and with it every layer, then measures the slopes
    as `CustomActivation` does, which can refute `alpha` but not prove it. To be
    saved, the class must be registered with Keras. With a class attribute
    `name` it is known to `get` by that name.

    The class keyword `proven=True` claims of this very class, not of its
    subclasses, that the slopes are proven and that rounding is bounded as
    docs/theory.md assumes, and so do the `slope_bounds`.

    Args:
      alpha: smallest slope, in (0, 1].

    Raises:
      TypeError: if `alpha` is not a real number.
      ValueError: if `alpha` lies outside (0, 1].

    >>> class Wavy(Activation):
    ...     def __call__(self, x):
    ...         return x - (1 - self.alpha) * tf.sin(x) / 2
    >>> Wavy(0.6).check_slopes()
    Traceback (most recent call last):
    ...
    ValueError: The slopes of an activation must stay in [alpha, 1]. Received...
    """

    proven: ClassVar[bool] = False

    def __init_subclass__(cls, proven: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.proven = proven
        register(cls, BY_NAME)

    def __init__(self, alpha: float = 0.1) -> None:
        self.alpha = check_alpha(alpha)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the activation of every entry of `x`, float of any dtype."""
        raise NotImplementedError

    def value_and_slope(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the activation of every entry of `x`, and its slope."""
        x = tf.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = self(x)
        return y, tape.gradient(y, x)

    def slope_bounds(
        self, lower: tf.Tensor, upper: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Bounds of all slopes between two tensors, from below and above.

        They are those everywhere, unless a class with `proven=True` knows
        better: boxes are then tighter, see `certification.boxes`.
        """
        return tf.fill(tf.shape(lower), tf.constant(self.alpha, lower.dtype)), (
            tf.ones_like(lower)
        )

    def check_slopes(self) -> None:
        """Raises a ValueError if a slope is found that is not in [alpha, 1]."""
        if not (self.proven or "_checked" in vars(self)):
            check_slopes(self)
            self._checked = True

    def __repr__(self) -> str:
        arguments = inspect.signature(type(self)).parameters
        shown = ", ".join(
            f"{name}={getattr(self, name)!r}" for name in arguments
        )
        return f"{type(self).__name__}({shown})"

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {"alpha": self.alpha}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Activation":
        """Builds the activation that `get_config` described."""
        return cls(**config)
