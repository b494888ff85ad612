"""The sharpest proven Lipschitz constant of what a solver computes."""

from typing import Any, NamedTuple

from numpy.typing import ArrayLike

from stable_node_tf import solvers
from stable_node_tf.solvers.tableaux import EULER, SSP_RUNGE_KUTTA_3
from stable_node_tf.stability.certificates import (
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
    `stability.certificates`); the other solvers get the bound exp(δT) of the
    exact flow, and it says so.

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
    'Euler with 1 steps'
    """
    midpoint = isinstance(solver, solvers.ImplicitMidpoint)
    tableau: Any = getattr(solver, "tableau", None)
    if not midpoint and (tableau is None or min(tableau.weights) < 0.0):
        flow = flow_lipschitz(delta, terminal_time)
        return LipschitzBound(flow, "exact flow (not its discretisation)", None)
    steps = solver.num_steps
    size = terminal_time / steps
    norm = spectral_norm_bound(matrix)
    name = f"{type(solver).__name__} with {steps} steps"
    if midpoint:
        step = implicit_midpoint_step_lipschitz(delta, norm, size)
        name += ", their equations solved exactly"
        return LipschitzBound(repeated_lipschitz(step, steps), name, step)
    if step_log_norm is None:
        step_log_norm, _ = euler_log_norm(matrix, alpha, size)
    euler = min(
        euler_step_lipschitz(step_log_norm, size),
        euler_lipschitz(delta, norm, size, 1),
    )
    if tableau == EULER:
        step = euler
    elif tableau == SSP_RUNGE_KUTTA_3:
        step = ssprk3_step_lipschitz(euler)
    else:
        step = runge_kutta_step_lipschitz(
            euler, norm, size, tableau.coefficients, tableau.weights
        )
    return LipschitzBound(repeated_lipschitz(step, steps), name, step)
