"""The sharpest proven Lipschitz constant of what a solver computes."""

import math
from typing import Any, NamedTuple

from numpy.typing import ArrayLike

from stable_node_tf import solvers
from stable_node_tf.solvers.euler import EULER
from stable_node_tf.solvers.runge_kutta import computes_tableau
from stable_node_tf.solvers.ssp_runge_kutta_3 import SSP_RUNGE_KUTTA_3
from stable_node_tf.stability.lipschitz import (
    euler_lipschitz,
    euler_step_lipschitz,
    flow_lipschitz,
    implicit_midpoint_step_lipschitz,
    repeated_lipschitz,
    runge_kutta_step_lipschitz,
    spectral_norm_bound,
    ssprk3_step_lipschitz,
)
from stable_node_tf.stability.log_norm import euler_log_norm


class LipschitzBound(NamedTuple):
    """A proven Lipschitz constant in the 2-norm, and what of.

    Attributes:
      value: the constant.
      holds_for: "Euler with 20 steps", say, or "exact flow"; always of real
        arithmetic.
      step: that of a single step, or None if the bound is not one of what the
        solver computes.
    """

    value: float
    holds_for: str
    step: float | None


def solver_lipschitz(
    solver: Any,
    matrix: ArrayLike,
    alpha: float,
    terminal_time: float,
    delta: float,
    step_log_norm: float | None = None,
) -> LipschitzBound:
    """Bounds how far a solver of u' = σ(Au + b) on [0, T] stretches distances.

    The implicit midpoint rule and the explicit Runge-Kutta schemes on a fixed
    grid with weights that are not negative have bounds of their own (see
    `stability.lipschitz`); the other solvers, subclasses that override a method
    included, get the bound exp(δT) of the exact flow, and it says so.

    Args:
      solver: a `tfp.math.ode.Solver`.
      matrix: A, of shape (d, d).
      alpha: smallest slope of σ, in (0, 1].
      terminal_time: T > 0.
      delta: an upper bound of the worst-case logarithmic norm of A.
      step_log_norm: an upper bound of δ_h(A), h = T/N, if one is known; it
        takes a second or so at d = 256 to find the best one.

    >>> from stable_node_tf import Euler
    >>> solver_lipschitz(Euler(1), [[-1.0]], 0.5, 1.0, -0.5).holds_for
    'Euler with 1 step'
    """
    norm = spectral_norm_bound(matrix)
    if not _is_explicit(solver):
        return field_lipschitz(solver, terminal_time, delta, norm)
    size = terminal_time / solver.num_steps
    if step_log_norm is None:
        step_log_norm, _ = euler_log_norm(matrix, alpha, size)
    euler = euler_step_lipschitz(step_log_norm, size)
    return field_lipschitz(solver, terminal_time, delta, norm, euler)


def field_lipschitz(
    solver: Any,
    terminal_time: float,
    delta: float,
    norm: float,
    euler_step: float = math.inf,
) -> LipschitzBound:
    """As `solver_lipschitz`, for any field with bounds of its derivative.

    Two solutions of u' = f(u) differ by v with v' = Jv, and so do stages of a
    solver; all that is used of J are two bounds, and that averages of such J
    obey them as well.

    Args:
      solver: a `tfp.math.ode.Solver`.
      terminal_time: T > 0.
      delta: an upper bound of μ2(J).
      norm: an upper bound of |J|₂.
      euler_step: an upper bound of |I + hJ|₂, h = T/N, if one is known.

    >>> from stable_node_tf import Euler
    >>> bound = field_lipschitz(Euler(2), 1.0, delta=0.0, norm=2.0)
    >>> round(bound.value, 6), bound.holds_for
    (2.0, 'Euler with 2 steps')
    """
    midpoint = type(solver) is solvers.ImplicitMidpoint
    if not midpoint and not _is_explicit(solver):
        flow = flow_lipschitz(delta, terminal_time)
        return LipschitzBound(flow, "exact flow (not its discretization)", None)
    steps = solver.num_steps
    size = terminal_time / steps
    name = f"{type(solver).__name__} with {counted(steps, 'step')}"
    if midpoint:
        step = implicit_midpoint_step_lipschitz(delta, norm, size)
        name += ", their equations solved exactly"
        return LipschitzBound(repeated_lipschitz(step, steps), name, step)
    euler = min(euler_step, euler_lipschitz(delta, norm, size, 1))
    tableau = solver.tableau
    if tableau == EULER:
        step = euler
    elif tableau == SSP_RUNGE_KUTTA_3:
        step = ssprk3_step_lipschitz(euler)
    else:
        step = runge_kutta_step_lipschitz(
            euler, norm, size, tableau.coefficients, tableau.weights
        )
    return LipschitzBound(repeated_lipschitz(step, steps), name, step)


def counted(count: int, noun: str) -> str:
    """Puts a number before a noun.

    >>> counted(1, "step"), counted(20, "step")
    ('1 step', '20 steps')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _is_explicit(solver: Any) -> bool:
    """Whether it is a Runge-Kutta scheme with weights that are not negative."""
    return computes_tableau(solver) and min(solver.tableau.weights) >= 0.0
