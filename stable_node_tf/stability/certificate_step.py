"""Steps of the certificate that follow a matrix through training.

The certified set of T is a ball |W|₂ <= 1, see `clipping` beside this file. A
better T takes less clipping: one damped Gauss-Newton step along the gradient of
|(WᵀW - I)₊|² with respect to log t, where ₊ is the positive part. Stationary
points are those of the nearest certified matrix, at which the multiplier X of
M(t) <= δ̄I satisfies t_i² X_ii = (B X Bᵀ)_ii.
"""

from typing import NamedTuple

import tensorflow as tf

from stable_node_tf.stability.singular_value_clipping import (
    Eigendecomposition,
)

_RATE = 0.3
_LARGEST_STEP = 0.2


class BallRates(NamedTuple):
    """Derivatives of W along log t, three vectors of shape (d,).

    dW = (row[:, None] + column[None, :]) W + diag(shift).
    """

    row: tf.Tensor
    column: tf.Tensor
    shift: tf.Tensor


def step_by_eigenvectors(rates: BallRates, decomposition: Eigendecomposition):
    """The step from an eigendecomposition V diag(λ) Vᵀ of WᵀW.

    Args:
      rates: `BallRates` in the dtype of W.
      decomposition: of the matrix W, of shape (d, d).

    Returns:
      Change of log t, of shape (d,), at most 0.2 in absolute value.
    """
    matrix, eigenvalues, vectors, _ = decomposition
    excess = tf.maximum(eigenvalues - 1.0, 0.0)
    image = tf.matmul(matrix, vectors)
    moved = rates.row[:, None] * image + rates.shift[:, None] * vectors
    ascent = tf.reduce_sum(image * moved * excess, 1)
    ascent += rates.column * tf.reduce_sum(
        tf.square(vectors) * (eigenvalues * excess), 1
    )
    descent = -2 * ascent
    # Vᵀ Wᵀ dW V
    change = tf.matmul(image, descent[:, None] * moved, transpose_a=True)
    change += eigenvalues[:, None] * tf.matmul(
        vectors, (rates.column * descent)[:, None] * vectors, transpose_a=True
    )
    active = tf.cast(excess > 0.0, matrix.dtype)
    change *= active[:, None] * active
    # |change + changeᵀ|² / 2; to transpose would take longer than this product.
    curvature = tf.reduce_sum(tf.square(change))
    curvature += tf.linalg.trace(tf.matmul(change, change))
    return _damped(descent, 2 * curvature)


def step_by_projector(rates: BallRates, matrix, excess, active):
    """The step from what matrix products tell of WᵀW, for XLA.

    Args:
      rates: `BallRates` in the dtype of W.
      matrix: W, of shape (d, d).
      excess: (WᵀW - I)₊, of shape (d, d).
      active: the projector on its range, likewise.

    Returns:
      Change of log t, of shape (d,), at most 0.2 in absolute value.
    """
    with_excess = tf.matmul(matrix, excess)
    products = with_excess * matrix
    ascent = rates.row * tf.reduce_sum(products, 1)
    ascent += rates.column * tf.reduce_sum(products, 0)
    ascent += rates.shift * tf.linalg.diag_part(with_excess)
    descent = -2 * ascent
    scale = (rates.row * descent)[:, None] + (rates.column * descent)[None, :]
    change = tf.linalg.diag(rates.shift * descent) + scale * matrix
    change = tf.matmul(matrix, change, transpose_a=True)
    change = tf.matmul(active, change + tf.transpose(change))
    curvature = tf.reduce_sum(change * tf.transpose(change))
    return _damped(descent, curvature)


def _damped(descent, curvature):
    gain = tf.math.divide_no_nan(tf.reduce_sum(descent**2), curvature)
    step = _RATE * gain * descent
    step /= 1.0 + tf.abs(step) / _LARGEST_STEP
    # Squares of large numbers overflow.
    return tf.where(tf.math.is_finite(step), step, tf.zeros_like(step))
