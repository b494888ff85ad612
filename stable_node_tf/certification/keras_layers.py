"""Rules of certification for layers of Keras."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.certification.forward_rounding import Computed, after_dense
from stable_node_tf.certification.rules import register_rule, with_activation
from stable_node_tf.model_graph.graph import title
from stable_node_tf.stability.lipschitz import spectral_norm_bound

# They move numbers, and change none.
MOVES = (
    keras.layers.InputLayer,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Dropout,
)


def affine(layer: keras.layers.Dense) -> tuple[np.ndarray, np.ndarray]:
    """Returns W and b of a dense layer, float64.

    Raises:
      ValueError: naming the layer, if it computes anything but xW + b.
    """
    activation = layer.activation
    if activation is not keras.activations.linear or layer.quantization_mode:
        raise ValueError(
            f"No Lipschitz constant is known for {title(layer)}"
            f"{with_activation(layer)}. Expected: Dense without activation or "
            "quantization"
        )
    kernel = keras.ops.convert_to_numpy(layer.kernel).astype(np.float64)
    if layer.bias is None:
        return kernel, np.zeros(kernel.shape[1])
    return kernel, keras.ops.convert_to_numpy(layer.bias).astype(np.float64)


def _after_dense(
    layer: Any, state: Computed, unit: float, shape: tuple[int, ...]
) -> Computed:
    return after_dense(state, *affine(layer), unit, math.prod(shape[:-1]))


def _move(layer: Any) -> float:
    if isinstance(layer, keras.layers.InputLayer) and (
        not tf.as_dtype(layer.dtype).is_floating
    ):
        raise ValueError(
            f"A certified model must not round. Received: {title(layer)}, "
            f"which casts to {layer.dtype}"
        )
    return 1.0


for _moves in MOVES:
    register_rule(
        _moves,
        lipschitz=_move,
        rounding=lambda layer, state, unit, shape: state,
    )
register_rule(
    keras.layers.Dense,
    lipschitz=lambda layer: spectral_norm_bound(affine(layer)[0]),
    rounding=_after_dense,
)
