"""The projection used during training: clips singular values, certified.

For a fixed certificate T = diag(t), m = (1+α)/2 and r = (1-α)/2, the certified
set is a spectral-norm ball in other coordinates,

    δ_T(B) <= δ̄   <=>   |W|₂ <= 1,   W = T^(-1/2) (B + (m/r) T) Q^(-1/2),
    Q = (2δ̄/r) I + (α/r²) T > 0,

so that clipping the singular values of W ends exactly inside it, for one
symmetric eigendecomposition. These are TensorFlow operations with static
shapes and without Python callbacks: they run inside a compiled train step.
"""

import numpy as np
import tensorflow as tf

_ROUNDING_ALLOWANCE = 1e-12
_CERTIFICATE_RATE = 0.02
_TINY = 1e-300


def clip_singular_values(matrix, limit):
    """The nearest matrix, in the Frobenius norm, of spectral norm <= limit.

    Args:
      matrix: of shape (m, n); n <= m costs least. float32 or float64.
      limit: positive scalar.

    Returns:
      The clipped matrix, of shape (m, n); the right singular vectors, of shape
      (n, n); the singular values before clipping, of shape (n,), ascending.

    >>> clip_singular_values(tf.constant([[3.0, 0], [0, 1]]), 2.0)[0].numpy()
    array([[2., 0.],
           [0., 1.]], dtype=float32)
    """
    eigenvalues, vectors = tf.linalg.eigh(
        tf.matmul(matrix, matrix, transpose_a=True)
    )
    values = tf.sqrt(tf.maximum(eigenvalues, 0.0))
    shrink = limit / tf.maximum(values, limit)
    clipped = tf.matmul(
        tf.matmul(matrix, vectors * shrink), vectors, transpose_b=True
    )
    return clipped, vectors, values


def smallest_certificate(delta_bar: float, alpha: float) -> float:
    """Infimum of the t for which Q > 0: 0 unless δ̄ is negative.

    >>> smallest_certificate(-1.0, 0.5)
    1.0
    """
    return max(0.0, -delta_bar * (1.0 - alpha) / alpha)


def clip_log_norm(matrix, certificate, delta_bar: float, alpha: float):
    """Moves a matrix into the set certified by T, and looks for a better T.

    Computed in float64. The entries of the result round to the dtype of
    `matrix` afterwards; the clipping leaves room for that, so that the stored
    matrix satisfies δ_T <= δ̄ as it stands. A matrix already inside is returned
    as it is.

    The better T follows from the optimality conditions of the nearest certified
    matrix: with X the multiplier of M(t) <= δ̄I, the best t satisfies
    t_i² X_ii = (B X Bᵀ)_ii. The clipped part of the singular values is an
    estimate of X; a small step of log t towards that balance is proposed.

    Args:
      matrix: A, of shape (d, d), float32 or float64.
      certificate: t, float64, of shape (d,), above `smallest_certificate`.
      delta_bar: δ̄, the bound on the worst-case logarithmic norm.
      alpha: smallest slope, in (0, 1].

    Returns:
      B in the dtype of `matrix`, with δ_T(B) <= δ̄ for the given t; and the
      proposal for the next t, float64, of shape (d,).
    """
    stored = matrix
    matrix = tf.cast(stored, tf.float64)
    unit = float(np.finfo(stored.dtype.as_numpy_dtype).eps) / 2
    if alpha == 1.0:
        clipped = _clip_symmetric_part(matrix, delta_bar, unit)
        return tf.cast(clipped, stored.dtype), certificate

    m, r = (1.0 + alpha) / 2, (1.0 - alpha) / 2
    scale = tf.norm(matrix) + tf.reduce_max(certificate) + abs(delta_bar)
    target = delta_bar - _ROUNDING_ALLOWANCE * scale
    q = 2 * target / r + alpha / r**2 * certificate
    root_t, root_q = tf.sqrt(certificate)[:, None], tf.sqrt(q)[None, :]
    centre = tf.linalg.diag(m / r * certificate)
    ball = (matrix + centre) / (root_t * root_q)
    room = unit * (tf.norm(matrix / (root_t * root_q)) + tf.norm(ball))
    clipped, vectors, values = clip_singular_values(ball, 1.0 - room)
    moved = tf.cast(clipped * (root_t * root_q) - centre, stored.dtype)

    excess = tf.sqrt(tf.maximum(values - (1.0 - room), 0.0))
    directions = vectors * excess / tf.transpose(root_q)
    multiplier = tf.reduce_sum(directions**2, -1)
    images = tf.reduce_sum(tf.matmul(matrix, directions) ** 2, -1)
    pull = images / certificate - multiplier * certificate
    push = images / certificate + multiplier * certificate
    step = pull / (push + tf.reduce_mean(push) + _TINY)
    proposal = certificate * tf.exp(_CERTIFICATE_RATE * step)
    floor = 1.01 * smallest_certificate(delta_bar, alpha)
    proposal = tf.maximum(proposal, floor)

    inside = values[-1] <= 1.0
    return (
        tf.where(inside, stored, moved),
        tf.where(inside, certificate, proposal),
    )


def _clip_symmetric_part(matrix, delta_bar, unit):
    """α = 1: δ is the logarithmic norm itself; clips its eigenvalues."""
    target = delta_bar - (unit + _ROUNDING_ALLOWANCE) * (
        2 * tf.norm(matrix) + abs(delta_bar)
    )
    eigenvalues, vectors = tf.linalg.eigh((matrix + tf.transpose(matrix)) / 2)
    excess = tf.maximum(eigenvalues - target, 0.0)
    moved = matrix - tf.matmul(vectors * excess, vectors, transpose_b=True)
    return tf.where(eigenvalues[-1] <= delta_bar, matrix, moved)
