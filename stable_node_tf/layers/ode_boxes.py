"""Boxes through the solve of a neural ODE: the rule of `StableODELayer`.

docs/theory.md, "Boxes".
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from stable_node_tf import solvers
from stable_node_tf.activations import Activation
from stable_node_tf.certification import boxes
from stable_node_tf.certification.forward_rounding import (
    ACTIVATION_ROUNDINGS,
    gamma,
)
from stable_node_tf.solvers.runge_kutta import computes_tableau

# Weights that are not negative in exact arithmetic may be so by rounding.
_TOLERANCE = 1e-12


def solved_box(layer: Any, box: boxes.Box) -> boxes.Box:
    """The box of u(T) for u' = σ(Au + b), as the solver of a layer computes it.

    Rounding errors are inside for explicit Euler with a proven activation.

    Raises:
      ValueError: unless the solver's steps are convex combinations of steps of
        explicit Euler.
    """
    layer._check_computes(layer.activation, layer.solver)
    weights = None
    if computes_tableau(layer.solver):
        weights = layer.solver.tableau.euler_weights()
    if weights is None or weights.min() < -_TOLERANCE:
        raise ValueError(
            "Nothing is known in the ∞-norm about what the solver of layer "
            f"{layer.name!r} computes. Expected: steps that are convex "
            "combinations of steps of explicit Euler, as those of Euler and "
            f"SSPRungeKutta3 are. Received: {type(layer.solver).__name__}"
        )
    if type(layer.solver) is not solvers.Euler or not layer.activation.proven:
        box = box._replace(unit=0.0)
    steps = layer.solver.num_steps
    kernel, bias = (
        tf.cast(weight, box.center.dtype)
        for weight in (layer.kernel, layer.bias)
    )

    def euler(box: boxes.Box) -> boxes.Box:
        size = layer.terminal_time / steps
        return euler_box(box, kernel, bias, layer.activation, size)

    def body(center, radius):
        box_after = _step(boxes.Box(center, radius, box.unit), weights, euler)
        return box_after.center, box_after.radius

    center, radius = tf.while_loop(
        lambda *_: True,
        body,
        (box.center, box.radius),
        maximum_iterations=steps,
    )
    return boxes.Box(center, radius, box.unit)


def _step(
    box: boxes.Box, weights: Any, euler: Callable[[boxes.Box], boxes.Box]
) -> boxes.Box:
    """One step of a scheme with these `euler_weights`."""
    parts = [box]
    for row in weights[:-1]:
        parts.append(euler(_combined(row, parts)))
    return _combined(weights[-1], parts)


def _combined(weights: Any, parts: list[boxes.Box]) -> boxes.Box:
    """Σ w_i x_i, for the first weights; of a single part with weight 1, it."""
    used = [(w, part) for w, part in zip(weights, parts, strict=False) if w]
    if len(used) == 1 and used[0][0] == 1.0:
        return used[0][1]
    factors = tf.constant([w for w, _ in used], parts[0].center.dtype)
    return boxes.affine(
        boxes.stacked([part for _, part in used]),
        lambda x: tf.linalg.matvec(x, factors),
        lambda x: tf.linalg.matvec(x, tf.abs(factors)),
        None,
        len(used) + 4,
    )


def euler_box(
    box: boxes.Box,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    activation: Activation,
    step_size: float,
) -> boxes.Box:
    """The box of u + hσ(Au + b), rows u.

    With slopes s of σ, σ(Au + b) - σ(Ac + b) = s A(u - c), entry by entry. So

        |u⁺ - c⁺| <= max_s |1 + hs a_ii| ρ_i + h|s| Σ_(j≠i) |a_ij| ρ_j,

    which is convex in s, hence largest at an end of the slopes between the
    smallest and the largest entry of Au + b.

    Args:
      box: of u, with center c and radius ρ of shape (batch, d).
      kernel: A, in the dtype of the box.
      bias: b.
      activation: σ.
      step_size: h.

    >>> from stable_node_tf import SmoothLeakyReLU
    >>> box = boxes.Box(tf.ones((1, 1)), tf.ones((1, 1)))
    >>> A, b = tf.constant([[-0.5]]), tf.constant([2.0])
    >>> after = euler_box(box, A, b, SmoothLeakyReLU(), 1.0)
    >>> after.center.numpy().tolist(), after.radius.numpy().round(3).tolist()
    ([[2.5]], [[0.5]])
    """
    own, terms = boxes.roundoff(box.center), kernel.shape[-1]
    off = gamma(terms + 2, box.unit) + gamma(terms + 2, own)
    diagonal = tf.linalg.diag_part(kernel)
    around = tf.abs(tf.linalg.set_diag(kernel, tf.zeros_like(diagonal)))
    affine = tf.matmul(box.center, kernel, transpose_b=True) + bias
    # The error of Au + b passes the same slope as Σ a_ij (u_j - c_j).
    others = tf.matmul(
        box.radius + off * box.size, around, transpose_b=True
    ) + off * (tf.abs(diagonal) * box.size + tf.abs(bias))
    others *= boxes.above(terms, own)
    reach = (others + tf.abs(diagonal) * box.radius) * boxes.above(1, own)
    # Subclasses may compute something else, see `Activation`.
    knows = type(activation) if activation.proven else Activation
    slopes = knows.slope_bounds(activation, affine - reach, affine + reach)
    radius = tf.maximum(
        *(
            tf.abs(1.0 + step_size * slope * diagonal) * box.radius
            + step_size * slope * others
            for slope in slopes
        )
    )
    # Of σ, of hσ with a rounded h, and of the sum: in the network, and in here,
    # where slopes and their products round as well.
    field = step_size * (tf.abs(affine) + reach)
    roundings = ACTIVATION_ROUNDINGS + 5
    local = box.unit * (roundings * field + box.size)
    local += 4.0 * own * (roundings * field + box.size)
    center = box.center + step_size * activation(affine)
    radius = (radius + 1.01 * local) * boxes.above(1, own)
    return boxes.Box(center, radius, box.unit)
