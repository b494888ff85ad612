"""What is known about each type of layer, by which models are certified.

Every layer registers its own rule, those of this package too. The module
imports no layers, so that each of them can import it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras

from stable_node_tf.certification.boxes import Box
from stable_node_tf.certification.forward_rounding import Computed
from stable_node_tf.model_graph.graph import title
from stable_node_tf.replaced_methods import replaced_methods
from stable_node_tf.stability.lipschitz import network_lipschitz

Shape = tuple[int, ...]
Combine = Callable[..., float]
Rounding = Callable[..., Computed | None]
BoxRule = Callable[[Any, Any], Box]


class Rule(NamedTuple):
    """See `register_rule`."""

    lipschitz: Callable[[Any], float] | None
    combine: Combine | None
    rounding: Rounding | None
    options: tuple[str, ...]
    box: BoxRule | None


_RULES: dict[type[keras.Operation], Rule] = {}


def register_rule(
    layer_type: type[keras.Operation],
    *,
    lipschitz: Callable[[Any], float] | None = None,
    combine: Combine | None = None,
    rounding: Rounding | None = None,
    options: tuple[str, ...] = (),
    box: BoxRule | None = None,
) -> None:
    """Says what is proven about the layers of a type.

    Models with such layers are then certified, exported ones included. The rule
    holds for that very type and not for its subclasses, which may compute
    anything, and only for instances none of whose methods was replaced.

    Args:
      layer_type: a subclass of `keras.layers.Layer`, or of `keras.Operation`
        for what `keras.ops` put into a functional model.
      lipschitz: takes a layer, with its weights as they are now, and returns a
        Lipschitz constant in the 2-norm over all entries of an input, in real
        arithmetic and inference mode. It may raise a ValueError that says why
        there is none.
      combine: instead of `lipschitz`, for layers with several inputs, or whose
        constant depends on the shape of an input. It takes the layer and, for
        each input, how it depends on that of the model, as a Lipschitz
        constant, and its shape without the batch; it returns the Lipschitz
        constant of the output with respect to the input of the model.
      rounding: bounds the rounding errors of a layer; without it, certificates
        hold in real arithmetic. It takes the layer, the `Computed` state before
        it, the unit roundoff u of its dtype and the shape of an input without
        the batch, and returns the state after it, or None if nothing is known.
        Beside `combine` it takes lists of states and of shapes.
      options: names of arguments of a call other than tensors, the numbers of
        a sum for example. `combine` and `rounding` take by name those that a
        call was given; a model with other ones is refused.
      box: for certificates in the ∞-norm: takes the layer and the
        `certification.boxes.Box` of its input, and returns that of its output,
        made by TensorFlow's operations. If the rounding errors of the layer are
        not inside, its `unit` must be 0.0. Beside `combine` it takes a list of
        boxes.

    Raises:
      TypeError: if `layer_type` is not a type of layer or operation.
      ValueError: unless either `lipschitz` or `combine` is given.

    >>> class Halved(keras.layers.Layer):
    ...     def call(self, inputs):
    ...         return inputs / 2.0
    >>> from stable_node_tf.certification import boxes
    >>> register_rule(
    ...     Halved,
    ...     lipschitz=lambda layer: 0.5,
    ...     box=lambda layer, box: boxes.scaled(box, 0.5, 0.0),
    ... )
    >>> logits = keras.layers.Dense(2, kernel_initializer="identity")
    >>> model = keras.Sequential([keras.Input((2,)), Halved(), logits])
    >>> from stable_node_tf import certified_radii
    >>> labels, radii = certified_radii(model, [[4.0, 0.0]])
    >>> labels, radii.round(3)  # the boundary is at distance √8
    (array([0]), array([2.828]))
    >>> _, radii = certified_radii(
    ...     model, [[4.0, 0.0]], norm="inf", bounds=None
    ... )
    >>> radii.round(2)
    array([2.])
    """
    if not (
        isinstance(layer_type, type) and issubclass(layer_type, keras.Operation)
    ):
        raise TypeError(
            "`layer_type` must be a subclass of keras.layers.Layer or "
            f"keras.Operation. Received: layer_type={layer_type!r}"
        )
    if (lipschitz is None) == (combine is None):
        raise ValueError(
            "Either `lipschitz` or `combine` must be given. "
            f"Received: lipschitz={lipschitz!r}, combine={combine!r}"
        )
    _RULES[layer_type] = Rule(lipschitz, combine, rounding, options, box)


def rule_of(layer: Any) -> Rule:
    """Returns the rule of the very type of a layer.

    Raises:
      ValueError: naming the layer, if there is none, or one of its methods was
        replaced.
    """
    if type(layer) not in _RULES:
        raise ValueError(
            f"No Lipschitz constant is known for {title(layer)}"
            f"{with_activation(layer)}. Expected: a layer whose type has a "
            "rule, see `stable_node_tf.certification.register_rule`"
        )
    replaced = replaced_methods(layer)
    if replaced:
        raise ValueError(
            "A certified model must compute what the types of its parts say. "
            f"Received: {title(layer)}, whose `{replaced[0]}` was replaced"
        )
    return _RULES[type(layer)]


def options_of(layer: Any) -> tuple[str, ...]:
    """The arguments of a call, other than tensors, that a rule understands."""
    rule = _RULES.get(type(layer))
    return rule.options if rule else ()


def layer_lipschitz(layer: Any) -> float:
    """Returns the Lipschitz constant that the rule of a layer knows.

    Raises:
      ValueError: naming the layer, if its type has no rule, one of its methods
        was replaced, or the rule finds no constant.
    """
    lipschitz = rule_of(layer).lipschitz
    if lipschitz is None:
        raise ValueError(
            f"The Lipschitz constant of {title(layer)} depends on its inputs"
        )
    return _checked(layer, lipschitz(layer))


def lipschitz_after(
    layer: Any, bounds: list[float], shapes: list[Shape], **options: Any
) -> float:
    """Lipschitz constant of an output, given those of the layer's inputs.

    `options` are those of `register_rule` that the call was given.

    Raises:
      ValueError: see `layer_lipschitz`; also if a layer for one tensor is
        given several.
    """
    combine = rule_of(layer).combine
    if combine is not None:
        return _checked(layer, combine(layer, bounds, shapes, **options))
    check_one_input(layer, bounds)
    return network_lipschitz(bounds[0], layer_lipschitz(layer))


def after_layer(
    layer: Any,
    states: Sequence[Computed | None],
    unit: float,
    shapes: list[Shape],
    **options: Any,
) -> Computed | None:
    """Returns the state after a layer; None where rounding is not bounded."""
    rule = rule_of(layer)
    if rule.rounding is None or any(state is None for state in states):
        return None
    if rule.combine is not None:
        return rule.rounding(layer, states, unit, shapes, **options)
    return rule.rounding(layer, states[0], unit, shapes[0])


def box_after(layer: Any, boxes: list[Box], **options: Any) -> Box:
    """The box of what a layer answers, given those of its inputs.

    Raises:
      ValueError: naming the layer, if its type has no rule for boxes, or the
        call was given other arguments than tensors; see `rule_of` too.
    """
    rule = rule_of(layer)
    if options:
        raise ValueError(
            f"Nothing is known in the ∞-norm about {title(layer)} with other "
            f"arguments than tensors. Received: {', '.join(options)}"
        )
    if rule.box is None:
        raise ValueError(
            f"Nothing is known in the ∞-norm about {title(layer)}. Expected: a "
            "layer whose type has a rule with a `box`, see "
            "`stable_node_tf.certification.register_rule`"
        )
    if rule.combine is not None:
        return rule.box(layer, boxes)
    check_one_input(layer, boxes)
    return rule.box(layer, boxes[0])


def check_one_input(layer: Any, inputs: Sequence[Any]) -> None:
    """Raises a ValueError unless there is one."""
    if len(inputs) != 1:
        raise ValueError(
            f"The rule of {title(layer)} is for one input. "
            f"Received: {len(inputs)}"
        )


def check_axis(layer: Any, axis: Any, shape: Shape) -> None:
    """Raises a ValueError if it, or one of several, is the axis of the batch.

    `shape` is that of an input without the batch.
    """
    axes = axis if isinstance(axis, list | tuple) else [axis]
    if {0, -len(shape) - 1} & set(axes):
        raise ValueError(
            "A certified model must not mix the images of a batch. Received: "
            f"{title(layer)} with axis={axis}"
        )


def _checked(layer: Any, bound: float) -> float:
    if not bound >= 0.0:
        raise ValueError(
            f"The rule of {title(layer)} must return a number >= 0. "
            f"Received: {bound}"
        )
    return float(bound)


def with_activation(layer: Any) -> str:
    """Words that name the activation of a layer, if it has one."""
    activation = getattr(layer, "activation", None)
    if activation in (None, keras.activations.linear):
        return ""
    name = getattr(activation, "__name__", type(activation).__name__)
    return f" with activation {name}"
