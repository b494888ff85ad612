"""Rules for layers that move numbers, repeat or drop them, and change none."""

import math
from typing import Any

import keras
import tensorflow as tf

from stable_node_tf.certification import boxes
from stable_node_tf.certification.forward_rounding import Computed
from stable_node_tf.certification.rules import register_rule
from stable_node_tf.model_graph.graph import title

layers = keras.layers

# They keep every number, those for training included, see `certifier`.
MOVES = (
    layers.InputLayer,
    layers.Flatten,
    layers.Reshape,
    layers.Permute,
    layers.Identity,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.ActivityRegularization,
)
_PADS_OR_CROPS = (
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
)


def _move(layer: Any) -> float:
    if isinstance(layer, layers.InputLayer) and (
        not tf.as_dtype(layer.dtype).is_floating
    ):
        raise ValueError(
            f"A certified model must not round. Received: {title(layer)}, "
            f"which casts to {layer.dtype}"
        )
    return 1.0


def _repeats(layer: Any) -> float:
    """√n where every number comes n times."""
    if isinstance(layer, layers.RepeatVector):
        return _root_above(layer.n)
    if getattr(layer, "interpolation", "nearest") != "nearest":
        raise ValueError(
            "UpSampling in a certified model must repeat numbers. Received: "
            f"{title(layer)} with interpolation={layer.interpolation!r}"
        )
    size = (layer.size,) if isinstance(layer.size, int) else layer.size
    return _root_above(math.prod(size))


def _root_above(count: int) -> float:
    return math.nextafter(math.sqrt(count), math.inf)


def _after_repeats(
    layer: Any, state: Computed, unit: float, shape: tuple[int, ...]
) -> Computed:
    factor = _repeats(layer)
    return Computed(factor * state.size, factor * state.error)


def _moved(layer: Any, box: boxes.Box) -> boxes.Box:
    _move(layer)
    if isinstance(layer, layers.InputLayer):
        return box
    return boxes.moved(box, layer.call)


def _repeated(layer: Any, box: boxes.Box) -> boxes.Box:
    _repeats(layer)
    return boxes.moved(box, layer.call)


for _type in MOVES + _PADS_OR_CROPS:
    register_rule(
        _type,
        lipschitz=_move,
        rounding=lambda layer, state, unit, shape: state,
        box=_moved,
    )
for _type in (
    layers.RepeatVector,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
):
    register_rule(
        _type, lipschitz=_repeats, rounding=_after_repeats, box=_repeated
    )
