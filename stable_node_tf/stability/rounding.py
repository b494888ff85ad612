"""Bounds on floating-point errors, so that a printed bound is a true one."""

import numpy as np

UNIT_ROUNDOFF = float(np.finfo(np.float64).eps) / 2


def relative_rounding(operations: int) -> float:
    """γ_n = nu / (1 - nu): relative error after n float64 roundings.

    Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1. Holds
    for sums in any order, with or without fused multiply-add.

    >>> 1e-15 < relative_rounding(10) < 2e-15
    True
    """
    product = operations * UNIT_ROUNDOFF
    return product / (1.0 - product)


def norm_of_rounding(magnitude: np.ndarray, operations: int) -> float:
    """Spectral norm of the error of a matrix formed with rounding.

    Args:
      magnitude: entry-wise bound on the sums of absolute terms, (d, d).
      operations: number of roundings an entry goes through.

    Returns:
      γ_n times the Frobenius norm, itself rounded upwards.

    >>> norm_of_rounding(np.zeros((2, 2)), 5)
    0.0
    """
    growth = 1.0 + relative_rounding(2 * magnitude.size + 4)
    largest = float(magnitude.max()) or 1.0
    norm = largest * np.linalg.norm(magnitude / largest)
    return float(relative_rounding(operations) * norm * growth)


def largest_eigenvalue_above(symmetric: np.ndarray, error: float) -> float:
    """A number proven to be at least λmax of every matrix near `symmetric`.

    If the Cholesky factorisation of sI - M - cI runs to its end in floating
    point, with c = γ_{d+1} / (1 - γ_{d+1}) · trace plus underflow, then
    sI - M is positive definite (Rump, BIT 2006, Theorem 2.3). s is the computed
    λmax, padded and widened until that test passes.

    Args:
      symmetric: M, of shape (d, d), exactly symmetric, float64.
      error: bound on the spectral norm of the error in M.

    Returns:
      s + error >= λmax(M + E) for every symmetric E with |E|₂ <= error.

    >>> largest_eigenvalue_above(np.diag([1.0, 3.0]), 0.0) >= 3.0
    True
    """
    size = len(symmetric)
    computed = np.linalg.eigvalsh(symmetric)[-1]
    scale = max(np.abs(symmetric).max(), np.abs(computed))
    tiny = np.finfo(np.float64).tiny
    gamma = relative_rounding(size + 2)
    padding = 4 * size * UNIT_ROUNDOFF * scale + size * tiny
    while True:
        shifted = (computed + padding) * np.eye(size) - symmetric
        np.fill_diagonal(shifted, np.diag(shifted) - 4 * UNIT_ROUNDOFF * scale)
        trace = np.abs(np.diag(shifted)).sum() * (1 + relative_rounding(size))
        margin = gamma / (1 - gamma) * trace + size * (size + 4) * tiny
        np.fill_diagonal(shifted, np.diag(shifted) - margin)
        try:
            np.linalg.cholesky(shifted)
        except np.linalg.LinAlgError:
            padding *= 2
            continue
        bound = computed + padding + error
        return float(np.nextafter(bound, np.inf))
