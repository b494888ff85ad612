"""The projection used during training: clips the log norm, certified.

For a fixed certificate T = diag(t), m = (1+α)/2 and r = (1-α)/2, the certified
set is a spectral-norm ball in other coordinates,

    δ_T(B) <= δ̄   <=>   |W|₂ <= 1,   W = K^(1/2) (B + C) Q^(-1/2),

with diagonal K, C, Q that depend on T and δ̄ (see `_coordinates`), so that
clipping the singular values of W ends inside it. These are TensorFlow
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


def smallest_certificate(
    delta_bar: float, alpha: float, step: float = 0.0
) -> float:
    """Infimum of the t for which Q > 0: 0 unless δ̄ is negative.

    Infinite if no matrix has δ_h <= δ̄, because 1 + 2hδ̄ is not above (r/m)².

    >>> smallest_certificate(-1.0, 0.5)
    1.0
    """
    middle = (1.0 + alpha) / 2
    least = alpha + 2 * step * middle**2 * delta_bar
    if least <= 0.0:
        return np.inf
    return max(0.0, -delta_bar * (1.0 - alpha) / least)


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
    matrix, certificate, delta_bar: float, alpha: float, step: float = 0.0
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
      step: h >= 0; if positive, δ_h is bounded in the place of δ, see
        `stable_node_tf.stability.log_norm.certified_log_norm`.

    Returns:
      A `ClippedLogNorm`.

    >>> eye, t = tf.eye(2), tf.constant([1e-9, 1.0], tf.float64)
    >>> clipped = clip_log_norm(eye, t, 0.0, 0.5)
    >>> clipped.certificate.numpy()
    array([0.01, 1.  ])
    >>> bool(clipped.matrix[0, 0] <= 0.0)
    True
    """
    if alpha == 1.0 and step == 0.0:
        clipped = _clip_symmetric_part(matrix, delta_bar)
        distance = tf.norm(tf.cast(clipped - matrix, tf.float64))
        return ClippedLogNorm(clipped, certificate, certificate, distance)
    floor = 1.01 * smallest_certificate(delta_bar, alpha, step)
    # Tensors: XLA compiles a function anew for every Python number.
    bound = _Bound(
        *(tf.constant(x, tf.float64) for x in (delta_bar, alpha, step, floor))
    )
    if compiled_by_xla():
        ball = _to_ball(matrix, certificate, bound)
        clipped = clip_by_products(ball.matrix, ball.limit)
        return _from_ball(matrix, ball, clipped, bound)
    ball, gram = _before_eigh(matrix, certificate, bound)
    decomposition = eigendecompose(gram, ball.limit)
    return _after_eigh(matrix, ball, decomposition, bound)


class _Bound(NamedTuple):
    """δ̄, α, h and what t must not fall below, as scalar tensors."""

    delta_bar: tf.Tensor
    alpha: tf.Tensor
    step: tf.Tensor
    floor: tf.Tensor


# XLA runs the many small operations of these two in one go.


@tf.function(jit_compile=True, autograph=False)
def _before_eigh(matrix, certificate, bound):
    ball = _to_ball(matrix, certificate, bound)
    return ball, scaled_gram(ball.matrix, ball.limit)


@tf.function(jit_compile=True, autograph=False)
def _after_eigh(matrix, ball, decomposition, bound):
    clipped = clip_by_eigenvectors(decomposition)
    return _from_ball(matrix, ball, clipped, bound)


class _Coordinates(NamedTuple):
    """K^(1/2), C and Q as vectors, and their derivatives along log t."""

    weight: tf.Tensor
    centre: tf.Tensor
    q: tf.Tensor
    weight_rate: tf.Tensor  # d log k / d log t, k = K^(1/2)
    centre_rate: tf.Tensor  # d c / d log t
    q_rate: tf.Tensor  # d log q / d log t


