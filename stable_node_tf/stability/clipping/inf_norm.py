"""The projection onto {δ∞ <= δ̄}, row by row, for training and elsewhere.

The set is |row_i - q e_i|₁ <= ρ for a step of Euler, and half a space around
such balls for the flow (docs/theory.md, "The ∞-norm"). The projection lowers
all absolute values of a row by the same λ. These are TensorFlow operations with
static shapes, which run inside a compiled train step.
"""

import math

import numpy as np
import tensorflow as tf

from stable_node_tf.stability.rounding import UNIT_ROUNDOFF


def clip_rows(
    matrix: tf.Tensor, bound: float, opposite: float = math.inf
) -> tf.Tensor:
    """The nearest matrix with a_ii + Σ |a_ij| <= c, Σ |a_ij| - a_ii <= c'.

    The sums run over j ≠ i; `bound` is c, `opposite` c', see `row_bounds`. The
    result satisfies both as it is stored, and is nearest up to rounding. Rows
    that are seen to be inside stay as they are. NaN or infinity in a row make
    its diagonal entry NaN. Numbers that are not normal become zero, and those
    above 1/(8d) of the largest float are lowered to it.

    Raises:
      ValueError: if the dtype has no room for a matrix inside.

    >>> clip_rows(tf.constant([[1.0, 2.0], [0.0, -1.0]]), 1.4).numpy().round(3)
    array([[ 0.2,  1.2],
           [ 0. , -1. ]], dtype=float32)
    """
    dtype, size = matrix.dtype, matrix.shape[0]
    limits = np.finfo(dtype.as_numpy_dtype)
    eps, tiny = float(limits.eps), float(limits.tiny)
    most = float(limits.max) / (8 * size)
    of_sums = (size + 8) * UNIT_ROUNDOFF
    ball = math.isfinite(opposite)
    center = (bound - opposite) / 2 if ball else 0.0
    radius = (bound + opposite) / 2 if ball else 0.0
    room = (2 * eps + 8 * of_sums) * (radius + abs(center)) + 4 * size * tiny
    if (ball and radius <= room) or max(-bound, abs(center)) > most:
        raise ValueError(
            f"{dtype.name} must have room for matrices inside a bound. "
            f"Received: rows with a_ii + Σ|a_ij| <= {bound:g} and "
            f"Σ|a_ij| - a_ii <= {opposite:g}"
        )
    lengths = tf.abs(matrix)
    sums = tf.reduce_sum(tf.cast(lengths, tf.float64), 1)
    # The sum of a row of large float64 may overflow.
    finite = tf.math.is_finite(sums)
    if dtype == tf.float64:
        finite = tf.reduce_all(tf.math.is_finite(matrix), 1)
    stored = tf.linalg.diag_part(matrix)
    sums -= tf.cast(tf.abs(stored), tf.float64)
    stored = tf.clip_by_value(stored, -most, most)
    stored = tf.where(tf.abs(stored) < tiny, tf.zeros_like(stored), stored)
    diagonal = tf.cast(stored, tf.float64) - center
    peaks = tf.abs(diagonal)
    excess = sums + (peaks - radius if ball else diagonal - bound)
    magnitude = sums + 2 * (peaks + abs(center))
    inside = excess + of_sums * magnitude <= 0.0
    # λ solves Σ_j (|a_ij| - λ)₊ + (|a_ii - q| - λ)₊ = ρ or, of the flow,
    # Σ_j (|a_ij| - λ)₊ + a_ii - λ = c: by Newton's method, from below.
    lengths = tf.minimum(lengths, most)
    lengths = tf.linalg.set_diag(lengths, tf.zeros_like(stored))
    nothing = tf.constant(-math.inf, tf.float64)
    target = room - radius + 0.0 * peaks if ball else diagonal - bound
    target = tf.cast(tf.where(inside, nothing, target), dtype)
    shift = tf.minimum(excess / size, most)
    shift = tf.nn.relu(tf.cast(tf.where(inside, nothing, shift), dtype))
    peaks = tf.cast(peaks, dtype)

    def newton(shift):
        """A better λ, and the lengths that the given one leaves."""
        rest = tf.nn.relu(lengths - tf.expand_dims(shift, 1))
        total, count = tf.reduce_sum(rest, 1), tf.reduce_sum(tf.sign(rest), 1)
        left = tf.nn.relu(peaks - shift) if ball else -shift
        count += tf.sign(left) if ball else 1.0
        left += total + target
        return shift + tf.nn.relu(left) / tf.maximum(count, 1.0), rest

    _, shift, rest = tf.while_loop(
        lambda last, shift, rest: tf.reduce_any(shift > last),
        lambda last, shift, rest: (shift, *newton(shift)),
        (shift, *newton(shift)),
    )
    # The rounding of what is stored.
    sums = tf.reduce_sum(tf.cast(rest, tf.float64), 1)
    wide = tf.cast(shift, tf.float64)
    rest *= tf.sign(matrix)
    if ball:
        peak = tf.nn.relu(tf.abs(diagonal) - wide)
        shrunk = (radius - room) / tf.maximum(sums + peak, radius - room)
        shrunk = tf.where(inside, tf.ones_like(shrunk), shrunk)
        rest *= tf.expand_dims(tf.cast(shrunk, dtype), 1)
        moved = center + tf.sign(diagonal) * peak * shrunk
    else:
        limit = bound - sums - 4 * of_sums * (sums + abs(bound)) - room
        limit -= eps * tf.abs(limit) + 2 * tiny
        moved = tf.minimum(diagonal - wide, limit)
    moved = tf.where(inside, stored, tf.cast(moved, dtype))
    moved = tf.where(finite, moved, tf.constant(math.nan, dtype))
    return tf.linalg.set_diag(rest, moved)
