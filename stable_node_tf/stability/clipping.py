"""The projection used during training: clips the log norm, certified.

For a fixed certificate T = diag(t), m = (1+α)/2 and r = (1-α)/2, the certified
set is a spectral-norm ball in other coordinates,

    δ_T(B) <= δ̄   <=>   |W|₂ <= 1,   W = K^(1/2) (B + C) Q^(-1/2),

with diagonal K, C, Q that depend on T and δ̄ (see `_certified_ball`), so that
clipping the singular values of W ends inside it. These are TensorFlow
operations with static shapes and without Python callbacks: they run inside a
compiled train step.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from stable_node_tf.stability.certificate_step import (
    BallRates,
    step_by_eigenvectors,
    step_by_projector,
)
from stable_node_tf.stability.singular_value_clipping import (
    active_spectrum,
    clip_active_spectrum,
    clip_by_products,
    clip_singular_values,
    compiled_by_xla,
)

_ROUNDING_ALLOWANCE = 1e-12
_TINY = 1e-30
_SMALLEST_SHARE = 1e-2
_MOST_GROWTH = 1e3
# Rounding errors are divided by 1 - α, where it is not zero. A wider interval
# of slopes only raises bounds.
_ALMOST_ONE = 1.0 - 1e-8


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
    such a T every step of the optimiser would be undone in that row. For the
    same reason the next t is at least a hundredth of the root mean square of
    the singular values of A, which a t of almost nothing reaches step by step.

    The better T is a step of `stable_node_tf.stability.certificate_step` away.

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
    if alpha < 1.0:
        alpha = min(alpha, _ALMOST_ONE)
    floor = 1.01 * smallest_certificate(delta_bar, alpha, step)
    size, wide = matrix.shape[0], tf.cast(matrix, tf.float64)
    largest = tf.reduce_max(certificate)
    certificate = tf.maximum(
        certificate, tf.maximum(_SMALLEST_SHARE * largest, floor)
    )
    ball = _certified_ball(
        certificate, delta_bar, alpha, step, size, matrix.dtype
    )
    scaled = wide + tf.linalg.diag(ball.centre)
    scaled = tf.cast(scaled * ball.row[:, None] * ball.column, matrix.dtype)
    rates = BallRates(*(tf.cast(rate, matrix.dtype) for rate in ball.rates))
    if compiled_by_xla():
        clipped = clip_by_products(scaled, 1.0)
        change = step_by_projector(
            rates, scaled, clipped.excess, clipped.active
        )
    else:
        first, last = active_spectrum(scaled, 1.0)
        clipped = clip_active_spectrum(last)
        change = step_by_eigenvectors(rates, first)
    # Products take less time than quotients.
    rows, columns = 1.0 / ball.row[:, None], 1.0 / ball.column
    moved = tf.cast(clipped.matrix, tf.float64) * rows * columns
    moved = tf.cast(moved - tf.linalg.diag(ball.centre), matrix.dtype)
    moved = tf.where(clipped.inside, matrix, moved)
    typical = tf.norm(wide) / np.sqrt(size)
    least = _SMALLEST_SHARE * tf.minimum(typical, _MOST_GROWTH * largest)
    proposal = certificate * tf.exp(tf.cast(change, tf.float64))
    return ClippedLogNorm(
        moved,
        certificate,
        tf.maximum(proposal, tf.maximum(least, floor)),
        tf.cast(tf.norm(moved - matrix), tf.float64),
    )


class _Ball(NamedTuple):
    """The certified set of T as a ball, by vectors of shape (d,).

    It is |W|₂ <= 1 with W = row[:, None] (B + diag(centre)) column.
    """

    centre: tf.Tensor
    row: tf.Tensor
    column: tf.Tensor
    rates: BallRates


def _certified_ball(certificate, delta_bar, alpha, step, size, dtype):
    """The ball, smaller by the rounding errors of matrices of that dtype.

    With m = (1+α)/2, r = (1-α)/2, p = 1 + hrt and e = r + hm²t, M(t) <= δ̄I is

        BᵀKB + CKB + (CKB)ᵀ + CKC <= Q,

        K = p e / (2t),    C = m t / e,    Q = δ̄ + α t / (2e).

    δ̄ is lowered a little, for the rounding errors of M(t) at a matrix with
    |W|_F <= √d and for those of these coordinates.
    """
    m, r = (1.0 + alpha) / 2, (1.0 - alpha) / 2
    p = 1.0 + step * r * certificate
    e = r + step * m**2 * certificate
    row = tf.sqrt(p * e / (2 * certificate))
    centre = m * certificate / e
    part = alpha * certificate / (2 * e)
    root = np.sqrt(size)
    largest = root * tf.sqrt(abs(delta_bar) + tf.reduce_max(part))
    scale = largest / tf.reduce_min(row) + root * tf.reduce_max(centre)
    scale += root * r * tf.reduce_max(certificate)
    scale += abs(delta_bar) * (1.0 + (1.0 / r if r > 0.0 else 0.0))
    q = delta_bar - _ROUNDING_ALLOWANCE * scale + part
    room = 2 * _unit(dtype) * (root + tf.norm(row * centre / tf.sqrt(q)))
    column = tf.math.rsqrt(q) / (1.0 - room)
    growth = step * m**2 * certificate / e
    rates = BallRates(
        (step * r * certificate / p + growth - 1.0) / 2,
        -part * (1.0 - growth) / (2 * q),
        row * centre * (1.0 - growth) * column,
    )
    return _Ball(centre, row, column, rates)


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
