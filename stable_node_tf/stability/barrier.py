"""The barrier method behind both certificates, of one matrix and of several.

Either certificate proves the λ for which M(θ) ⪯ λ diag(I, 0), where

    M(θ) = C + Rᵀ diag(θ) R + Qᵀ diag(φ) Q,   φ_i a function of θ_i alone,

and the best θ minimizes λ (docs/theory.md). The barrier

    λ / μ - log det F - Σ log θ_i,   F = λ diag(I, 0) - M(θ),

is self-concordant, because F is a Schur complement of a matrix that is linear
in (λ, θ). Steps of Newton's method, damped by 1 / (1 + decrement), therefore
stay feasible without a line search. Where it is minimal, λ is at most μ times
the degree of the barrier above its minimum (Nesterov and Nemirovskii, 1994).
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

# Bounds on Newton decrements; the first gap takes the fewest steps from d = 16
# to 512.
_CENTERED = np.float64(0.3)
_NEARLY_CENTERED = np.float64(0.9)
_FIRST_GAP = 0.05
# Below it rounding errors decide.
_SMALLEST_TOLERANCE = 1e-13

# The changes of λ and of θ, and the Newton decrement.
Step = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def newton_step(
    products: tuple[tf.Tensor, ...],
    bend: tf.Tensor,
    slope: tf.Tensor,
    curvature: tf.Tensor,
    weight: tf.Tensor,
    size: tf.Tensor | int,
) -> Step:
    """One damped Newton step of (λ, θ), for one form or a batch.

    The derivatives of -log det F are made of squares of entries of R S Rᵀ and
    the like, so that a step costs matrix products and one linear solve.

    With P = diag(√-φ') Q, `products` are S = F⁻¹, R S, P S, R S Rᵀ, R S Pᵀ and
    P S Pᵀ; `bend` is -φ''/φ'; `slope` and `curvature` are the gradient and the
    diagonal Hessian of the terms beside λ / μ and log det F, all of shape
    (..., n); `weight` is μ; and diag(I, 0) holds `size` ones.
    """
    S, RS, PS, RSR, RSP, PSP = products
    inside = tf.linalg.diag_part(PSP)
    slope = tf.linalg.diag_part(RSR) - inside + slope
    mixed = RSP**2
    square = RSR**2 - mixed - tf.linalg.matrix_transpose(mixed) + PSP**2
    square += tf.linalg.diag(bend * inside + curvature)
    cross = tf.reduce_sum(PS[..., :size] ** 2, -1)
    cross -= tf.reduce_sum(RS[..., :size] ** 2, -1)
    corner = S[..., :size, :size]
    along = 1.0 / weight - tf.linalg.trace(corner)
    corner = tf.reduce_sum(corner**2, [-2, -1])
    gradient = tf.concat([along[..., None], slope], -1)
    first = tf.concat([corner[..., None], cross], -1)
    rest = tf.concat([cross[..., None], square], -1)
    hessian = tf.concat([first[..., None, :], rest], -2)
    step = -tf.linalg.solve(hessian, gradient[..., None])[..., 0]
    decrement = tf.sqrt(tf.maximum(-tf.reduce_sum(gradient * step, -1), 0.0))
    damping = tf.cast(decrement >= 0.25, step.dtype) * decrement
    step /= 1.0 + damping[..., None]
    return step[..., 0], step[..., 1:], decrement


def minimize_bound(
    newton: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Step],
    reached: tf.Tensor,
    multipliers: tf.Tensor,
    degree: tf.Tensor,
    tolerance: tf.Tensor,
    scale: tf.Tensor | float = 1.0,
) -> tf.Tensor:
    """Follows the minima of the barrier as μ falls; returns the last θ.

    `newton` is a function of λ, θ and μ; `reached` the least λ that θ proves at
    the start, of shape (...); `scale` the size of λ, to which the tolerance, at
    least 1e-13, is relative.
    """
    tolerance = tf.cast(tolerance, reached.dtype)
    tolerance = tf.maximum(tolerance, _SMALLEST_TOLERANCE) * scale
    gap = _FIRST_GAP * scale / tf.sqrt(degree)

    def body(bound, multipliers, weight, done):
        rise, change, decrement = newton(bound, multipliers, weight)
        last = weight <= tolerance / degree
        centered = decrement < tf.where(last, _CENTERED, _NEARLY_CENTERED)
        keep = done | ~tf.math.is_finite(decrement)
        moved = tf.where(keep[..., None], multipliers, multipliers + change)
        return (
            tf.where(keep, bound, bound + rise),
            moved,
            tf.where(centered, 0.1 * weight, weight),
            keep | (centered & last),
        )

    weight = tf.zeros_like(reached) + gap / tf.sqrt(degree)
    return tf.while_loop(
        lambda *state: ~tf.reduce_all(state[-1]),
        body,
        (reached + gap, multipliers, weight, weight < 0.0),
        maximum_iterations=500,
    )[1]
