"""The nearest matrix whose worst-case logarithmic norm is proven small."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from stable_node_tf.checks import (
    check_alpha,
    check_certificate,
    check_count,
    check_matrix,
    check_norm,
    check_number,
    check_positive,
)
from stable_node_tf.stability.certificate import best_certificate
from stable_node_tf.stability.log_norm import certified_log_norm, spectral_norm
from stable_node_tf.stability.projection.certified_projection import (
    Array,
    Pair,
    Problem,
    project_certified,
)
from stable_node_tf.stability.projection.cutting_planes import (
    ExactProjection,
    project_exact,
)
from stable_node_tf.stability.projection.distance_bound import (
    distance_lower_bound,
    improve_cuts,
)
from stable_node_tf.stability.projection.nearest_inf import nearest_rows
from stable_node_tf.stability.rounding import UNIT_ROUNDOFF

# From here on T plays no part to seven digits, and its formulas lose them.
_ALMOST_ONE = 1.0 - 1e-8
# Rounding errors are divided by α.
_SMALLEST_ALPHA = 1e-10


class NearestStable(NamedTuple):
    """A nearest stable matrix, with its proofs.

    Attributes:
      matrix: B = A + Δ, float64, shape (d, d).
      perturbation: Δ, float64, shape (d, d).
      distance: ‖Δ‖_F.
      certificate: t > 0, float64, shape (d,), for which
        `certified_log_norm(matrix, alpha, certificate) <= delta_bar`. The one
        exception: a matrix that `exact=True` moved nearer to A than any
        certified one. Its bound is proven by enumeration instead, which
        `worst_case_log_norm(matrix, alpha, exact=True)` rechecks, and t is its
        best certificate, for a bound slightly above delta_bar. Ones for the
        ∞-norm.
      distance_lower_bound: proven; no matrix with δ <= delta_bar is nearer to
        A than this.
    """

    matrix: np.ndarray
    perturbation: np.ndarray
    distance: float
    certificate: np.ndarray
    distance_lower_bound: float


def nearest_stable(
    matrix: ArrayLike,
    delta_bar: float,
    alpha: float,
    *,
    norm: str | float = "2",
    exact: bool = False,
    certificate: ArrayLike | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 1000,
    time_limit: float = 60.0,
) -> NearestStable:
    """Projects a matrix onto the matrices whose δ is proven <= delta_bar.

    Solves min ‖Δ‖_F over all Δ and t with δ_t(A + Δ) <= delta_bar, a convex
    problem; see `project_certified`. The result satisfies its certificate in
    floating point, always, whatever the number of iterations. Certified
    matrices are a few per cent farther than the nearest matrix with
    δ <= delta_bar, the Δ of De Marinis et al., arXiv 2501.10740;
    `distance_lower_bound` tells how much at most, `exact=True` finds that one.

    With norm="inf" the result is the nearest matrix itself, up to rounding, for
    one pass over the rows: no other argument of the search has an effect.

    Args:
      matrix: A, of shape (d, d).
      delta_bar: the bound δ̄, any finite number.
      alpha: smallest slope of the activation, in [1e-10, 1].
      norm: that of δ, see `worst_case_log_norm`.
      exact: projects onto {δ <= delta_bar} itself, by cutting planes: to 1e-6
        in ‖Δ‖ and δ for d <= 16 within a minute. Stopped early by `time_limit`,
        the certified result is returned, and `distance_lower_bound` is what
        the cutting planes have reached.
      certificate: a first guess of t, of shape (d,), from an earlier call for
        example; if it proves the bound for A, A is returned.
      tolerance: how far ‖Δ‖ may exceed the certified optimum, relative to it
        plus a hundredth of the norm of A; positive.
      max_iterations: cap on the eigendecompositions of size 2d, at least 1.
      time_limit: seconds given to the cutting planes.

    Returns:
      A `NearestStable`; `matrix` equals A where A itself is certified.

    Raises:
      ValueError: if the matrix is not square and finite, delta_bar is not
        finite, alpha is not in [1e-10, 1] (in the ∞-norm, (0, 1]), delta_bar /
        alpha is beyond the range of float64, or another argument is out of its
        range.
      TypeError: if an argument is not numeric.

    >>> result = nearest_stable([[1.0, 0.0], [0.0, -1.0]], 0.5, 0.5)
    >>> bool(abs(result.distance - 0.5) < 1e-4)
    True
    """
    if check_norm(norm) == "inf":
        matrix, alpha = check_matrix(matrix), check_alpha(alpha)
        delta_bar = check_number(delta_bar, "delta_bar")
        B, distance, lower = nearest_rows(matrix, delta_bar, alpha)
        ones = np.ones(len(matrix))
        return NearestStable(B, B - matrix, distance, ones, lower)
    matrix, problem, scale, B, t, X = _project(
        matrix, delta_bar, alpha, tolerance, certificate, max_iterations, 1e-9
    )
    if X is None:
        zeros = np.zeros_like(matrix)
        return NearestStable(matrix, zeros, 0.0, t * scale, 0.0)
    A, _, alpha = problem
    if alpha >= _ALMOST_ONE:
        vectors, slopes = X, np.ones_like(A)
    else:
        size = len(A)
        count = max(2 * size, min(4 * size, 64))
        rounds = 10 if size <= 16 else 2
        vectors, slopes = improve_cuts(problem, B, X, count, rounds)
    if exact and alpha < 1.0:
        ends = project_exact(problem, vectors, slopes, 1e-8, time_limit)
        vectors, slopes = ends.vectors, ends.slopes
        if np.isfinite(ends.upper):
            B, t = _nearer(problem, B, t, ends)
    distance = float(np.linalg.norm(B - A))
    lower = min(distance, distance_lower_bound(problem, vectors, slopes))
    result = B * scale
    return NearestStable(
        result, result - matrix, distance * scale, t * scale, lower * scale
    )


def nearby_stable(
    matrix: ArrayLike, delta_bar: float, alpha: float, tolerance: float = 2e-2
) -> tuple[np.ndarray, np.ndarray]:
    """A certified matrix almost as near as that of `nearest_stable`.

    For a start of training: it takes a few iterations instead of twenty, and
    proves nothing about the distance. Arguments and errors are those of
    `nearest_stable`.

    Returns:
      B and t, float64, of shapes (d, d) and (d,), for which
      `certified_log_norm(B, alpha, t) <= delta_bar`; B equals A where a
      certificate of A was found.

    >>> B, _ = nearby_stable([[1.0, 0.0], [0.0, -1.0]], 0.5, 0.5)
    >>> bool(0.45 < B[0, 0] <= 0.5)
    True
    """
    found = _project(matrix, delta_bar, alpha, tolerance)
    if found.multiplier is None:
        return found.matrix, found.t * found.scale
    return found.B * found.scale, found.t * found.scale


class _Projection(NamedTuple):
    """The argument; A and δ̄ divided by a power of two; B and t of those.

    The division rounds nothing. `multiplier` is None where B is A itself; where
    α is almost 1 it is V with sym(A) - V Vᵀ <= δ̄I.
    """

    matrix: Array
    problem: Problem
    scale: float
    B: Array
    t: Array
    multiplier: Array | None


def _project(
    matrix: ArrayLike,
    delta_bar: float,
    alpha: float,
    tolerance: float,
    certificate: ArrayLike | None = None,
    max_iterations: int = 1000,
    own_tolerance: float | None = None,
) -> _Projection:
    """Checks the arguments; finds B = A, or else the certified projection.

    `own_tolerance` is that of the search for a certificate of A, by default the
    square of `tolerance`.
    """
    matrix, alpha = check_matrix(matrix), check_alpha(alpha)
    if alpha < _SMALLEST_ALPHA:
        raise ValueError(
            f"`alpha` must be at least {_SMALLEST_ALPHA:g} here: double "
            "precision cannot tell a nearest matrix for smaller slopes. "
            f"Received: alpha={alpha}"
        )
    delta_bar = check_number(delta_bar, "delta_bar")
    tolerance = check_positive(tolerance, "tolerance")
    max_iterations = check_count(max_iterations, "max_iterations")
    largest = max(np.abs(matrix).max(), abs(delta_bar)) or 1.0
    exponent = np.ceil(np.log2(largest)) + np.log2(len(matrix)) // 2
    scale = 2.0 ** np.clip(exponent, -900, 1000)
    problem = Problem(matrix / scale, delta_bar / scale, alpha)
    A, bound, _ = problem
    if certificate is None:
        start = np.full(len(A), max(spectral_norm(A), 1e-290))
    else:
        start = check_certificate(certificate, len(A)) / scale
    t = _own_certificate(problem, start, own_tolerance or tolerance**2)
    if t is not None:
        return _Projection(matrix, problem, scale, A, t, None)
    if alpha >= _ALMOST_ONE:
        # δ is the logarithmic norm: eigenvalues above δ̄ are lowered to it.
        eigenvalues, vectors = np.linalg.eigh((A + A.T) / 2)
        X = vectors * np.sqrt(np.maximum(eigenvalues - bound, 0.0))
        B, t = A - X @ X.T, start
    else:
        B, t, X, *_ = project_certified(problem, tolerance, max_iterations)
    B, t = _make_feasible(problem, B, t)
    return _Projection(matrix, problem, scale, B, t, X)


def _own_certificate(
    problem: Problem, start: Array, tolerance: float
) -> Array | None:
    """A certificate of A itself, or None if there is none to a tolerance."""
    A, bound, alpha = problem
    # A cheap lower bound of δ saves the search.
    vector = np.linalg.eigh(A + A.T)[1][:, -1]
    terms = vector * (A @ vector)
    if np.sum(np.where(terms > 0, terms, alpha * terms)) > bound:
        return None
    if certified_log_norm(A, alpha, start) <= bound:
        return start
    t = best_certificate(A, alpha, tolerance).numpy()
    return t if certified_log_norm(A, alpha, t) <= bound else None


def _nearer(
    problem: Problem, B: Array, t: Array, ends: ExactProjection
) -> Pair:
    """The nearer one of B and the end of the cutting planes, made feasible.

    max_D μ2(D(B - cI)) <= max_D μ2(DB) - αc.
    """
    A, bound, alpha = problem
    size = len(A)
    norm = float(np.linalg.norm(ends.matrix))
    rounding = 10 * size * UNIT_ROUNDOFF * norm
    shift = max(0.0, ends.upper - bound + rounding) / alpha
    moved = ends.matrix - shift * np.eye(size)
    if np.linalg.norm(moved - A) >= np.linalg.norm(B - A):
        return B, t
    return moved, best_certificate(moved, alpha, 1e-9).numpy()


def _make_feasible(problem: Problem, B: Array, t: Array) -> Pair:
    """Moves B by a multiple of the identity, until the proof of B holds.

    δ_(T+cI)(B - cI) <= δ_T(B) - αc; in exact arithmetic no move is needed.
    """
    _, bound, alpha = problem
    size = len(B)
    magnitude = np.linalg.norm(B) + np.linalg.norm(t) + abs(bound)
    shift = 2 * size**1.5 * UNIT_ROUNDOFF * magnitude / alpha
    while True:
        moved, raised = B - shift * np.eye(size), t + shift
        excess = certified_log_norm(moved, alpha, raised) - bound
        if excess <= 0.0:
            return moved, raised
        shift = 2 * shift + 1.01 * excess / alpha
