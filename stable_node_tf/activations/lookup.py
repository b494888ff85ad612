"""Activations from names, configurations and objects."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.activations.activation import BY_NAME, Activation
from stable_node_tf.activations.slopes import (
    SLOPE_TOLERANCE,
    grid,
    slopes_and_values,
)
from stable_node_tf.deserialization import rebuilt


def get(identifier: str | dict[str, Any] | Activation) -> Activation:
    """Returns the activation that `identifier` stands for.

    Args:
      identifier: "leaky_tanh" or "smooth_leaky_relu" (both with alpha = 0.1),
        or another class's `name`; an `Activation`, which passes through once
        its slopes are proven or measured; or what
        `keras.saving.serialize_keras_object` made of one.

    Raises:
      ValueError: if the name is not known, a dictionary describes nothing, or a
        slope was found outside [alpha, 1].
      TypeError: if it is, or describes, anything else, a plain function say.

    >>> get("leaky_tanh").alpha
    0.1
    """
    activation: Any = identifier
    if isinstance(identifier, str):
        if identifier not in BY_NAME:
            raise ValueError(_refusal(identifier, _keras_function(identifier)))
        activation = BY_NAME[identifier]()
    if isinstance(identifier, dict):
        activation = rebuilt("activation", identifier)
    if not isinstance(activation, Activation):
        raise TypeError(_refusal(identifier, activation))
    activation.check_slopes()
    return activation


def _keras_function(name: str) -> Any:
    """Keras's activation of that name, or None."""
    try:
        return keras.activations.get(name)
    except ValueError:
        return None


def _refusal(identifier: Any, function: Any) -> str:
    """Says which activations there are, and why this is none of them."""
    known = ", ".join(
        f"{name!r} or {cls.__name__}(alpha)"
        for name, cls in sorted(BY_NAME.items())
    )
    said = (
        f"`activation` must be {known}, or CustomActivation(function, alpha) "
        "of a function whose slopes stay in [alpha, 1], alpha > 0. Received: "
        f"activation={identifier!r}"
    )
    if not callable(function):
        return said
    try:
        slopes, _ = slopes_and_values(function, tf.constant(grid()))
    except (TypeError, ValueError):  # not elementwise, say
        return said
    smallest, largest = float(np.min(slopes)), float(np.max(slopes))
    said += f", whose slopes go from {smallest:.4g} to {largest:.4g}"
    if 1e-6 < smallest and largest <= 1.0 + SLOPE_TOLERANCE:
        return said + ": wrap it in a CustomActivation"
    if smallest >= -SLOPE_TOLERANCE and largest <= 1.0 + SLOPE_TOLERANCE:
        return said + ": no alpha > 0 bounds them from below"
    return said + ": they leave [alpha, 1]"
