"""Rules for layers that scale and shift, and reasons where there is none."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.certification import boxes
from stable_node_tf.certification.forward_rounding import Computed
from stable_node_tf.certification.keras_layers.numbers import float64
from stable_node_tf.certification.rules import register_rule
from stable_node_tf.model_graph.graph import title
from stable_node_tf.stability.rounding import relative_rounding

layers = keras.layers
_ABOVE = 1.0 + relative_rounding(8)


def _batch_normalization(layer: Any) -> float:
    """The largest |γ| / √(variance + ε), a constant at inference."""
    gamma = float64(layer.gamma) if layer.scale else np.ones(1)
    return _largest(gamma / _deviation(layer))


def _deviation(layer: Any) -> np.ndarray:
    return np.sqrt(float64(layer.moving_variance) + layer.epsilon)


def _after_batch_normalization(
    layer: Any, state: Computed, unit: float, shape: tuple[int, ...]
) -> Computed:
    """Of x f + (β - μf), with a factor f that is right to 12 roundings."""
    mean = np.abs(float64(layer.moving_mean))
    gamma = np.abs(float64(layer.gamma)) if layer.scale else 1.0
    shift = mean * gamma / _deviation(layer)
    if layer.center:
        shift = shift + np.abs(float64(layer.beta))
    positions = math.prod(shape) / len(mean)
    shift = math.sqrt(positions) * np.linalg.norm(shift) * _ABOVE
    factor = _batch_normalization(layer)
    size = factor * state.size + np.array([shift, 0.0])
    local = 17 * unit * size
    return Computed(size + local, factor * state.error + local)


def _normalization(layer: Any) -> float:
    deviation = np.maximum(
        np.sqrt(float64(layer.variance)), keras.config.epsilon()
    )
    return _largest(deviation if layer.invert else 1.0 / deviation)


def _rescaling(layer: Any) -> float:
    return _largest(_cast(layer.scale, layer))


def _after_rescaling(
    layer: Any, state: Computed, unit: float, shape: tuple[int, ...]
) -> Computed:
    """One product and one sum in every entry."""
    scale, offset = _rescaling(layer), _cast(layer.offset, layer)
    shift = np.array([_largest(offset) * math.sqrt(math.prod(shape)), 0.0])
    size = scale * state.size + shift
    local = 2.02 * unit * size
    return Computed(size + local, scale * state.error + local)


def _batch_box(layer: Any, box: boxes.Box) -> boxes.Box:
    """In real arithmetic, as its rounding is not bounded."""
    dtype = box.center.dtype
    places = [1] * box.center.shape.rank
    places[layer.axis] = -1
    mean, variance, gamma, beta = (
        tf.reshape(tf.cast(weight, dtype), places)
        for weight in (
            layer.moving_mean,
            layer.moving_variance,
            layer.gamma if layer.scale else [1.0],
            layer.beta if layer.center else [0.0],
        )
    )
    factor = gamma / tf.sqrt(variance + layer.epsilon)
    box = boxes.scaled(box._replace(unit=0.0), 1.0, -mean)
    return boxes.scaled(box, factor, beta)


def _normalization_box(layer: Any, box: boxes.Box) -> boxes.Box:
    """In real arithmetic, as its rounding is not bounded."""
    dtype = box.center.dtype
    mean = tf.cast(layer.mean, dtype)
    deviation = tf.maximum(
        tf.sqrt(tf.cast(layer.variance, dtype)), keras.config.epsilon()
    )
    box = box._replace(unit=0.0)
    if layer.invert:
        return boxes.scaled(box, deviation, mean)
    box = boxes.scaled(box, 1.0, -mean)
    return boxes.scaled(box, 1.0 / deviation, 0.0)


def _rescaling_box(layer: Any, box: boxes.Box) -> boxes.Box:
    scale, offset = (
        keras.ops.cast(numbers, layer.compute_dtype)
        for numbers in (layer.scale, layer.offset)
    )
    return boxes.scaled(box, scale, offset)


def _refuses(reason: str) -> Any:
    def refuse(layer: Any) -> float:
        raise ValueError(
            f"No Lipschitz constant is known for {title(layer)}: {reason}"
        )

    return refuse


def _cast(values: Any, layer: Any) -> np.ndarray:
    """As the layer computes with them."""
    return float64(keras.ops.cast(values, layer.compute_dtype))


def _largest(factors: np.ndarray) -> float:
    return float(np.abs(factors).max() * _ABOVE)


register_rule(
    layers.BatchNormalization,
    lipschitz=_batch_normalization,
    rounding=_after_batch_normalization,
    box=_batch_box,
)
register_rule(
    layers.Normalization, lipschitz=_normalization, box=_normalization_box
)
register_rule(
    layers.Rescaling,
    lipschitz=_rescaling,
    rounding=_after_rescaling,
    box=_rescaling_box,
)
for _type in (
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.RMSNormalization,
    layers.UnitNormalization,
):
    register_rule(
        _type,
        lipschitz=_refuses(
            "it divides by the size of its own input, and is as steep as "
            "that is small. BatchNormalization divides by a constant"
        ),
    )
for _type in (layers.Multiply, layers.Dot):
    register_rule(
        _type,
        lipschitz=_refuses(
            "it multiplies inputs, whose product is as steep as they are large"
        ),
    )
