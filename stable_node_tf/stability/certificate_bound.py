"""What a certificate proves in floating point, for many matrices at once."""

import numpy as np
import tensorflow as tf

from stable_node_tf.stability.certificate_search import certificate_matrix
from stable_node_tf.stability.rounding import (
    largest_eigenvalue_above,
    norm_of_rounding,
)

# Beside the d terms of a product, those that a term of M(t) goes through.
_ROUNDINGS = 24


def bound_above(
    matrix: np.ndarray,
    certificate: np.ndarray,
    lower_slope: np.ndarray | float,
    upper_slope: np.ndarray | float,
    step: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers proven to be at least λmax(M(t)), rounding errors included.

    The eigenvalues are verified by a Cholesky factorization, see
    `largest_eigenvalue_above`; the error of forming M(t) is added.

    Args:
      matrix: A, float64, of shape (..., d, d).
      certificate: t > 0, float64, of shape (..., d).
      lower_slope: of shape (..., d) or scalar, see `certificate_matrix`.
      upper_slope: likewise.
      step: h >= 0.

    Returns:
      The bounds, of shape (...), infinite where terms overflow; and M(t) as it
      is computed, of shape (..., d, d).

    >>> bound, _ = bound_above(np.array([[0.0, 2.0], [0.0, 0.0]]), np.ones(2),
    ...                        1.0, 1.0)
    >>> round(float(bound), 9)
    1.0
    """
    computed, magnitude = (
        certificate_matrix(
            tf.constant(signed),
            tf.constant(certificate),
            lower_slope,
            upper_slope,
            step,
        ).numpy()
        for signed in (matrix, np.abs(matrix))
    )
    finite = np.isfinite(magnitude).all(axis=(-2, -1))
    kept = finite[..., None, None]
    bound = largest_eigenvalue_above(
        np.where(kept, computed, 0.0),
        norm_of_rounding(
            np.where(kept, magnitude, 0.0), matrix.shape[-1] + _ROUNDINGS
        ),
    )
    return np.where(finite, bound, np.inf), computed
