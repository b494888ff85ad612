"""The nearest matrix whose worst-case logarithmic norm is proven small."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from stable_node_tf.checks import (
    check_alpha,
    check_certificate,
    check_count,
    check_matrix,
    check_number,
    check_positive,
)
from stable_node_tf.stability.certificate_search import minimize_certificate
from stable_node_tf.stability.log_norm import certified_log_norm
from stable_node_tf.stability.projection.certified_projection import (
    project_certified,
)
from stable_node_tf.stability.projection.cutting_planes import project_exact
from stable_node_tf.stability.projection.distance_bound import (
    distance_lower_bound,
    improve_cuts,
)
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
        certified one. Its bound is proven by enumeration instead, to recheck
        with `worst_case_log_norm(matrix, alpha, exact=True)`, and t is the best
        certificate it has, of a bound slightly above delta_bar.
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

    Args:
      matrix: A, of shape (d, d).
      delta_bar: the bound δ̄, any finite number.
      alpha: smallest slope of the activation, in [1e-10, 1].
      exact: projects onto {δ <= delta_bar} itself, by cutting planes: to 1e-6
        in ‖Δ‖ and δ for d <= 16 within a minute. Stopped early by `time_limit`,
        the certified result is returned, and `distance_lower_bound` is what
        the cutting planes have reached.
      certificate: a first guess of t, of shape (d,), as that of an earlier
        call; if it proves the bound for A, A is returned.
      tolerance: how far ‖Δ‖ may exceed the certified optimum, relative to it
        plus a hundredth of the norm of A; positive.
      max_iterations: cap on the eigendecompositions of size 2d, at least 1.
      time_limit: seconds given to the cutting planes.

    Returns:
      A `NearestStable`; `matrix` equals A where A itself is certified.

    Raises:
      ValueError: if the matrix is not square and finite, delta_bar is not
        finite, alpha is not in [1e-10, 1], or another argument is out of its
        range.
      TypeError: if an argument is not numeric.

    >>> result = nearest_stable([[1.0, 0.0], [0.0, -1.0]], 0.5, 0.5)
    >>> bool(abs(result.distance - 0.5) < 1e-4)
    True
    """
    matrix, alpha = check_matrix(matrix), _check_alpha(alpha)
    delta_bar = check_number(delta_bar, "delta_bar")
    tolerance = check_positive(tolerance, "tolerance")
    max_iterations = check_count(max_iterations, "max_iterations")
    size = len(matrix)
    A, bound, scale = _scaled(matrix, delta_bar)
    norm = _norm(A)
    start = np.full(size, norm)
    if certificate is not None:
        start = check_certificate(certificate, size) / scale
    t = _own_certificate(A, bound, alpha, start, 1e-9)
    if t is not None:
        zeros = np.zeros_like(matrix)
        return NearestStable(matrix, zeros, 0.0, t * scale, 0.0)
    if alpha >= _ALMOST_ONE:
        vectors, slopes = _excess(A, bound), np.ones_like(A)
        B, t = A - vectors @ vectors.T, start
    else:
        B, t, X, *_ = project_certified(
            A, bound, alpha, tolerance, max_iterations
        )
        count = max(2 * size, min(4 * size, 64))
        rounds = 10 if size <= 16 else 2
        vectors, slopes = improve_cuts(A, B, X, bound, alpha, count, rounds)
    B, t = _make_feasible(B, t, bound, alpha)
    if exact and alpha < 1.0:
        ends = project_exact(A, bound, alpha, vectors, slopes, 1e-8, time_limit)
        vectors, slopes = ends.vectors, ends.slopes
        if np.isfinite(ends.upper):
            B, t = _nearer(A, B, t, ends, bound, alpha)
    distance = np.linalg.norm(B - A)
    lower = min(distance, distance_lower_bound(A, vectors, slopes, bound))
    result = B * scale
    return NearestStable(
        result,
        result - matrix,
        float(distance * scale),
        t * scale,
        float(lower * scale),
    )


