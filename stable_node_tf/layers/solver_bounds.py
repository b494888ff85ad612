"""The sharpest proven Lipschitz constant of what a solver computes."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from stable_node_tf import solvers
from stable_node_tf.solvers.runge_kutta import computes_tableau
from stable_node_tf.stability import lipschitz
from stable_node_tf.stability.inf_log_norm import inf_norm_bound
from stable_node_tf.stability.log_norm import euler_log_norm

# How reports name a norm.
NORMS = {"2": "2-norm", "inf": "∞-norm"}


class LipschitzBound(NamedTuple):
    """A proven Lipschitz constant in real arithmetic.

    Attributes:
      value: the constant.
      holds_for: what it is a constant of: "Euler with 20 steps", say, or "exact
        flow (not its discretization)".
      step: that of a single step, or None if the bound does not hold for what
        the solver computes.
      norm: that of distances, "2" or "inf".
    """

    value: float
    holds_for: str
    step: float | None
    norm: str = "2"


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
    grid whose weights are not negative have bounds of their own, see
    `stability.lipschitz`. For other solvers, and for subclasses that override
    a method, the bound is exp(δT), that of the exact flow, and says so.

    Args:
      solver: a `tfp.math.ode.Solver`.
      matrix: A, of shape (d, d).
      alpha: smallest slope of σ, in (0, 1].
      terminal_time: T > 0.
      delta: an upper bound of the worst-case logarithmic norm of A.
      step_log_norm: an upper bound of δ_h(A), h = T/N, which is searched for if
        none is given: that takes a second or so at d = 256.

    >>> from stable_node_tf import Euler
    >>> solver_lipschitz(Euler(1), [[-1.0]], 0.5, 1.0, -0.5).holds_for
    'Euler with 1 step'
    """
    norm = lipschitz.spectral_norm_bound(matrix)
    if not _is_explicit(solver):
        return field_lipschitz(solver, terminal_time, delta, norm)
    size = terminal_time / solver.num_steps
    if step_log_norm is None:
        step_log_norm = _euler_log_norm([matrix], alpha, size)
    euler = lipschitz.euler_step_lipschitz(step_log_norm, size)
    return field_lipschitz(solver, terminal_time, delta, norm, euler)


def inf_solver_lipschitz(
    solver: Any,
    matrix: ArrayLike,
    alpha: float,
    terminal_time: float,
    delta: float,
) -> LipschitzBound:
    """As `solver_lipschitz`, in the ∞-norm; `delta` bounds δ of that norm.

    >>> from stable_node_tf import Euler
    >>> bound = inf_solver_lipschitz(Euler(2), [[-1.0]], 0.5, 1.0, delta=-0.5)
    >>> round(bound.value, 6), bound.norm
    (0.5625, 'inf')
    """
    midpoint = type(solver) is solvers.ImplicitMidpoint
    if not midpoint and not _is_explicit(solver):
        return _of_flow(delta, terminal_time)._replace(norm="inf")
    matrix = np.asarray(matrix, np.float64)
    size = terminal_time / solver.num_steps
    euler_size = size / 2 if midpoint else size
    log_norm, _ = euler_log_norm(matrix, alpha, euler_size, norm="inf")
    step = lipschitz.inf_euler_step_lipschitz(log_norm, euler_size)
    if midpoint:
        step = lipschitz.inf_implicit_midpoint_step_lipschitz(delta, step, size)
    else:
        step = _explicit_step(solver, step, inf_norm_bound(matrix), size)
    return _repeated(solver, step)._replace(norm="inf")


def field_lipschitz(
    solver: Any,
    terminal_time: float,
    delta: float,
    norm: float,
    euler_step: float = math.inf,
) -> LipschitzBound:
    """As `solver_lipschitz`, for any field with bounds of its derivative.

    Two solutions of u' = f(u) differ by v with v' = Jv, and so do stages of a
    solver; of J only two bounds are used, which averages of such J obey too.

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
        return _of_flow(delta, terminal_time)
    size = terminal_time / solver.num_steps
    if midpoint:
        step = lipschitz.implicit_midpoint_step_lipschitz(delta, norm, size)
        return _repeated(solver, step)
    step = min(euler_step, lipschitz.euler_lipschitz(delta, norm, size, 1))
    return _repeated(solver, _explicit_step(solver, step, norm, size))


def _of_flow(delta: float, terminal_time: float) -> LipschitzBound:
    flow = lipschitz.flow_lipschitz(delta, terminal_time)
    return LipschitzBound(flow, "exact flow (not its discretization)", None)


def _explicit_step(
    solver: Any, euler_step: float, norm: float, size: float
) -> float:
    """A step of an explicit scheme, by one of Euler; in any induced norm."""
    tableau = solver.tableau
    if tableau == solvers.SSPRungeKutta3.tableau:
        return lipschitz.ssprk3_step_lipschitz(euler_step)
    if tableau == solvers.Euler.tableau:
        return euler_step
    return lipschitz.runge_kutta_step_lipschitz(
        euler_step, norm, size, tableau.coefficients, tableau.weights
    )


def _repeated(solver: Any, step: float) -> LipschitzBound:
    """The bound of all steps of a solver."""
    name = f"{type(solver).__name__} with {counted(solver.num_steps, 'step')}"
    if type(solver) is solvers.ImplicitMidpoint:
        name += ", their equations solved exactly"
    value = lipschitz.repeated_lipschitz(step, solver.num_steps)
    return LipschitzBound(value, name, step)


def remembered(function: Callable[..., float]) -> Callable[..., float]:
    """A function of matrices and numbers that keeps its last few results.

    Reports, certificates and exports ask for the same bounds, which take a
    second or more to find.

    >>> remembered(lambda matrices, x: x * matrices[0].sum())([np.eye(2)], 3)
    np.float64(6.0)
    """

    @functools.lru_cache(maxsize=4)
    def of_bytes(contents: tuple[tuple[bytes, int], ...], *numbers: float):
        return function(
            [np.frombuffer(c).reshape(-1, width) for c, width in contents],
            *numbers,
        )

    def of_matrices(matrices: Sequence[ArrayLike], *numbers: float) -> float:
        arrays = [np.asarray(matrix, np.float64) for matrix in matrices]
        contents = tuple((A.tobytes(), A.shape[1]) for A in arrays)
        return of_bytes(contents, *numbers)

    return of_matrices


@remembered
def _euler_log_norm(
    matrices: Sequence[np.ndarray], alpha: float, step: float
) -> float:
    return euler_log_norm(matrices[0], alpha, step)[0]


def counted(count: int, noun: str) -> str:
    """Puts a number before a noun: 1 step, 20 steps."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _is_explicit(solver: Any) -> bool:
    """Whether it is a Runge-Kutta scheme with weights that are not negative."""
    return computes_tableau(solver) and min(solver.tableau.weights) >= 0.0
