"""Steps of the certificate that follow a matrix through training.

The certified set of T is a ball |W|₂ <= 1, see `clipping` beside this file. A
better T takes less clipping: one damped Gauss-Newton step along the gradient of
|(WᵀW - I)₊|² with respect to log t, where ₊ is the positive part. Stationary
points are those of the nearest certified matrix, at which the multiplier X of
M(t) <= δ̄I satisfies t_i² X_ii = (B X Bᵀ)_ii.
"""

from typing import NamedTuple

import tensorflow as tf

from stable_node_tf.stability.clipping.singular_values import (
    ActiveSpectrum,
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


def step_by_eigenvectors(rates: BallRates, spectrum: ActiveSpectrum):
    """The step from the eigenvalues of WᵀW above 1 and their eigenvectors V.

    Args:
      rates: `BallRates` in the dtype of W.
      spectrum: of the matrix W, of shape (d, d).

    Returns:
      Change of log t, of shape (d,), at most 0.2 in absolute value.
    """
    vectors, image = spectrum.vectors, spectrum.image
    row, column, shift = (tf.expand_dims(rate, 1) for rate in rates)
    left = row * image + shift * vectors
    right = (column * spectrum.eigenvalues) * vectors
    slopes = image * left + vectors * right
    descent = tf.linalg.matvec(slopes, 2 * (1.0 - spectrum.eigenvalues))
    # Vᵀ Wᵀ dW V, up to a skew-symmetric part.
    weights = tf.expand_dims(descent, 1)
    change = tf.matmul(image, weights * left, transpose_a=True)
    change += tf.matmul(vectors, weights * right, transpose_a=True)
    # |change + changeᵀ|² / 2; to transpose would take longer than this product.
    curvature = tf.reduce_sum(tf.square(change))
    curvature += tf.linalg.trace(tf.matmul(change, change))
    return _damped(descent, curvature)


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
    scale = tf.expand_dims(rates.row * descent, 1) + rates.column * descent
    change = tf.linalg.diag(rates.shift * descent) + scale * matrix
    change = tf.matmul(matrix, change, transpose_a=True)
    change = tf.matmul(active, change + tf.transpose(change))
    curvature = tf.reduce_sum(change * tf.transpose(change)) / 2
    return _damped(descent, curvature)


def _damped(descent, half_curvature):
    squares = _RATE / _LARGEST_STEP / 2 * tf.reduce_sum(descent**2)
    gain = tf.math.divide_no_nan(squares, half_curvature)
    step = _LARGEST_STEP * tf.tanh(gain * descent)
    # Squares of large numbers overflow.
    return tf.where(tf.math.is_finite(step), step, tf.zeros_like(step))
