"""The nearest matrix with δ∞ <= δ̄, and a proof of how near it is."""

import numpy as np

from stable_node_tf.stability.inf_log_norm import inf_log_norm, row_bounds
from stable_node_tf.stability.rounding import UNIT_ROUNDOFF, relative_rounding


def nearest_rows(
    matrix: np.ndarray, delta_bar: float, alpha: float
) -> tuple[np.ndarray, float, float]:
    """Returns B with δ∞(B) <= δ̄, |B - A|_F, and a lower bound of the latter.

    >>> B, distance, _ = nearest_rows(np.array([[1.0, 2.0], [0, -1]]), 1.4, 0.5)
    >>> B.round(9).tolist(), round(distance, 9)
    ([[0.2, 1.2], [0.0, -1.0]], 1.13137085)
    """
    bound, _ = row_bounds(delta_bar, alpha)
    if inf_log_norm(matrix, alpha)[1] <= delta_bar:
        return matrix, 0.0, 0.0
    nearest = _projected(matrix, bound)
    scale = max(np.abs(nearest).max(), np.abs(matrix).max())
    A, moved = matrix / scale, (matrix - nearest) / scale
    distance = float(np.linalg.norm(moved) * scale)
    # Every matrix inside satisfies a_ii + Σ s_j a_ij <= c for all |s_j| <= 1.
    shift = np.diagonal(moved)[:, None]
    normals = np.divide(moved, shift, out=np.zeros_like(A), where=shift > 0.0)
    normals = np.clip(normals, -1.0, 1.0)
    np.fill_diagonal(normals, 1.0)
    magnitude = (np.abs(normals) * np.abs(A)).sum(1) + abs(bound / scale)
    violated = (normals * A).sum(1) - bound / scale
    violated -= relative_rounding(2 * len(A) + 16) * magnitude
    lengths = np.maximum(violated, 0.0) / np.linalg.norm(normals, axis=1)
    lower = float(np.linalg.norm(lengths)) * scale
    lower *= 1.0 - relative_rounding(4 * len(A) + 16)
    return nearest, distance, min(lower, distance)


def _projected(matrix: np.ndarray, bound: float) -> np.ndarray:
    """Lowers the lengths of each row by one λ, until a_ii + Σ |a_ij| <= c."""
    size = len(matrix)
    diagonal, lengths = np.diagonal(matrix), np.abs(matrix)
    np.fill_diagonal(lengths, 0.0)
    rounding = (size + 8) * UNIT_ROUNDOFF
    sums = lengths.sum(1)
    inside = diagonal + sums + rounding * (sums + np.abs(diagonal)) <= bound
    # λ = max_k (a_ii + s_1 + ... + s_k - c) / (k + 1) for sorted lengths s.
    sums = np.cumsum(np.sort(lengths, 1)[:, :0:-1], 1)
    sums = np.concatenate([np.zeros((size, 1)), sums], 1)
    sums += (diagonal - bound)[:, None]
    shift = np.max(sums / np.arange(1, size + 1), 1)
    shift = np.where(inside, 0.0, np.maximum(shift, 0.0))
    rest = np.maximum(lengths - shift[:, None], 0.0)
    # The rounding of what is stored.
    sums = rest.sum(1)
    limit = bound - sums - 4 * rounding * (sums + abs(bound))
    moved = np.minimum(diagonal - shift, limit - np.finfo(np.float64).tiny)
    rest = np.copysign(rest, matrix)
    np.fill_diagonal(rest, np.where(inside, diagonal, moved))
    return rest
