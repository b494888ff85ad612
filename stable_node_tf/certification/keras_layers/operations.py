"""Rules for `keras.ops` in a functional model: x + y, 2 * x, keras.ops.relu.

Their types have no public names; each is that of a call of its function.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.certification import boxes
from stable_node_tf.certification.activations import (
    after_activation,
    box_after_function,
    function_lipschitz,
    registered_functions,
)
from stable_node_tf.certification.forward_rounding import Computed
from stable_node_tf.certification.keras_layers.numbers import float64
from stable_node_tf.certification.rules import (
    Shape,
    check_axis,
    check_one_input,
    register_rule,
    rule_of,
)
from stable_node_tf.model_graph.graph import title
from stable_node_tf.stability.lipschitz import network_lipschitz

functions, layers, ops = keras.activations, keras.layers, keras.ops


def _type_of(function: Callable[..., Any], *arguments: Any) -> Any:
    return type(function(*arguments)._keras_history.operation)


def _check_constant(operation: Any, constant: Any, shape: Shape) -> None:
    """Raises unless it is broadcast to a tensor of that shape, not beyond."""
    try:
        kept = np.broadcast_shapes(np.shape(constant), (1, *shape))
    except ValueError:
        kept = None
    if kept != (1, *shape):
        raise ValueError(
            "A constant in a certified model must not repeat what it is "
            f"combined with, of shape {shape}. Received: {title(operation)} "
            f"with a constant of shape {np.shape(constant)}"
        )


def _like(layer: Any) -> dict[str, Any]:
    """The rule of a layer for f(x, y); f(x, c) and f(c, x) have it, too."""
    rule: Any = rule_of(layer)

    def combine(
        operation: Any, bounds: Any, shapes: Any, **constants: Any
    ) -> float:
        for constant in constants.values():
            _check_constant(operation, constant, shapes[0])
        return rule.combine(operation, bounds, shapes)

    def rounding(
        operation: Any, states: Any, unit: float, shapes: Any, **constants: Any
    ) -> Computed | None:
        if constants:
            return None
        return rule.rounding(operation, states, unit, shapes)

    return {"combine": combine, "rounding": rounding, "box": rule.box}


def _scaled(
    operation: Any,
    bounds: list[float],
    shapes: list[Shape],
    x1: Any = None,
    x2: Any = None,
) -> float:
    """The largest |c| of the factors c."""
    constant = x2 if x1 is None else x1
    if constant is None:
        raise ValueError(
            f"No Lipschitz constant is known for {title(operation)}: it "
            "multiplies tensors, whose product is as steep as they are large"
        )
    _check_constant(operation, constant, shapes[0])
    largest = float(np.abs(float64(constant)).max())
    return network_lipschitz(*bounds, largest)


def _divided(
    operation: Any, bounds: list[float], shapes: list[Shape], x2: Any = None
) -> float:
    if x2 is None:
        raise ValueError(
            f"No Lipschitz constant is known for {title(operation)}: it "
            "divides by a tensor, and is as steep as that is small"
        )
    _check_constant(operation, x2, shapes[0])
    least = float(np.abs(float64(x2)).min())
    return network_lipschitz(*bounds, 1.0 / least if least else math.inf)


def _after_factors(
    operation: Any, states: Any, unit: float, shapes: Any, **constants: Any
) -> Computed:
    """The factor is rounded, and so is the product."""
    combine = _scaled if type(operation) is _MULTIPLY else _divided
    factor = combine(operation, [1.0], shapes, **constants)
    size, error = factor * states[0].size, factor * states[0].error
    return Computed(size * (1.0 + 4 * unit), error + 4 * unit * size)


def _activation(
    operation: Any, bounds: list[float], shapes: list[Shape]
) -> float:
    check_one_input(operation, bounds)
    function, parameters = _applied(operation)
    if "axis" in parameters:
        check_axis(operation, parameters["axis"], shapes[0])
    return network_lipschitz(
        *bounds, function_lipschitz(function, **parameters)
    )


def _after(
    operation: Any, states: Any, unit: float, shapes: Any
) -> Computed | None:
    function, parameters = _applied(operation)
    return None if parameters else after_activation(function, states[0], unit)


def _box(operation: Any, inputs: list[boxes.Box]) -> boxes.Box:
    check_one_input(operation, inputs)
    function, parameters = _applied(operation)
    applied = functools.partial(function, **parameters)
    return box_after_function(
        operation, applied if parameters else function, inputs[0]
    )


def _applied(operation: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    """An activation function, and its parameters other than the defaults."""
    function = _FUNCTIONS[type(operation)]
    return function, {
        name: getattr(operation, name)
        for name, parameter in inspect.signature(function).parameters.items()
        if getattr(operation, name, parameter.default) != parameter.default
        or name == "axis"
    }


def _moved(
    operation: Any, bounds: list[float], shapes: list[Shape], **options: Any
) -> float:
    """√n where a number comes up to n times.

    Where each goes does not depend on them: it is asked by moving numbers that
    say where they have been, of three images.
    """
    check_one_input(operation, bounds)
    [shape] = shapes
    count = math.prod(shape)
    places = np.arange(1.0, 3 * count + 1.0).reshape(3, *shape)
    with tf.init_scope():
        moved = np.asarray(operation(tf.constant(places), **options))
    times = 0
    for image, kept in zip(places, moved, strict=False):
        found, counts = np.unique(kept, return_counts=True)
        if len(moved) != 3 or not np.isin(found, [0.0, *image.flat]).all():
            raise ValueError(
                "A certified model must not mix the images of a batch. "
                f"Received: {title(operation)}"
            )
        times = max(times, counts[found != 0.0].max(initial=0))
    return network_lipschitz(*bounds, math.sqrt(times))


def _after_moving(
    operation: Any, states: Any, unit: float, shapes: Any, **options: Any
) -> Computed:
    factor = _moved(operation, [1.0], shapes, **options)
    return Computed(factor * states[0].size, factor * states[0].error)


def _moved_box(operation: Any, inputs: list[boxes.Box]) -> boxes.Box:
    _moved(operation, [1.0], [tuple(inputs[0].center.shape[1:])])
    return boxes.moved(inputs[0], operation.call)


_X = keras.KerasTensor((None, 2))
_PAD = _type_of(ops.pad, _X, [[0, 0], [1, 1]])
_MULTIPLY = _type_of(ops.multiply, _X, _X)
_FUNCTIONS = {
    _type_of(getattr(ops, function.__name__), _X): function
    for function in registered_functions()
    if hasattr(ops, function.__name__)
} | {_type_of(functions.relu, _X): functions.relu}

for _type in _FUNCTIONS:
    register_rule(_type, combine=_activation, rounding=_after, box=_box)
for _function, _layer in (
    (ops.add, layers.Add()),
    (ops.subtract, layers.Subtract()),
    (ops.maximum, layers.Maximum()),
    (ops.minimum, layers.Minimum()),
):
    register_rule(
        _type_of(_function, _X, _X), options=("x1", "x2"), **_like(_layer)
    )
register_rule(
    _type_of(ops.concatenate, [_X, _X], -1), **_like(layers.Concatenate())
)
register_rule(
    _MULTIPLY, combine=_scaled, rounding=_after_factors, options=("x1", "x2")
)
register_rule(
    _type_of(ops.true_divide, _X, _X),
    combine=_divided,
    rounding=_after_factors,
    options=("x2",),
)
for _type in (
    _type_of(ops.negative, _X),
    _type_of(ops.absolute, _X),
    _type_of(ops.clip, _X, 0.0, 1.0),
):
    register_rule(
        _type,
        lipschitz=lambda operation: 1.0,
        rounding=lambda operation, state, unit, shape: state,
    )
for _type in (
    _type_of(ops.reshape, _X, (-1, 2, 1)),
    _type_of(ops.transpose, _X),
    _type_of(ops.swapaxes, _X, 0, 1),
    _type_of(ops.moveaxis, _X, 0, 1),
    _type_of(ops.flip, _X),
    _type_of(ops.expand_dims, _X, 1),
    _type_of(ops.squeeze, _X),
    _type_of(ops.get_item, _X, 0),
    _PAD,
    _type_of(ops.repeat, _X, 2),
):
    register_rule(
        _type,
        combine=_moved,
        rounding=_after_moving,
        options=("key",),
        # Its numbers may be others than 0.
        box=None if _type is _PAD else _moved_box,
    )
