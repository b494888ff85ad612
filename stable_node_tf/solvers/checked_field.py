"""A vector field whose answers are refused where they do not fit the state."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def checked_field(ode_fn: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `ode_fn` with a check of each derivative that it returns.

    Solvers broadcast: a derivative of another shape could be a wrong answer.

    >>> checked_field(lambda t, u: u[:1])(0.0, tf.ones(2))
    Traceback (most recent call last):
    ...
    ValueError: `ode_fn` must return the structure, shape and dtype of the ...
    """

    def checked(time, state, **constants):
        derivative = ode_fn(time, state, **constants)
        try:
            if tf.is_tensor(state):
                return _fitting(state, derivative)
            return tf.nest.map_structure(_fitting, state, derivative)
        except (TypeError, ValueError) as error:
            raise ValueError(
                "`ode_fn` must return the structure, shape and dtype of the "
                f"state. Received: {_described(derivative)} for a state that "
                f"is {_described(state)}"
            ) from error

    return checked


def is_self_contained(ode_fn: Callable[..., Any]) -> bool:
    """Whether a field closes over no tensor and treats each row alone.

    Such a field says so itself, and equals every other field that computes the
    same. Then one trace serves all solves, and rows may be added to a batch.
    """
    return getattr(ode_fn, "self_contained", False)


def _fitting(state, derivative):
    derivative = tf.convert_to_tensor(derivative, dtype_hint=state.dtype)
    if derivative.dtype != state.dtype or not (
        derivative.shape.is_compatible_with(state.shape)
    ):
        raise ValueError
    return derivative


def _described(value):
    if isinstance(value, dict | list | tuple):
        return repr(tf.nest.map_structure(_described, value))
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"a {tf.as_dtype(value.dtype).name} of shape {value.shape}"
    return repr(value)
