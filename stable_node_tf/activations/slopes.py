"""Measures the slopes of a function: it can refute a bound, not prove one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from stable_node_tf.operation_errors import reason

SLOPE_TOLERANCE = 1e-9


def grid() -> np.ndarray:
    """Returns 60 000 points of [-1e6, 1e6], dense near the origin."""
    tail = np.geomspace(10.0, 1e6, 10_001)[1:]
    near = np.arange(-20_000, 20_001) / 2000
    return np.concatenate([-tail[::-1], near, tail])


def slopes_and_values(
    function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Returns slopes and values of an elementwise function, or refuses it."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        try:
            y = tf.convert_to_tensor(function(x))
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(
                "An activation must accept tensors of any float dtype, float64 "
                f"to begin with. Received: {function!r}, which says: "
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
            "An activation must be elementwise and differentiable, and keep "
            f"shape and dtype. Received: {function!r}"
        )
    return slopes.numpy(), y.numpy()


def check_slopes(activation: Any) -> None:
    """Raises a ValueError if a slope on the grid leaves [alpha, 1].

    Slopes are evaluated in float64, by automatic differentiation, by
    difference quotients and by `value_and_slope`.
    """
    points = grid()
    slopes, values = slopes_and_values(activation, tf.constant(points))
    _refuse(activation, points, slopes, 0.0)
    steps = np.diff(points)
    rounding = 8 * np.finfo(np.float64).eps * np.abs(values)
    _refuse(
        activation,
        (points[1:] + points[:-1]) / 2,
        np.diff(values) / steps,
        (rounding[1:] + rounding[:-1]) / steps,
    )
    pair = activation.value_and_slope(tf.constant(points))
    if not np.allclose(pair, (values, slopes), 1e-6):
        raise ValueError(
            "`value_and_slope` must return the value and the slope of the "
            f"activation. Received: others, of {activation!r}"
        )


def _refuse(activation, points, slopes, rounding):
    alpha = activation.alpha
    excess = np.maximum(alpha - slopes, slopes - 1.0) - rounding
    wrong = ~(excess <= SLOPE_TOLERANCE)
    if np.any(wrong):
        worst = np.argmax(
            np.where(wrong, np.nan_to_num(excess, nan=np.inf), -1)
        )
        raise ValueError(
            "The slopes of an activation must stay in [alpha, 1]. Received: "
            f"{activation!r} with slope {slopes[worst]:.6g} "
            f"at x={points[worst]:.6g}"
        )