def _coordinates(certificate, bound, size):
    """The coordinates in which the certified set is a ball.

    With m = (1+α)/2, r = (1-α)/2, p = 1 + hrt and e = r + hm²t, M(t) <= δ̄I is

        BᵀKB + CKB + (CKB)ᵀ + CKC <= Q,

        K = p e / (2t),    C = m t / e,    Q = δ̄ + α t / (2e).

    δ̄ is lowered a little, for the rounding errors of M(t) at a matrix with
    |W|_F <= √d and for those of these coordinates.
    """
    delta_bar, alpha, step, _ = bound
    m, r = (1.0 + alpha) / 2, (1.0 - alpha) / 2
    p = 1.0 + step * r * certificate
    e = r + step * m**2 * certificate
    weight = tf.sqrt(p * e / (2 * certificate))
    centre = m * certificate / e
    part = alpha * certificate / (2 * e)
    root = np.sqrt(size)
    largest = root * tf.sqrt(abs(delta_bar) + tf.reduce_max(part))
    scale = largest / tf.reduce_min(weight) + root * tf.reduce_max(centre)
    scale += root * r * tf.reduce_max(certificate)
    scale += abs(delta_bar) + tf.math.divide_no_nan(abs(delta_bar), r)
    target = delta_bar - _ROUNDING_ALLOWANCE * scale
    q = target + part
    growth = step * m**2 * certificate / e
    return _Coordinates(
        weight,
        centre,
        q,
        (step * r * certificate / p + growth - 1.0) / 2,
        centre * (1.0 - growth),
        part * (1.0 - growth) / q,
    )


class _Ball(NamedTuple):
    """The certified set of T in its coordinates: |matrix|₂ <= limit."""

    matrix: tf.Tensor
    limit: tf.Tensor
    certificate: tf.Tensor


def _to_ball(matrix, certificate, bound):
    """W in the dtype of the matrix, and the limit that leaves room."""
    stored, size = matrix.dtype, matrix.shape[0]
    least = _SMALLEST_SHARE * tf.reduce_max(certificate)
    certificate = tf.maximum(certificate, tf.maximum(least, bound.floor))
    to = _coordinates(certificate, bound, size)
    weight = to.weight[:, None] / tf.sqrt(to.q)[None, :]
    matrix = tf.cast(matrix, tf.float64)
    ball = (matrix + tf.linalg.diag(to.centre)) * weight
    centre = to.weight * to.centre / tf.sqrt(to.q)
    room = 2 * _unit(stored) * (np.sqrt(size) + tf.norm(centre))
    return _Ball(
        tf.cast(ball, stored), tf.cast(1.0 - room, stored), certificate
    )


def _from_ball(matrix, ball, clipped, bound):
    """The clipped matrix in its own coordinates, and the next certificate."""
    stored, certificate = matrix.dtype, ball.certificate
    to = _coordinates(certificate, bound, matrix.shape[0])
    moved = tf.cast(clipped.matrix, tf.float64)
    moved *= tf.sqrt(to.q)[None, :] / to.weight[:, None]
    moved = tf.cast(moved - tf.linalg.diag(to.centre), stored)
    moved = tf.where(clipped.inside, matrix, moved)

    # dW = (rows + columns) ∘ W + diag(shift) along the direction of log t.
    rows = tf.cast(to.weight_rate, stored)
    columns = tf.cast(-to.q_rate / 2, stored)
    shift = tf.cast(to.weight * to.centre_rate / tf.sqrt(to.q), stored)

    def change(direction):
        scaled = (rows * direction)[:, None] + (columns * direction)[None, :]
        return tf.linalg.diag(shift * direction) + scaled * ball.matrix

    with_excess = tf.matmul(ball.matrix, clipped.excess)
    products = with_excess * ball.matrix
    ascent = rows * tf.reduce_sum(products, 1)
    ascent += columns * tf.reduce_sum(products, 0)
    ascent += shift * tf.linalg.diag_part(with_excess)
    descent = -2 * ascent
    image = tf.matmul(ball.matrix, change(descent), transpose_a=True)
    image = tf.matmul(clipped.active, image + tf.transpose(image))
    curvature = tf.reduce_sum(image * tf.transpose(image))
    gain = tf.math.divide_no_nan(tf.reduce_sum(descent**2), curvature)
    leap = tf.cast(_CERTIFICATE_RATE * gain * descent, tf.float64)
    leap /= 1.0 + tf.abs(leap) / _LARGEST_CERTIFICATE_STEP
    proposal = tf.maximum(certificate * tf.exp(leap), bound.floor)
    distance = tf.norm(tf.cast(moved - matrix, tf.float64))
    return ClippedLogNorm(moved, certificate, proposal, distance)


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
