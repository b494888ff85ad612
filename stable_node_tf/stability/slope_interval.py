"""The widest slope interval [α, 1] for which δ stays below a bound."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from stable_node_tf.checks import check_matrix, check_number
from stable_node_tf.stability.certificate import best_certificate
from stable_node_tf.stability.log_norm import (
    Witness,
    certified_log_norm,
    spectral_norm,
    worst_case_log_norm,
)

_SMALLEST_ALPHA = float(np.finfo(np.float64).tiny)
_MOST_STEPS = 50


class SlopeInterval(NamedTuple):
    """The smallest α with δ(A, α) <= c: a bracket with proofs.

    Attributes:
      alpha: δ(A, a) <= c is proven for all a in [alpha, 1];
        `certified_log_norm(matrix, alpha, certificate) <= c`.
      alpha_lower_bound: δ(A, a) > c is proven for all a in (0, 1] below this,
        by the witness x with D_ii = 1 where x_i (Ax)_i > 0 and a elsewhere.
      certificate: t > 0, float64, shape (d,).
      witness: D, for a = `alpha`, and x.
    """

    alpha: float
    alpha_lower_bound: float
    certificate: np.ndarray
    witness: Witness


def largest_slope_interval(matrix: ArrayLike, c: float) -> SlopeInterval:
    """Finds the smallest α with δ(A, α) = max μ2(DA) <= c, α <= D_ii <= 1.

    An activation with slopes in [α, 1] then gives a flow on [0, T] with
    Lipschitz constant at most exp(cT) (Guglielmi et al., arXiv 2402.13092,
    who ask this for c = 0).

    With τ = (1-α)t the certified bound is convex in (α, τ), hence its minimum
    over t is convex in α; it falls as α grows, because the slope interval
    shrinks. Newton's method from the left runs monotonically to its root, and a
    last step to the right makes the proof hold.

    Args:
      matrix: A, of shape (d, d).
      c: any finite number above μ2(A), which is δ(A, 1), by more than the
        rounding errors of a proof.

    Returns:
      A `SlopeInterval`. Where every α in (0, 1] qualifies, `alpha` is the
      smallest positive float of full precision, about 2e-308.

    Raises:
      ValueError: if the matrix is not square and finite, c not finite, or
        μ2(A) <= c cannot be proven, so that no α qualifies.
      TypeError: if an argument is not numeric.

    >>> interval = largest_slope_interval([[-1.0, 2.0], [0.0, -1.0]], 0.1)
    >>> bool(0.0 < interval.alpha_lower_bound <= interval.alpha < 1.0)
    True
    """
    matrix = check_matrix(matrix)
    c = check_number(c, "c")
    norm = spectral_norm(matrix) or 1.0
    certificate = np.full(len(matrix), norm)
    least = certified_log_norm(matrix, 1.0, certificate)
    if least > c:
        raise ValueError(
            "`c` must not be smaller than what the logarithmic norm of "
            "`matrix` is proven not to exceed, or no slope interval qualifies. "
            f"Received: c={c} and a matrix with μ2 <= {least}"
        )
    alpha, scaled = _SMALLEST_ALPHA, matrix / norm
    for _ in range(_MOST_STEPS):
        t = best_certificate(scaled, alpha, 1e-9).numpy()
        certificate = t * norm
        excess = certified_log_norm(matrix, alpha, certificate) - c
        if excess <= 0.0:
            break
        slope = _slope(scaled, alpha, t)
        # Never smaller than the rounding of the bound, or the end is not met.
        step = max(excess / norm, 1e-13) / max(-slope, 1e-300)
        alpha = min(1.0, alpha + max(step, 1e-15 * alpha))
    else:
        alpha = 1.0
    bracket = worst_case_log_norm(matrix, alpha)
    lower = _refuted_below(matrix, c, bracket.witness.vector)
    return SlopeInterval(alpha, min(lower, alpha), certificate, bracket.witness)


def _slope(matrix: np.ndarray, alpha: float, t: np.ndarray) -> float:
    """Derivative of the certified bound with respect to α, τ held fixed.

    With x the top eigenvector of M(t) and y = Ax, the bound is
    m xᵀy + (τ x² + (1-α)² y² / τ) / 4, summed over the entries.
    """
    weighted = matrix / np.sqrt(t)[:, None]
    relaxed = (1 + alpha) / 4 * (matrix + matrix.T)
    relaxed += (1 - alpha) / 4 * (np.diag(t) + weighted.T @ weighted)
    x = np.linalg.eigh(relaxed)[1][:, -1]
    y = matrix @ x
    return (x @ y - np.sum(y**2 / t)) / 2


def _refuted_below(matrix: np.ndarray, c: float, x: np.ndarray) -> float:
    """The α below which x proves δ > c: P - αN > c, P, N >= 0."""
    terms = x * (matrix @ x)
    positive = np.sum(np.maximum(terms, 0.0)) / (x @ x)
    negative = np.sum(np.maximum(-terms, 0.0)) / (x @ x)
    error = 1e-15 * (3 * len(x) + 5) * np.abs(x) @ np.abs(matrix) @ np.abs(x)
    gain = positive - error / (x @ x) - c
    if gain <= 0.0:
        return 0.0
    return min(1.0, float(gain / max(negative, 1e-300) * (1 - 1e-14)))
