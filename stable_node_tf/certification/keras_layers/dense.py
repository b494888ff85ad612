"""Rules for dense layers, and the read-out among them."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.certification import boxes
from stable_node_tf.certification.activations import (
    activation_box,
    activation_lipschitz,
    after_activation,
)
from stable_node_tf.certification.forward_rounding import Computed, after_dense
from stable_node_tf.certification.keras_layers.numbers import float64
from stable_node_tf.certification.rules import register_rule, with_activation
from stable_node_tf.model_graph.graph import title
from stable_node_tf.stability.lipschitz import (
    network_lipschitz,
    spectral_norm_bound,
)


def linear_readout(
    layer: keras.layers.Dense,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns W and b of a dense layer without activation, float64.

    Raises:
      ValueError: naming the layer, if it computes anything but xW + b.
    """
    if layer.activation is not keras.activations.linear:
        raise ValueError(
            "A certified model must end with logits. Received: "
            f"{title(layer)}{with_activation(layer)} at its end"
        )
    return _affine(layer)


def _affine(layer: keras.layers.Dense) -> tuple[np.ndarray, np.ndarray]:
    """Returns W and b of a dense layer, float64."""
    _check_not_quantized(layer)
    kernel = float64(layer.kernel)
    if layer.bias is None:
        return kernel, np.zeros(kernel.shape[1])
    return kernel, float64(layer.bias)


def _check_not_quantized(layer: keras.layers.Dense) -> None:
    if layer.quantization_mode:
        raise ValueError(
            f"No Lipschitz constant is known for {title(layer)}. Expected: "
            "Dense without quantization"
        )


def _lipschitz(layer: keras.layers.Dense) -> float:
    return network_lipschitz(
        spectral_norm_bound(_affine(layer)[0]), activation_lipschitz(layer)
    )


def _after(
    layer: Any, state: Computed, unit: float, shape: tuple[int, ...]
) -> Computed | None:
    positions = math.prod(shape[:-1])
    state = after_dense(state, *_affine(layer), unit, positions)
    return after_activation(layer.activation, state, unit)


def _box(layer: Any, box: boxes.Box) -> boxes.Box:
    _check_not_quantized(layer)
    kernel, bias = tf.cast(layer.kernel, box.center.dtype), layer.bias
    box = boxes.affine(
        box,
        lambda x: keras.ops.matmul(x, kernel),
        lambda x: keras.ops.matmul(x, tf.abs(kernel)),
        None if bias is None else tf.cast(bias, kernel.dtype),
        kernel.shape[0],
    )
    return activation_box(layer, box)


register_rule(
    keras.layers.Dense, lipschitz=_lipschitz, rounding=_after, box=_box
)
