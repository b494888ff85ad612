"""Bounds on floating-point errors, so that a printed bound is a true one.

See docs/theory.md, "Floating point".
"""

import numpy as np

UNIT_ROUNDOFF = float(np.finfo(np.float64).eps) / 2


def relative_rounding(operations: int) -> float:
    """γ_n = nu / (1 - nu): relative error after n float64 roundings.

    Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1. Holds
    for sums in any order, with or without fused multiply-add.
    """
    product = operations * UNIT_ROUNDOFF
    return product / (1.0 - product)


def norm_of_rounding(magnitude: np.ndarray, operations: int) -> np.ndarray:
    """Bounds |E|₂ for the errors E of matrices formed with rounding.

    `magnitude`, of shape (..., d, d), bounds the sum of absolute terms of each
    entry, which goes through that many operations. The bound is γ_n times the
    Frobenius norm, rounded upwards.
    """
    entries = magnitude.shape[-2] * magnitude.shape[-1]
    growth = 1.0 + relative_rounding(2 * entries + 4)
    largest = magnitude.max(axis=(-2, -1))
    largest = np.where(largest > 0.0, largest, 1.0)
    scaled = magnitude / largest[..., None, None]
    norm = largest * np.linalg.norm(scaled, axis=(-2, -1))
    return relative_rounding(operations) * norm * growth


def largest_eigenvalue_above(
    symmetric: np.ndarray, error: np.ndarray | float
) -> np.ndarray:
    """Returns s + error >= λmax(M + E) for every symmetric E, |E|₂ <= error.

    M = `symmetric` is float64, exactly symmetric, of shape (..., d, d). If the
    Cholesky factorization of sI - M - cI runs to its end in floating point,
    with c = γ_{d+1} / (1 - γ_{d+1}) · trace plus underflow, then sI - M is
    positive definite (Rump, Verification of positive definiteness, BIT 2006,
    Theorem 2.3). s is the computed λmax, padded and widened until that test
    passes for all matrices.
    """
    size = symmetric.shape[-1]
    computed = np.linalg.eigvalsh(symmetric)[..., -1]
    scale = np.maximum(np.abs(symmetric).max(axis=(-2, -1)), np.abs(computed))
    tiny = np.finfo(np.float64).tiny
    gamma = relative_rounding(size + 2)
    padding = 4 * size * UNIT_ROUNDOFF * scale + size * tiny
    eye = np.eye(size)
    while True:
        shift = (computed + padding)[..., None, None]
        shifted = shift * eye - symmetric
        # The rounding of the subtraction itself.
        shifted -= (4 * UNIT_ROUNDOFF * scale)[..., None, None] * eye
        trace = np.abs(np.diagonal(shifted, axis1=-2, axis2=-1)).sum(-1)
        trace *= 1 + relative_rounding(size)
        margin = gamma / (1 - gamma) * trace + size * (size + 4) * tiny
        try:
            np.linalg.cholesky(shifted - margin[..., None, None] * eye)
        except np.linalg.LinAlgError:
            padding = 2 * padding
            continue
        return np.nextafter(computed + padding + error, np.inf)
