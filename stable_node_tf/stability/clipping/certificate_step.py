"""Steps of the certificate that follow a matrix through training.

The certified set of T is a ball |W|₂ <= 1, see `log_norm` beside this file. A
better T takes less clipping: one damped Gauss-Newton step along the gradient of
|(WᵀW - I)₊|² with respect to log t, where ₊ is the positive part. Stationary
points are those of the nearest certified matrix, at which the multiplier X of
M(t) <= δ̄I satisfies t_i² X_ii = (B X Bᵀ)_ii (docs/theory.md, "The constraint in
training").
"""

from typing import NamedTuple

import tensorflow as tf

from stable_node_tf.stability.clipping.singular_values import ActiveSpectrum

_RATE = 0.3
_LARGEST_STEP = 0.2


class BallRates(NamedTuple):
    """Derivatives of W along log t, three vectors of shape (d,).

    dW = (row[:, None] + column[None, :]) W + diag(shift).
    """

    row: tf.Tensor
    column: tf.Tensor
    shift: tf.Tensor


def step_by_eigenvectors(
    rates: BallRates, spectrum: ActiveSpectrum
) -> tf.Tensor:
    """The change of log t, at most 0.2, from eigenvectors V of WᵀW.

    They are those of the eigenvalues above 1, the others take no part.
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


def step_by_projector(
    rates: BallRates, matrix: tf.Tensor, excess: tf.Tensor, active: tf.Tensor
) -> tf.Tensor:
    """The same from matrix products, for XLA.

    `excess` is Z = (WᵀW - I)₊, `active` the projector on its range.
    """
    # For h = 0: half of -diag(WZWᵀ) - ρ ∘ diag(ZWᵀW) + 2c ∘ diag(WZ).
    with_excess = tf.matmul(matrix, excess)
    products = with_excess * matrix
    ascent = rates.row * tf.reduce_sum(products, 1)
    ascent += rates.column * tf.reduce_sum(products, 0)
    ascent += rates.shift * tf.linalg.diag_part(with_excess)
    descent = -2 * ascent
    # dW along it, and the change of WᵀW on the active space.
    scale = tf.expand_dims(rates.row * descent, 1) + rates.column * descent
    change = tf.linalg.diag(rates.shift * descent) + scale * matrix
    change = tf.matmul(matrix, change, transpose_a=True)
    change = tf.matmul(active, change + tf.transpose(change))
    curvature = tf.reduce_sum(change * tf.transpose(change)) / 2
    return _damped(descent, curvature)


def _damped(descent: tf.Tensor, half_curvature: tf.Tensor) -> tf.Tensor:
    """The length of the linearized problem times 0.3, and bounded."""
    squares = _RATE / _LARGEST_STEP / 2 * tf.reduce_sum(descent**2)
    gain = tf.math.divide_no_nan(squares, half_curvature)
    step = _LARGEST_STEP * tf.tanh(gain * descent)
    # Squares of large numbers overflow.
    return tf.where(tf.math.is_finite(step), step, tf.zeros_like(step))
