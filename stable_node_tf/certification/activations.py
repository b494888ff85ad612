"""Lipschitz constants of activation functions, by which layers are certified.

Each is the largest |slope|, rounded upwards: the functions are continuous, and
differentiable but for a few points.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras

from stable_node_tf.activations.activation import Activation
from stable_node_tf.certification import boxes
from stable_node_tf.certification.forward_rounding import (
    ACTIVATION_ROUNDINGS,
    Computed,
)
from stable_node_tf.certification.rules import (
    box_after,
    layer_lipschitz,
    with_activation,
)
from stable_node_tf.model_graph.graph import title


class _Known(NamedTuple):
    """See `register_activation`."""

    lipschitz: float | Callable[..., float]
    roundings: int | None
    turns: tuple[float, ...] | None = None


_KNOWN: dict[Any, _Known] = {}


def register_activation(
    function: Callable[..., Any],
    lipschitz: float | Callable[..., float],
    roundings: int | None = None,
    turns: Sequence[float] | None = None,
) -> None:
    """Says what is proven about an activation function.

    Layers with it are then certified, see `certifier`.

    Args:
      function: what `layer.activation` is, the very object.
      lipschitz: its Lipschitz constant L in the 2-norm, over all entries at
        once; or, for a function with parameters, what returns it for these:
        `functools.partial(function, slope=0.5)` has `lipschitz(slope=0.5)`.
      roundings: if f(0) = 0 and f(x) is computed to this number times uL|x|, u
        the unit roundoff. Without it, certificates hold in real arithmetic.
      turns: for certificates in the ∞-norm, if the function is continuous and
        acts on every entry alone: where it goes from rising to falling or back,
        () for a monotone one. More points do no harm.

    Raises:
      TypeError: if `function` is not callable.
      ValueError: if `lipschitz` is neither a number >= 0 nor a function.

    >>> import numpy as np
    >>> register_activation(keras.ops.sin, 1.0)
    >>> model = keras.Sequential(
    ...     [keras.Input((2,)), keras.layers.Dense(4, keras.ops.sin)]
    ... )
    >>> model.add(keras.layers.Dense(2))
    >>> from stable_node_tf import certified_radii
    >>> certified_radii(model, np.ones((3, 2)))[1].shape
    (3,)
    """
    if not callable(function):
        raise TypeError(
            f"`function` must be callable. Received: function={function!r}"
        )
    if not (callable(lipschitz) or lipschitz >= 0.0):
        raise ValueError(
            "`lipschitz` must be a number >= 0, or a function that returns it. "
            f"Received: lipschitz={lipschitz!r}"
        )
    _KNOWN[function] = _Known(
        lipschitz, roundings, None if turns is None else tuple(turns)
    )


def activation_lipschitz(layer: Any) -> float:
    """Lipschitz constant of the `activation` of a layer.

    Raises:
      ValueError: naming the layer, if none is known.
    """
    activation = layer.activation
    if isinstance(activation, keras.Layer):
        return layer_lipschitz(activation)
    known, parameters = _known(activation)
    if known is None:
        raise ValueError(
            f"No Lipschitz constant is known for {title(layer)}"
            f"{with_activation(layer)}. Expected: an activation that "
            "`stable_node_tf.certification.register_activation` knows"
        )
    return _at(known, parameters)


def activation_box(layer: Any, box: boxes.Box) -> boxes.Box:
    """The box after the `activation` of a layer.

    Raises:
      ValueError: naming the layer, if no box is known.
    """
    activation = layer.activation
    if activation in (None, keras.activations.linear):
        return box
    if isinstance(activation, keras.Layer):
        return box_after(activation, [box])
    return box_after_function(layer, activation, box)


def box_after_function(layer: Any, function: Any, box: boxes.Box) -> boxes.Box:
    """The box after a registered function that a layer applies.

    Raises:
      ValueError: naming the layer, if no box is known.
    """
    known, parameters = _known(function)
    if known is None or known.turns is None:
        raise ValueError(
            f"Nothing is known in the ∞-norm about {title(layer)}"
            f"{with_activation(layer)}. Expected: an activation that "
            "`stable_node_tf.certification.register_activation` knows with its "
            "`turns`"
        )
    lipschitz = _at(known, parameters)
    return boxes.elementwise(
        box, function, known.turns, lipschitz, known.roundings
    )


def registered_functions() -> list[Callable[..., Any]]:
    """All that `register_activation` was told of so far."""
    return list(_KNOWN)


def function_lipschitz(function: Any, **parameters: float) -> float:
    """Lipschitz constant of a registered function with parameters."""
    return _at(_KNOWN[function], parameters)


def after_activation(
    activation: Any, state: Computed, unit: float
) -> Computed | None:
    """The state after an activation; None where rounding is not bounded."""
    known, parameters = _known(activation)
    if known is None or known.roundings is None:
        return None
    lipschitz = _at(known, parameters)
    local = known.roundings * unit * lipschitz * state.size
    return Computed(
        lipschitz * state.size + local, lipschitz * state.error + local
    )


def _known(activation: Any) -> tuple[_Known | None, dict[str, Any]]:
    """What is known of an activation, and its parameters."""
    if isinstance(activation, Activation):
        activation.check_slopes()
        proven = type(activation).proven
        roundings = ACTIVATION_ROUNDINGS if proven else None
        return _Known(1.0, roundings, turns=()), {}
    parameters: dict[str, Any] = {}
    if isinstance(activation, functools.partial) and not activation.args:
        activation, parameters = activation.func, activation.keywords
    try:
        return _KNOWN.get(activation), parameters
    except TypeError:  # not hashable
        return None, {}


def _at(known: _Known, parameters: dict[str, Any]) -> float:
    if callable(known.lipschitz):
        return known.lipschitz(**parameters)
    if parameters:
        raise ValueError(
            "No Lipschitz constant is known for an activation with the "
            f"parameters {parameters}"
        )
    return known.lipschitz


def _relu(
    negative_slope: float = 0.0,
    max_value: float | None = None,
    threshold: float = 0.0,
) -> float:
    if threshold != 0.0:
        raise ValueError(
            "A ReLU with a threshold other than 0 jumps there, and has no "
            f"Lipschitz constant. Received: threshold={threshold}"
        )
    del max_value  # a minimum with a constant
    return _leaky_relu(negative_slope)


def _leaky_relu(negative_slope: float = 0.2) -> float:
    """TensorFlow rounds the slope to float32, in float64 too."""
    return max(1.0, abs(negative_slope) * (1 + 2**-23))


def _celu(alpha: float = 1.0) -> float:
    if alpha <= 0.0:
        raise ValueError(
            "A CELU must have alpha > 0: its slope is unbounded otherwise. "
            f"Received: alpha={alpha}"
        )
    return 1.0  # exp(x/α) <= 1 for x <= 0 < α


def _soft_shrink(threshold: float = 0.5) -> float:
    if threshold < 0.0:
        raise ValueError(
            "A soft shrinkage with a negative threshold jumps, and has no "
            f"Lipschitz constant. Received: threshold={threshold}"
        )
    return 1.0


# Slopes in [-|a|, |a|] ∪ {1}, with a roundings: exact, or one product. Where a
# is negative, they turn at 0.
register_activation(keras.activations.linear, 1.0, roundings=0, turns=())
register_activation(keras.activations.relu, _relu, roundings=2, turns=(0.0,))
register_activation(keras.activations.relu6, 1.0, roundings=0, turns=())
register_activation(keras.activations.hard_tanh, 1.0, roundings=0, turns=())
register_activation(
    keras.activations.leaky_relu,
    _leaky_relu,
    roundings=2,
    turns=(0.0,),
)
register_activation(
    keras.activations.elu,
    lambda alpha=1.0: max(1.0, abs(alpha)),
    turns=(0.0,),
)
register_activation(keras.activations.celu, _celu, turns=())
# λα at x -> -0 (Klambauer et al., Self-normalizing neural networks, 2017):
# 1.0507009873554805 · 1.6732632423543772 = 1.75809934...
register_activation(keras.activations.selu, 1.7580993409, turns=())
# 1 - tanh² <= 1, σ(1 - σ) <= 1/4, σ <= 1, 1/(1 + |x|)² <= 1, tanh² <= 1.
register_activation(keras.activations.tanh, 1.0, turns=())
register_activation(keras.activations.sigmoid, 0.25, turns=())
register_activation(keras.activations.softplus, 1.0, turns=())
register_activation(keras.activations.log_sigmoid, 1.0, turns=())
register_activation(keras.activations.softsign, 1.0, turns=())
register_activation(keras.activations.tanh_shrink, 1.0, turns=())
register_activation(keras.activations.soft_shrink, _soft_shrink, turns=())
# (1 + x/√(x² + b))/2 <= 1; (x + 1)/2 <= 1 on [-1, 1].
register_activation(keras.activations.squareplus, lambda b=4: 1.0, turns=())
register_activation(keras.activations.sparse_plus, 1.0, turns=())
register_activation(keras.activations.sparse_sigmoid, 0.5, turns=())
# relu6(x + 3)/6 and x relu6(x + 3)/6, whose slope is (2x + 3)/6 up to x = 3.
register_activation(keras.activations.hard_sigmoid, 0.16666666667, turns=())
register_activation(keras.activations.hard_silu, 1.5, turns=(-1.5,))
# Φ(x) + xφ(x) has the slope φ(x)(2 - x²), so its extrema are at ±√2, and are
# 1.12890... and -0.12890...; it tends to 0 and 1. With tanh for Φ it is 1.12900
# on a grid of [-10, 10] with spacing 1e-4, plus 1e-4/2 times a bound of the
# second derivative, which with w = a(x + bx³) and q = 1 - tanh²(w) is at most
# q(w' + |x|w''/2 + |x|w'²) < 2, as q <= min(1, 4 exp(-2|w|)). Either slope is 0
# once, and so are those of silu and mish: near its minimum a function does not
# feel the last digits of the place.
register_activation(
    keras.activations.gelu,
    lambda approximate=False: 1.1291 if approximate else 1.12891,
    turns=(-0.7517915246935645, -0.7524614220710162),
)
# σ(x) + xσ'(x) has the slope σ'(x)(2 - x tanh(x/2)), so its extrema are at
# x = ±2.3994, and are 1.09984 and -0.09984; it tends to 0 and 1.
register_activation(
    keras.activations.silu, 1.09984, turns=(-1.2784645427610735,)
)
# x tanh(softplus(x)): 1.08850 on a grid of [-40, 40] with spacing 1e-4, plus
# 1e-4/2 times a bound of its second derivative. With s = softplus(x),
# g = tanh(s), σ = s' and q = 1 - g² <= min(1, 4 exp(-2x)), that derivative is
# 2g' + xg'', g' = σq, g'' = q(σ(1 - σ) - 2gσ²), |g''| <= 3q min(1, eˣ): at most
# 2 + 12 sup xe⁻²ˣ < 5 in absolute value. Outside, g + xg' is below 1 + 1e-30.
register_activation(keras.activations.mish, 1.089, turns=(-1.192431214515495,))
# J = diag(p) - ppᵀ: vᵀJv is the variance of v, at most a quarter of the square
# of max v - min v, and so at most |v|²/2.
register_activation(keras.activations.softmax, lambda axis=-1: 0.5)
