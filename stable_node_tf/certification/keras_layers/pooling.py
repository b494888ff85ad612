"""Rules for pooling."""

import math
from typing import Any

import keras
import numpy as np

from stable_node_tf.certification import boxes
from stable_node_tf.certification.forward_rounding import Computed
from stable_node_tf.certification.rules import (
    Shape,
    check_one_input,
    register_rule,
)
from stable_node_tf.stability.lipschitz import (
    network_lipschitz,
    spectral_norm_bound,
)

layers = keras.layers


def _max_pooling(layer: Any) -> float:
    """√n if a number is in at most n windows.

    Σ_W |max x_W - max y_W|² <= Σ_W |x_W - y_W|² <= n |x - y|².
    """
    overlap = math.prod(
        math.ceil(pool / stride)
        for pool, stride in zip(layer.pool_size, layer.strides, strict=True)
    )
    return math.nextafter(math.sqrt(overlap), math.inf)


def _after_max_pooling(
    layer: Any, state: Computed, unit: float, shape: Shape
) -> Computed:
    factor = _max_pooling(layer)
    return Computed(factor * state.size, factor * state.error)


def _average_pooling(
    layer: Any, bounds: list[float], shapes: list[Shape]
) -> float:
    """Means along one axis after the other: their norms multiply."""
    check_one_input(layer, bounds)
    return network_lipschitz(
        *bounds,
        *(
            spectral_norm_bound(_means(length, pool, stride, layer.padding))
            for length, pool, stride in zip(
                _spatial(layer, shapes[0]),
                layer.pool_size,
                layer.strides,
                strict=True,
            )
        ),
    )


def _means(length: int, pool: int, stride: int, padding: str) -> np.ndarray:
    """The matrix of average pooling along one axis; padding is not counted."""
    if padding == "valid":
        count, before = (length - pool) // stride + 1, 0
    else:
        count = -(-length // stride)
        before = max((count - 1) * stride + pool - length, 0) // 2
    starts = np.arange(count)[:, None] * stride - before
    places = np.arange(length)
    windows = (starts <= places) & (places < starts + pool)
    return windows / windows.sum(axis=1, keepdims=True)


def _global_average(
    layer: Any, bounds: list[float], shapes: list[Shape]
) -> float:
    """1/√n for the mean of n numbers."""
    check_one_input(layer, bounds)
    count = math.prod(_spatial(layer, shapes[0]))
    return network_lipschitz(*bounds, 1.0 / math.sqrt(count))


def _spatial(layer: Any, shape: Shape) -> Shape:
    last = layer.data_format == "channels_last"
    return shape[:-1] if last else shape[1:]


def _max_box(layer: Any, box: boxes.Box) -> boxes.Box:
    return boxes.by_ends([box], layer.call)


def _mean_box(layer: Any, inputs: list[boxes.Box]) -> boxes.Box:
    """Sums, in whatever order, of as many numbers as a window has."""
    check_one_input(layer, inputs)
    sizes = getattr(layer, "pool_size", None)
    if sizes is None:
        sizes = _spatial(layer, tuple(inputs[0].center.shape[1:]))
    terms = math.prod(sizes) + 2
    return boxes.affine(inputs[0], layer.call, layer.call, None, terms)


for _type in (
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
):
    register_rule(
        _type,
        lipschitz=_max_pooling,
        rounding=_after_max_pooling,
        box=_max_box,
    )
for _type in (
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
):
    register_rule(_type, combine=_average_pooling, box=_mean_box)
for _type in (
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
):
    register_rule(_type, combine=_global_average, box=_mean_box)
for _type in (
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
):
    register_rule(
        _type,
        lipschitz=lambda layer: 1.0,
        rounding=lambda layer, state, unit, shape: state,
        box=_max_box,
    )
