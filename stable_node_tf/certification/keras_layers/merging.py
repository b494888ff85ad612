"""Rules for layers that merge several tensors."""

import math
from typing import Any

import keras
import numpy as np

from stable_node_tf.certification.forward_rounding import Computed
from stable_node_tf.certification.rules import (
    Shape,
    check_axis,
    register_rule,
)
from stable_node_tf.model_graph.graph import title
from stable_node_tf.stability.rounding import relative_rounding

layers = keras.layers


def _check_shapes(layer: Any, shapes: list[Shape]) -> None:
    if len(set(shapes)) != 1:
        raise ValueError(
            "Layers that merge tensors in a certified model must be given "
            f"tensors of one shape. Received: {title(layer)} with inputs of "
            f"shapes {shapes}"
        )


def _sum(layer: Any, bounds: list[float], shapes: list[Shape]) -> float:
    """Σ L_i, by the triangle inequality."""
    _check_shapes(layer, shapes)
    return sum(bounds) * _above(len(bounds))


def _mean(layer: Any, bounds: list[float], shapes: list[Shape]) -> float:
    return _sum(layer, bounds, shapes) / len(bounds) * _above(1)


def _stacked(layer: Any, bounds: list[float], shapes: list[Shape]) -> float:
    """√Σ L_i²: squares of norms add up."""
    return math.hypot(*bounds) * _above(len(bounds) + 4)


def _concatenated(
    layer: Any, bounds: list[float], shapes: list[Shape]
) -> float:
    check_axis(layer, layer.axis, shapes[0])
    return _stacked(layer, bounds, shapes)


def _extreme(layer: Any, bounds: list[float], shapes: list[Shape]) -> float:
    """√Σ L_i²: |max_i a_i - max_i b_i| <= max_i |a_i - b_i| in every entry."""
    _check_shapes(layer, shapes)
    return _stacked(layer, bounds, shapes)


def _above(operations: int) -> float:
    return 1.0 + relative_rounding(operations + 2)


def _after_sum(
    layer: Any, states: list[Computed], unit: float, shapes: list[Shape]
) -> Computed:
    """Sums of n numbers, in any order, and perhaps a division by n."""
    size = np.sum([state.size for state in states], axis=0)
    error = np.sum([state.error for state in states], axis=0)
    local = 1.01 * (len(states) + 1) * unit * size
    return Computed(size + local, error + local)


def _after_stacking(
    layer: Any, states: list[Computed], unit: float, shapes: list[Shape]
) -> Computed:
    """√Σ(c_i + f_i s)² <= √Σc_i² + s√Σf_i²."""
    return Computed(
        np.linalg.norm([state.size for state in states], axis=0),
        np.linalg.norm([state.error for state in states], axis=0),
    )


for _type, _combine, _rounding in (
    (layers.Add, _sum, _after_sum),
    (layers.Subtract, _sum, _after_sum),
    (layers.Average, _mean, _after_sum),
    (layers.Concatenate, _concatenated, _after_stacking),
    (layers.Maximum, _extreme, _after_stacking),
    (layers.Minimum, _extreme, _after_stacking),
):
    register_rule(_type, combine=_combine, rounding=_rounding)
