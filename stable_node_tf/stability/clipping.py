"""The projection used during training: clips the log norm, certified.

For a fixed certificate T = diag(t), m = (1+α)/2 and r = (1-α)/2, the certified
set is a spectral-norm ball in other coordinates,

    δ_T(B) <= δ̄   <=>   |W|₂ <= 1,   W = T^(-1/2) (B + (m/r) T) Q^(-1/2),
    Q = (2δ̄/r) I + (α/r²) T > 0,

so that clipping the singular values of W ends inside it. These are TensorFlow
operations with static shapes and without Python callbacks: they run inside a
compiled train step.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from stable_node_tf.stability.singular_value_clipping import (
    clip_by_eigenvectors,
    clip_by_products,
    clip_singular_values,
    compiled_by_xla,
    eigendecompose,
    scaled_gram,
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


class ClippedLogNorm(NamedTuple):
    """A matrix moved into the certified set, and what training keeps of it.

    Attributes:
      matrix: B, of the shape (d, d) and dtype of A; δ_T(B) <= δ̄.
      certificate: t of that T, float64, of shape (d,).
      proposal: t for the next matrix, likewise.
      distance: |B - A|_F, float64.
    """

    matrix: tf.Tensor
    certificate: tf.Tensor
    proposal: tf.Tensor
    distance: tf.Tensor


def clip_log_norm(
    matrix, certificate, delta_bar: float, alpha: float
) -> ClippedLogNorm:
    """Moves a matrix into the set certified by T, and looks for a better T.

    The clipping leaves room for its rounding errors and for those of storing
    the result, so that the stored matrix satisfies δ_T <= δ̄ as it stands. A
    matrix that is seen to be inside is returned as it is: under XLA one inside
    by a margin of a few per cent, elsewhere any.

    Small entries of t are raised first, which leaves it a certificate. At a
    nearest certified matrix with a row and a column of zeros t_i is zero; for
    such a T every step of the optimiser would be undone in that row.

    The better T takes less clipping: one damped Gauss-Newton step along the
    gradient of |(WᵀW - I)₊|² with respect to log t, where ₊ is the positive
    part. Its stationary points are those of the nearest certified matrix, at
    which the multiplier X of M(t) <= δ̄I satisfies t_i² X_ii = (B X Bᵀ)_ii.

    Args:
      matrix: A, of shape (d, d), float32 or float64.
      certificate: t > 0, float64, of shape (d,).
      delta_bar: δ̄, the bound on the worst-case logarithmic norm.
      alpha: smallest slope, in (0, 1].

    Returns:
      A `ClippedLogNorm`.

    >>> eye, t = tf.eye(2), tf.constant([1e-9, 1.0], tf.float64)
    >>> clipped = clip_log_norm(eye, t, 0.0, 0.5)
    >>> clipped.certificate.numpy()
    array([0.01, 1.  ])
    >>> bool(clipped.matrix[0, 0] <= 0.0)
    True
    """
    if alpha == 1.0:
        clipped = _clip_symmetric_part(matrix, delta_bar)
        distance = tf.norm(tf.cast(clipped - matrix, tf.float64))
        return ClippedLogNorm(clipped, certificate, certificate, distance)
    # As tensors: XLA compiles a function anew for every Python number.
    bound = tf.constant(delta_bar, tf.float64)
    slope = tf.constant(alpha, tf.float64)
    if compiled_by_xla():
        ball = _to_ball(matrix, certificate, bound, slope)
        clipped = clip_by_products(ball.matrix, ball.limit)
        return _from_ball(matrix, ball, clipped, bound, slope)
    ball, gram = _before_eigh(matrix, certificate, bound, slope)
    decomposition = eigendecompose(gram, ball.limit)
    return _after_eigh(matrix, ball, decomposition, bound, slope)


# XLA runs the many small operations of these two in one go.


@tf.function(jit_compile=True, autograph=False)
def _before_eigh(matrix, certificate, delta_bar, alpha):
    ball = _to_ball(matrix, certificate, delta_bar, alpha)
    return ball, scaled_gram(ball.matrix, ball.limit)


@tf.function(jit_compile=True, autograph=False)
def _after_eigh(matrix, ball, decomposition, delta_bar, alpha):
    clipped = clip_by_eigenvectors(decomposition)
    return _from_ball(matrix, ball, clipped, delta_bar, alpha)


class _Ball(NamedTuple):
    """The certified set in other coordinates: |matrix|₂ <= limit."""

    matrix: tf.Tensor
    limit: tf.Tensor
    certificate: tf.Tensor
    q: tf.Tensor


def _to_ball(matrix, certificate, delta_bar, alpha):
    """W in the dtype of the matrix, and the limit that leaves room."""
    stored = matrix.dtype
    matrix = tf.cast(matrix, tf.float64)
    m, r = (1.0 + alpha) / 2, (1.0 - alpha) / 2
    least = _SMALLEST_SHARE * tf.reduce_max(certificate)
    certificate = tf.maximum(certificate, least)
    certificate = tf.maximum(certificate, _floor(delta_bar, alpha))
    # Of the result, which has |W|_F <= √d, whatever the matrix was.
    root = np.sqrt(matrix.shape[0])
    scale = root * (2 * m / r + 1) * tf.reduce_max(certificate)
    target = delta_bar - _ROUNDING_ALLOWANCE * (scale + abs(delta_bar) / r)
    q = 2 * target / r + alpha / r**2 * certificate
    weight = tf.sqrt(certificate[:, None] * q[None, :])
    ball = (matrix + tf.linalg.diag(m / r * certificate)) / weight
    centre = m / r * tf.sqrt(certificate / q)
    room = 2 * _unit(stored) * (root + tf.norm(centre))
    return _Ball(
        tf.cast(ball, stored), tf.cast(1.0 - room, stored), certificate, q
    )


def _from_ball(matrix, ball, clipped, delta_bar, alpha):
    """The clipped matrix in its own coordinates, and the next certificate."""
    _, _, certificate, q = ball
    m, r = (1.0 + alpha) / 2, (1.0 - alpha) / 2
    centre = m / r * certificate
    moved = tf.cast(clipped.matrix, tf.float64)
    moved *= tf.sqrt(certificate[:, None] * q[None, :])
    moved = tf.cast(moved - tf.linalg.diag(centre), matrix.dtype)
    moved = tf.where(clipped.inside, matrix, moved)

    # d log q = share · d log t; shift: the diagonal of (m/r) T within W.
    share = tf.cast(alpha / r**2 * certificate / q, matrix.dtype)
    shift = tf.cast(centre / tf.sqrt(certificate * q), matrix.dtype)

    def change(direction):
        rows, columns = direction[:, None], (share * direction)[None, :]
        scaled = (rows + columns) / 2 * ball.matrix
        return tf.linalg.diag(shift * direction) - scaled

    with_excess = tf.matmul(ball.matrix, clipped.excess)
    products = with_excess * ball.matrix
    descent = tf.reduce_sum(products, 1) + share * tf.reduce_sum(products, 0)
    descent -= 2 * shift * tf.linalg.diag_part(with_excess)
    image = tf.matmul(ball.matrix, change(descent), transpose_a=True)
    image = tf.matmul(clipped.active, image + tf.transpose(image))
    curvature = tf.reduce_sum(image * tf.transpose(image))
    gain = tf.math.divide_no_nan(tf.reduce_sum(descent**2), curvature)
    step = tf.cast(_CERTIFICATE_RATE * gain * descent, tf.float64)
    step /= 1.0 + tf.abs(step) / _LARGEST_CERTIFICATE_STEP
    proposal = tf.maximum(certificate * tf.exp(step), _floor(delta_bar, alpha))
    distance = tf.norm(tf.cast(moved - matrix, tf.float64))
    return ClippedLogNorm(moved, certificate, proposal, distance)


def _floor(delta_bar, alpha):
    return 1.01 * tf.maximum(-delta_bar * (1.0 - alpha) / alpha, 0.0)


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