def nearby_stable(
    matrix: ArrayLike, delta_bar: float, alpha: float, tolerance: float = 2e-2
) -> tuple[np.ndarray, np.ndarray]:
    """A certified matrix almost as near as that of `nearest_stable`.

    For a start of training: it takes a few iterations instead of twenty, and
    proves nothing about the distance.

    Args:
      matrix: A, of shape (d, d).
      delta_bar: the bound δ̄, any finite number.
      alpha: smallest slope of the activation, in [1e-10, 1].
      tolerance: see `nearest_stable`.

    Returns:
      B and t, float64, of shapes (d, d) and (d,), for which
      `certified_log_norm(B, alpha, t) <= delta_bar`; B equals A where a
      certificate of A was found.

    Raises:
      ValueError: as `nearest_stable`.
      TypeError: if an argument is not numeric.

    >>> B, _ = nearby_stable([[1.0, 0.0], [0.0, -1.0]], 0.5, 0.5)
    >>> bool(0.45 < B[0, 0] <= 0.5)
    True
    """
    matrix, alpha = check_matrix(matrix), _check_alpha(alpha)
    delta_bar = check_number(delta_bar, "delta_bar")
    tolerance = check_positive(tolerance, "tolerance")
    A, bound, scale = _scaled(matrix, delta_bar)
    start = np.full(len(A), _norm(A))
    t = _own_certificate(A, bound, alpha, start, tolerance**2)
    if t is not None:
        return matrix, t * scale
    if alpha >= _ALMOST_ONE:
        vectors = _excess(A, bound)
        B, t = A - vectors @ vectors.T, start
    else:
        B, t, *_ = project_certified(A, bound, alpha, tolerance, 1000)
    B, t = _make_feasible(B, t, bound, alpha)
    return B * scale, t * scale


def _check_alpha(alpha):
    alpha = check_alpha(alpha)
    if alpha < _SMALLEST_ALPHA:
        raise ValueError(
            f"`alpha` must be at least {_SMALLEST_ALPHA:g} here: double "
            "precision cannot tell a nearest matrix for smaller slopes. "
            f"Received: alpha={alpha}"
        )
    return alpha


def _scaled(matrix, delta_bar):
    """A and δ̄ divided by a power of two, which rounds nothing; and that."""
    largest = max(np.abs(matrix).max(), abs(delta_bar)) or 1.0
    exponent = np.ceil(np.log2(largest)) + np.log2(len(matrix)) // 2
    scale = 2.0 ** np.clip(exponent, -900, 1000)
    return matrix / scale, delta_bar / scale, scale


def _norm(A):
    return max(np.linalg.norm(A, 2), 1e-290)


def _own_certificate(A, bound, alpha, start, tolerance):
    """A certificate of A itself, or None if there is none to a tolerance."""
    if _witnessed(A, alpha) > bound:
        return None
    if certified_log_norm(A, alpha, start) <= bound:
        return start
    t = _best_certificate(A, alpha, tolerance)
    return t if certified_log_norm(A, alpha, t) <= bound else None


def _witnessed(A, alpha):
    """A cheap lower bound of δ, to skip the search for a certificate of A."""
    vector = np.linalg.eigh(A + A.T)[1][:, -1]
    terms = vector * (A @ vector)
    return np.sum(np.where(terms > 0, terms, alpha * terms))


def _best_certificate(A, alpha, tolerance):
    norm, ones = _norm(A), np.ones((1, len(A)))
    t = minimize_certificate(
        A[None] / norm, ones, alpha * ones, ones, tolerance
    )
    return t[0].numpy() * norm


def _excess(A, bound):
    """V with sym(A) - V Vᵀ <= δ̄I, for α = 1: δ is the logarithmic norm."""
    eigenvalues, vectors = np.linalg.eigh((A + A.T) / 2)
    return vectors * np.sqrt(np.maximum(eigenvalues - bound, 0.0))


def _nearer(A, B, t, ends, bound, alpha):
    """The nearer one of B and the end of the cutting planes, made feasible.

    max_D μ2(D(B - cI)) <= max_D μ2(DB) - αc.
    """
    size = len(A)
    rounding = 10 * size * UNIT_ROUNDOFF * np.linalg.norm(ends.matrix)
    shift = max(0.0, ends.upper - bound + rounding) / alpha
    moved = ends.matrix - shift * np.eye(size)
    if np.linalg.norm(moved - A) >= np.linalg.norm(B - A):
        return B, t
    return moved, _best_certificate(moved, alpha, 1e-9)


def _make_feasible(B, t, bound, alpha):
    """Moves B by a multiple of the identity, until the proof of B holds.

    δ_(T+cI)(B - cI) <= δ_T(B) - αc; in exact arithmetic no move is needed.
    """
    size = len(B)
    eye = np.eye(size)
    magnitude = np.linalg.norm(B) + np.linalg.norm(t) + abs(bound)
    shift = 2 * size**1.5 * UNIT_ROUNDOFF * magnitude / alpha
    while True:
        moved, raised = B - shift * eye, t + shift
        excess = certified_log_norm(moved, alpha, raised) - bound
        if excess <= 0.0:
            return moved, raised
        shift = 2 * shift + 1.01 * excess / alpha
