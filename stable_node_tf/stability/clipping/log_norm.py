"""The projection used during training: clips the log norm, certified.

For a fixed certificate T = diag(t), m = (1+α)/2 and r = (1-α)/2, the certified
set is a spectral-norm ball in other coordinates,

    δ_T(B) <= δ̄   <=>   |W|₂ <= 1,   W = K^(1/2) (B + C) Q^(-1/2),

with diagonal K, C, Q that depend on T and δ̄ (see `_certified_ball`, and
docs/theory.md, "The constraint in training"), so that clipping the singular
values of W ends inside it. These are TensorFlow operations with static shapes
and without Python callbacks: they run inside a compiled train step.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from stable_node_tf.stability.certificate import LARGEST_ALPHA
from stable_node_tf.stability.clipping.certificate_step import (
    BallRates,
    step_by_eigenvectors,
    step_by_projector,
)
from stable_node_tf.stability.clipping.singular_values import (
    active_spectrum,
    clip_active_spectrum,
    clip_by_products,
    clip_singular_values,
    compiled_by_xla,
    smallest_limit,
    unit_roundoff,
)

_ROUNDING_ALLOWANCE = 1e-12
_TINY = 1e-30
_SMALLEST_SHARE = 1e-2
# A carried t that is off by more than this factor has lost the matrix.
_MOST_OFF = 1e4
_LARGEST_STEP_TIMES_T = 1e4
# Slopes of less let rounding errors outweigh α t / (2e) in `_certified_ball`.
_SMALLEST_ALPHA = 1e-6
_LARGEST_RATIO = 1e6
_LARGEST_ENTRY = {tf.float32: 1e25, tf.float64: 1e150}


def smallest_certificate(
    delta_bar: float, alpha: float, step: float = 0.0
) -> float:
    """Infimum of the t for which Q > 0: 0 unless δ̄ is negative.

    Infinite if no matrix has δ_h <= δ̄, because 1 + 2hδ̄ is not above (r/m)².
    """
    middle = (1.0 + alpha) / 2
    least = alpha + 2 * step * middle**2 * delta_bar
    if least <= 0.0:
        return np.inf
    return max(0.0, -delta_bar * (1.0 - alpha) / least)


def certificate_range(
    delta_bar: float, alpha: float, step: float, dtype: tf.DType
) -> tuple[float, float]:
    """The t between which floating point holds the bound in the ball of T."""
    least = smallest_limit(dtype)
    low = max(least, 1.01 * smallest_certificate(delta_bar, alpha, step))
    high = min(1.0 / least, _LARGEST_ENTRY[dtype]) / _MOST_OFF
    if step > 0.0:
        high = min(high, _LARGEST_STEP_TIMES_T / step)
    if alpha < _SMALLEST_ALPHA:
        high = min(high, _LARGEST_RATIO * delta_bar)
    if low >= high:
        raise ValueError(
            f"{dtype.name} must have room for a certified matrix. Received: "
            f"delta_bar={delta_bar}, alpha={alpha}, step={step}, for which a "
            f"certificate would have to lie between {low:g} and {high:g}"
        )
    return low, high


class ClippedLogNorm(NamedTuple):
    """A matrix moved into the certified set, and what training keeps of it.

    Attributes:
      matrix: B, of the shape and dtype of A; δ_T(B) <= δ̄.
      certificate: t of that T, float64, of shape (d,).
      proposal: t for the next matrix.
      distance: |B - A|_F, float64.
    """

    matrix: tf.Tensor
    certificate: tf.Tensor
    proposal: tf.Tensor
    distance: tf.Tensor


def clip_log_norm(
    matrix: tf.Tensor,
    certificate: tf.Tensor,
    delta_bar: float,
    alpha: float,
    step: float = 0.0,
) -> ClippedLogNorm:
    """Moves a matrix into the set certified by T, and looks for a better T.

    The clipping leaves room for its rounding errors and for those of storing
    the result, so that the stored matrix satisfies δ_T <= δ̄ as it stands. A
    matrix that is seen to be inside is returned as it is: under XLA one inside
    by a margin of a few per cent, elsewhere any. So is one that holds NaN or
    infinity, together with the certificate.

    Small entries of t are raised first, which leaves it a certificate. At a
    nearest certified matrix with a row and a column of zeros t_i is zero; for
    such a T every step of the optimizer would be undone in that row. For the
    same reason the next t is at least a hundredth of the root mean square of
    the singular values of A. A t that is not within a factor 1e4 of that root,
    because A was zero before or has jumped, is replaced by that root.

    A is float32 or float64, t float64. With a step h > 0, δ_h is bounded
    instead of δ, see `euler_log_norm`.

    Raises:
      ValueError: if the dtype has no room for the bound.

    >>> eye, t = tf.eye(2), tf.constant([1e-9, 1.0], tf.float64)
    >>> clip_log_norm(eye, t, 0.0, 0.5).certificate.numpy()
    array([0.01, 1.  ])
    """
    if alpha == 1.0 and step == 0.0:
        clipped = _clip_symmetric_part(matrix, delta_bar)
        distance = _distance(clipped, tf.cast(matrix, tf.float64))
        return ClippedLogNorm(clipped, certificate, certificate, distance)
    if alpha < 1.0:
        # Rounding errors are divided by 1 - α, where it is not zero. A wider
        # interval of slopes only raises bounds.
        alpha = min(alpha, LARGEST_ALPHA)
    low, high = certificate_range(delta_bar, alpha, step, matrix.dtype)
    size = matrix.shape[0]
    wide = tf.cast(matrix, tf.float64)
    # Of the flow in float32, t is in proportion to what is large.
    if step > 0.0 or matrix.dtype == tf.float64:
        wide = _without_overflow(wide, matrix.dtype)
    largest = tf.reduce_max(certificate)
    # For h > 0 matrices inside have no norm beyond about 2 / h.
    reach = min(high, 2.0 / step) if step > 0.0 else high
    norm = tf.norm(wide)
    finite = tf.math.is_finite(norm)
    typical = tf.minimum(norm / np.sqrt(size), reach)
    lost = (largest * _MOST_OFF < typical) | (typical * _MOST_OFF < largest)
    largest = tf.where(lost & finite, typical, largest)
    certificate = tf.where(lost & finite, typical, certificate)
    certificate = tf.clip_by_value(
        tf.maximum(certificate, _SMALLEST_SHARE * largest), low, high
    )
    # W = K^(1/2) (A + C) Q^(-1/2), clipped, and a step of log t.
    ball = _certified_ball(
        certificate, delta_bar, alpha, step, size, matrix.dtype
    )
    scaled = wide + tf.linalg.diag(ball.center)
    row = tf.expand_dims(ball.row, 1)
    scaled = tf.cast(scaled * row * ball.column, matrix.dtype)
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
    # B = K^(-1/2) W Q^(1/2) - C. Products take less time than quotients.
    moved = tf.cast(clipped.matrix, tf.float64) * (1.0 / row)
    moved *= 1.0 / ball.column
    moved = tf.cast(moved - tf.linalg.diag(ball.center), matrix.dtype)
    moved = tf.where(clipped.inside, tf.cast(wide, matrix.dtype), moved)
    least = _SMALLEST_SHARE * tf.where(finite, typical, largest)
    proposal = certificate * tf.exp(tf.cast(change, tf.float64))
    proposal = tf.clip_by_value(tf.maximum(proposal, least), low, high)
    return ClippedLogNorm(moved, certificate, proposal, _distance(moved, wide))


def _without_overflow(wide: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """A, scaled down where it is so large that its squares or W overflow."""
    most = _LARGEST_ENTRY[dtype]
    peak = tf.reduce_max(tf.abs(wide))
    large = (peak > most) & tf.math.is_finite(peak)
    return tf.where(large, wide * (most / peak), wide)


def _distance(moved: tf.Tensor, wide: tf.Tensor) -> tf.Tensor:
    """|B - A|_F, or 0 where A is not finite and therefore left alone."""
    distance = tf.norm(tf.cast(moved, tf.float64) - wide)
    return tf.where(tf.math.is_finite(distance), distance, 0.0)


class _Ball(NamedTuple):
    """The certified set of T as a ball, by vectors of shape (d,).

    It is |W|₂ <= 1 with W = row[:, None] (B + diag(center)) column.
    """

    center: tf.Tensor
    row: tf.Tensor
    column: tf.Tensor
    rates: BallRates


def _certified_ball(
    certificate: tf.Tensor,
    delta_bar: float,
    alpha: float,
    step: float,
    size: int,
    dtype: tf.DType,
) -> _Ball:
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
    center = m * certificate / e
    part = alpha * certificate / (2 * e)
    # The room for M(t), then that for the coordinates.
    root = np.sqrt(size)
    largest = root * tf.sqrt(abs(delta_bar) + tf.reduce_max(part))
    scale = largest / tf.reduce_min(row) + root * tf.reduce_max(center)
    scale += root * r * tf.reduce_max(certificate)
    scale += abs(delta_bar) * (1.0 + (1.0 / r if r > 0.0 else 0.0))
    q = delta_bar - _ROUNDING_ALLOWANCE * scale + part
    room = 2 * unit_roundoff(dtype)
    room *= root + tf.norm(row * center / tf.sqrt(q))
    column = tf.math.rsqrt(q) / (1.0 - room)
    # d log of row, column and center / d log t.
    growth = step * m**2 * certificate / e
    rates = BallRates(
        (step * r * certificate / p + growth - 1.0) / 2,
        -part * (1.0 - growth) / (2 * q),
        row * center * (1.0 - growth) * column,
    )
    return _Ball(center, row, column, rates)


def _clip_symmetric_part(matrix: tf.Tensor, delta_bar: float) -> tf.Tensor:
    """α = 1: δ is the logarithmic norm itself; clips its eigenvalues.

    They are singular values after a shift that makes them positive.
    """
    stored = matrix
    matrix = tf.cast(stored, tf.float64)
    if stored.dtype == tf.float64:
        matrix = _without_overflow(matrix, stored.dtype)
    norm = tf.norm(matrix)
    shift = norm + 2 * abs(delta_bar) + _TINY
    room = unit_roundoff(stored.dtype) + _ROUNDING_ALLOWANCE
    limit = shift + delta_bar - room * (2 * norm + abs(delta_bar))
    # Numbers below the normal ones are stored as zeros.
    limit -= matrix.shape[0] * float(np.finfo(stored.dtype.as_numpy_dtype).tiny)
    symmetric = (matrix + tf.transpose(matrix)) / 2
    shifted = symmetric + shift * tf.eye(matrix.shape[0], dtype=matrix.dtype)
    clipped = clip_singular_values(shifted, limit)
    moved = tf.cast(matrix + (clipped.matrix - shifted), stored.dtype)
    return tf.where(clipped.inside, tf.cast(matrix, stored.dtype), moved)
