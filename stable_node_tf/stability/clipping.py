"""The projection used during training: clips the log norm, certified.

For a fixed certificate T = diag(t), m = (1+α)/2 and r = (1-α)/2, the certified
set is a spectral-norm ball in other coordinates,

    δ_T(B) <= δ̄   <=>   |W|₂ <= 1,   W = T^(-1/2) (B + (m/r) T) Q^(-1/2),
    Q = (2δ̄/r) I + (α/r²) T > 0,

so that clipping the singular values of W ends inside it. These are TensorFlow
operations with static shapes and without Python callbacks: they run inside a
compiled train step.
"""

import numpy as np
import tensorflow as tf

from stable_node_tf.stability.singular_value_clipping import (
    clip_singular_values,
)

_ROUNDING_ALLOWANCE = 1e-12
_CERTIFICATE_RATE = 0.3
_LARGEST_CERTIFICATE_STEP = 0.2
_TINY = 1e-30
_SMALLEST_SHARE = 1e-2


def smallest_certificate(delta_bar: float, alpha: float) -> float:
    """Infimum of the t for which Q > 0: 0 unless δ̄ is negative.

    >>> smallest_certificate(-1.0, 0.5)
    1.0
    """
    return max(0.0, -delta_bar * (1.0 - alpha) / alpha)


def usable_certificate(certificate, delta_bar: float, alpha: float):
    """Raises the smallest entries of t, which leaves it a certificate.

    At a nearest certified matrix with a row and a column of zeros t_i is zero;
    for such a T every step of the optimiser would be undone in that row.

    >>> usable_certificate(tf.constant([1e-9, 1.0]), 0.0, 0.5).numpy()
    array([0.01, 1.  ], dtype=float32)
    """
    floor = 1.01 * smallest_certificate(delta_bar, alpha)
    least = _SMALLEST_SHARE * tf.reduce_max(certificate)
    return tf.maximum(certificate, tf.maximum(least, floor))


def clip_log_norm(matrix, certificate, delta_bar: float, alpha: float):
    """Moves a matrix into the set certified by T, and looks for a better T.

    The clipping leaves room for its rounding errors and for those of storing
    the result, so that the stored matrix satisfies δ_T <= δ̄ as it stands. A
    matrix that is seen to be inside is returned as it is: under XLA one inside
    by a margin of a few per cent, elsewhere any.

    The better T takes less clipping: one damped Gauss-Newton step along the
    gradient of |(WᵀW - I)₊|² with respect to log t, where ₊ is the positive
    part. Its stationary points are those of the nearest certified matrix, at
    which the multiplier X of M(t) <= δ̄I satisfies t_i² X_ii = (B X Bᵀ)_ii.

    Args:
      matrix: A, of shape (d, d), float32 or float64.
      certificate: t, float64, of shape (d,), above `smallest_certificate`.
      delta_bar: δ̄, the bound on the worst-case logarithmic norm.
      alpha: smallest slope, in (0, 1].

    Returns:
      B in the dtype of `matrix`, with δ_T(B) <= δ̄ for the given t; and the
      proposal for the next t, float64, of shape (d,).
    """
    if alpha == 1.0:
        return _clip_symmetric_part(matrix, delta_bar), certificate
    ball, limit, q = _to_ball(matrix, certificate, delta_bar, alpha)
    clipped = clip_singular_values(ball, limit)
    moved, step = _from_ball(ball, clipped, certificate, q, alpha)
    floor = 1.01 * smallest_certificate(delta_bar, alpha)
    proposal = tf.maximum(certificate * tf.exp(step), floor)
    return tf.where(clipped.inside, matrix, moved), proposal


# XLA runs the many small operations of these two in one go.


@tf.function(jit_compile=True, autograph=False)
def _to_ball(matrix, certificate, delta_bar, alpha):
    """W in the dtype of the matrix, the limit that leaves room, and q."""
    stored = matrix.dtype
    matrix = tf.cast(matrix, tf.float64)
    m, r = (1.0 + alpha) / 2, (1.0 - alpha) / 2
    # Of the result, which has |W|_F <= √d, whatever the matrix was.
    root = np.sqrt(matrix.shape[0])
    scale = root * (2 * m / r + 1) * tf.reduce_max(certificate)
    target = delta_bar - _ROUNDING_ALLOWANCE * (scale + abs(delta_bar) / r)
    q = 2 * target / r + alpha / r**2 * certificate
    weight = tf.sqrt(certificate[:, None] * q[None, :])
    ball = (matrix + tf.linalg.diag(m / r * certificate)) / weight
    centre = m / r * tf.sqrt(certificate / q)
    room = 2 * _unit(stored) * (root + tf.norm(centre))
    return tf.cast(ball, stored), tf.cast(1.0 - room, stored), q


@tf.function(jit_compile=True, autograph=False)
def _from_ball(ball, clipped, certificate, q, alpha):
    """The clipped matrix in its own coordinates, and the step of log t."""
    m, r = (1.0 + alpha) / 2, (1.0 - alpha) / 2
    centre = m / r * certificate
    moved = tf.cast(clipped.matrix, tf.float64)
    moved *= tf.sqrt(certificate[:, None] * q[None, :])
    moved = tf.cast(moved - tf.linalg.diag(centre), ball.dtype)

    # d log q = share · d log t; shift: the diagonal of (m/r) T within W.
    share = tf.cast(alpha / r**2 * certificate / q, ball.dtype)
    shift = tf.cast(centre / tf.sqrt(certificate * q), ball.dtype)

    def change(direction):
        rows, columns = direction[:, None], (share * direction)[None, :]
        return tf.linalg.diag(shift * direction) - (rows + columns) / 2 * ball

    with_excess = tf.matmul(ball, clipped.excess)
    products = with_excess * ball
    descent = tf.reduce_sum(products, 1) + share * tf.reduce_sum(products, 0)
    descent -= 2 * shift * tf.linalg.diag_part(with_excess)
    image = tf.matmul(ball, change(descent), transpose_a=True)
    image = tf.matmul(clipped.active, image + tf.transpose(image))
    curvature = tf.reduce_sum(image * tf.transpose(image))
    gain = tf.math.divide_no_nan(tf.reduce_sum(descent**2), curvature)
    step = tf.cast(_CERTIFICATE_RATE * gain * descent, tf.float64)
    return moved, step / (1.0 + tf.abs(step) / _LARGEST_CERTIFICATE_STEP)


def _clip_symmetric_part(matrix, delta_bar):
    """α = 1: δ is the logarithmic norm itself; clips its eigenvalues.

    They are singular values after a shift that makes them positive.
    """
    stored = matrix
    matrix = tf.cast(stored, tf.float64)
    norm = tf.norm(matrix)
    shift = norm + 2 * abs(delta_bar) + _TINY
    room = _unit(stored.dtype) + _ROUNDING_ALLOWANCE
    limit = shift + delta_bar - room * (2 * norm + abs(delta_bar))
    symmetric = (matrix + tf.transpose(matrix)) / 2
    shifted = symmetric + shift * tf.eye(matrix.shape[0], dtype=matrix.dtype)
    clipped = clip_singular_values(shifted, limit)
    moved = tf.cast(matrix + (clipped.matrix - shifted), stored.dtype)
    return tf.where(clipped.inside, stored, moved)


def _unit(dtype):
    return float(np.finfo(dtype.as_numpy_dtype).eps) / 2
