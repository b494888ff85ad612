"""Rules for activations that are layers."""

from typing import Any

import keras
import tensorflow as tf

from stable_node_tf.certification import boxes
from stable_node_tf.certification.activations import (
    activation_box,
    activation_lipschitz,
    after_activation,
    function_lipschitz,
)
from stable_node_tf.certification.keras_layers.numbers import float64
from stable_node_tf.certification.rules import (
    Shape,
    check_axis,
    check_one_input,
    layer_lipschitz,
    register_rule,
)
from stable_node_tf.stability.lipschitz import network_lipschitz

functions, layers = keras.activations, keras.layers


def _box(roundings: int | None) -> Any:
    """Of a layer without weights whose function may turn at 0."""

    def box_rule(layer: Any, box: boxes.Box) -> boxes.Box:
        lipschitz = layer_lipschitz(layer)
        return boxes.elementwise(box, layer.call, (0.0,), lipschitz, roundings)

    return box_rule


def _prelu(layer: Any) -> float:
    slopes = float64(layer.alpha)
    return max(1.0, float(abs(slopes).max(initial=0.0)))


def _prelu_box(layer: Any, box: boxes.Box) -> boxes.Box:
    slopes = tf.cast(layer.alpha, box.center.dtype)

    def function(x):
        return tf.nn.relu(x) - slopes * tf.nn.relu(-x)

    steep = tf.maximum(tf.reduce_max(tf.abs(slopes)), 1.0)
    return boxes.elementwise(box, function, (0.0,), steep, None)


def _relu(layer: Any) -> float:
    return function_lipschitz(
        functions.relu,
        negative_slope=layer.negative_slope,
        max_value=layer.max_value,
        threshold=layer.threshold,
    )


def _softmax(layer: Any, bounds: list[float], shapes: list[Shape]) -> float:
    check_one_input(layer, bounds)
    check_axis(layer, layer.axis, shapes[0])
    return network_lipschitz(*bounds, function_lipschitz(functions.softmax))


register_rule(
    layers.Activation,
    lipschitz=activation_lipschitz,
    rounding=lambda layer, state, unit, shape: after_activation(
        layer.activation, state, unit
    ),
    box=activation_box,
)
register_rule(layers.PReLU, lipschitz=_prelu, box=_prelu_box)
register_rule(
    layers.ReLU,
    lipschitz=_relu,
    rounding=lambda layer, state, unit, shape: (
        after_activation(functions.relu, state, unit)
        if layer.negative_slope == 0.0
        else None
    ),
    box=_box(roundings=2),
)
register_rule(
    layers.LeakyReLU,
    lipschitz=lambda layer: function_lipschitz(
        functions.leaky_relu, negative_slope=layer.negative_slope
    ),
    box=_box(roundings=2),
)
register_rule(
    layers.ELU,
    lipschitz=lambda layer: function_lipschitz(
        functions.elu, alpha=layer.alpha
    ),
    box=_box(roundings=None),
)
register_rule(layers.Softmax, combine=_softmax)
