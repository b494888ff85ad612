"""Rules for layers that merge several tensors."""

import functools
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.certification import boxes
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


def _shapes(inputs: list[boxes.Box]) -> list[Shape]:
    return [tuple(box.center.shape[1:]) for box in inputs]


def _linear_box(linear: Any, absolute: Any, roundings: int) -> Any:
    """Of n tensors along a last axis."""

    def box_rule(layer: Any, inputs: list[boxes.Box]) -> boxes.Box:
        _check_shapes(layer, _shapes(inputs))
        terms = len(inputs) + roundings
        return boxes.affine(
            boxes.stacked(inputs), linear, absolute, None, terms
        )

    return box_rule


def _sum_of(x: Any) -> Any:
    return tf.reduce_sum(x, -1)


def _difference_of(x: Any) -> Any:
    return x[..., 0] - x[..., 1]


def _mean_of(x: Any) -> Any:
    return tf.reduce_mean(x, -1)


def _concatenated_box(layer: Any, inputs: list[boxes.Box]) -> boxes.Box:
    check_axis(layer, layer.axis, _shapes(inputs)[0])
    return boxes.Box(
        layer.call([box.center for box in inputs]),
        layer.call([box.radius for box in inputs]),
        min(box.unit for box in inputs),
    )


def _extreme_box(extreme: Any) -> Any:
    def box_rule(layer: Any, inputs: list[boxes.Box]) -> boxes.Box:
        _check_shapes(layer, _shapes(inputs))
        return boxes.by_ends(
            inputs, lambda *ends: functools.reduce(extreme, ends)
        )

    return box_rule


for _type, _combine, _rounding, _box in (
    (layers.Add, _sum, _after_sum, _linear_box(_sum_of, _sum_of, 0)),
    (
        layers.Subtract,
        _sum,
        _after_sum,
        _linear_box(_difference_of, _sum_of, 0),
    ),
    (layers.Average, _mean, _after_sum, _linear_box(_mean_of, _mean_of, 2)),
    (layers.Concatenate, _concatenated, _after_stacking, _concatenated_box),
    (layers.Maximum, _extreme, _after_stacking, _extreme_box(tf.maximum)),
    (layers.Minimum, _extreme, _after_stacking, _extreme_box(tf.minimum)),
):
    register_rule(_type, combine=_combine, rounding=_rounding, box=_box)
