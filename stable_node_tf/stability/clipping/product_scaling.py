"""Scales several kernels at once until their δ is certified to be small.

These are TensorFlow operations with static shapes and without Python
callbacks: they run inside a compiled train step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from stable_node_tf.stability.product_certificate import (
    centered_bound,
    multiplier_step,
    neutral_multipliers,
    quadratic_form,
    reached_bound,
    rescaled,
)

# How far the multipliers are from the best ones, relative to the bound.
_GAP = 0.01
_NEWTON_STEPS = 2
_SMALLEST_NORM = 1e-6
_LEAST = 1e-100
# Of a norm the square of which is a number.
_LARGEST_LOGARITHM = 350.0
# Where exp(-x) is a normal number.
_NORMAL = 700.0
_OF_LOGARITHMS = 1e-12


class ScaledProduct(NamedTuple):
    """What the kernels are multiplied by, and what training keeps.

    Attributes:
      factor: c in [0, 1], float64; c A_1, ..., c A_k satisfy the bound.
      multipliers: θ that prove it, float64, of shape (n,).
      distance: Frobenius norm of the change of all kernels, float64.
    """

    factor: tf.Tensor
    multipliers: tf.Tensor
    distance: tf.Tensor


def scale_into_bound(
    kernels: Sequence[tf.Tensor],
    multipliers: tf.Tensor,
    bound: float,
    alpha: float,
) -> ScaledProduct:
    """Finds the factor that brings δ(A_1, ..., A_k) below a bound.

    δ is homogeneous in every kernel, so c = (bound/λ)^(1/k) does, λ being what
    the multipliers prove; the certificate scales along. Before that, the
    multipliers take two damped Newton steps towards better ones: carried from
    one optimizer step to the next they stay near the best. Multipliers that
    prove nothing any more are replaced by neutral ones. The result leaves room
    for the rounding errors of storing the kernels, float32 or float64. Kernels
    that are not finite get the factor 1, and the multipliers stay as they are.

    >>> eye = tf.eye(2)
    >>> theta = tf.ones(4, tf.float64)
    >>> scaled = scale_into_bound([2 * eye, 2 * eye], theta, 1.0, 0.5)
    >>> bool(0.4 < scaled.factor < 0.51)
    True
    """
    unit = float(np.finfo(kernels[0].dtype.as_numpy_dtype).eps) / 2
    kernels = [tf.cast(kernel, tf.float64) for kernel in kernels]
    # Eigendecompositions stop the program at NaN; training may go on.
    finite = tf.reduce_all(
        [tf.reduce_all(tf.math.is_finite(kernel)) for kernel in kernels]
    )
    kernels = [tf.where(finite, A, tf.zeros_like(A)) for A in kernels]
    sizes = [kernel.shape[0] for kernel in kernels]
    count = len(sizes)
    # Logarithms, because norms and their product may overflow.
    kernels, logs = zip(*map(_normalized, kernels), strict=True)
    form = quadratic_form(kernels, alpha)
    # The better one of the multipliers carried along and the neutral ones.
    neutral = tf.constant(neutral_multipliers(sizes, alpha))
    carried = rescaled(multipliers, sizes, [tf.exp(-log) for log in logs])
    valid = tf.reduce_all((carried > _LEAST) & (carried < 1.0 / _LEAST))
    carried = tf.where(valid, carried, neutral)
    warm = reached_bound(form, carried)
    cold = reached_bound(form, neutral)
    theta = tf.where(warm <= cold, carried, neutral)
    reached = tf.minimum(warm, cold)
    # Newton steps on the barrier, kept unless they end with a worse bound.
    weight = _GAP * tf.maximum(reached, _GAP) / float(sum(sizes) + sizes[-1])
    ahead, center = theta, centered_bound(form, theta, weight)
    for _ in range(_NEWTON_STEPS):
        rise, change, _ = multiplier_step(form, center, ahead, weight)
        center, ahead = center + rise, ahead + change
    valid = tf.reduce_all(tf.math.is_finite(ahead) & (ahead > 0.0))
    moved = reached_bound(form, tf.where(valid, ahead, theta))
    valid &= moved <= (1.0 + _GAP) * reached
    theta = tf.where(valid, ahead, theta)
    reached = tf.where(valid, moved, reached)
    reached += 4 * (count + 1) * (unit + 1e-13)
    # c = (bound / λ)^(1/k); exact to about 1e-13 for numbers of any size.
    excess = tf.math.log(tf.maximum(reached, _LEAST)) + tf.add_n(logs)
    excess -= np.log(bound)
    lowered = (excess + _OF_LOGARITHMS) / count
    lowered = tf.where(excess > 0.0, lowered, 0.0)
    # XLA's exponential stops at the smallest normal number.
    factor = tf.where(lowered < _NORMAL, tf.exp(-lowered), 0.0)
    scaled = rescaled(theta, sizes, [tf.exp(log - lowered) for log in logs])
    kept = finite & tf.reduce_all(tf.math.is_finite(scaled) & (scaled > 0.0))
    norms = [tf.exp(tf.minimum(log, _LARGEST_LOGARITHM)) for log in logs]
    return ScaledProduct(
        factor,
        tf.where(kept, scaled, multipliers),
        (1.0 - factor) * tf.norm(tf.stack(norms)),
    )


def _normalized(kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A of norm 1, or less where it was below 1e-6, and the log of the rest."""
    peak = tf.maximum(tf.reduce_max(tf.abs(kernel)), _SMALLEST_NORM)
    shape = kernel / peak
    norm = tf.maximum(tf.norm(shape), 1.0)
    return shape / norm, tf.math.log(peak) + tf.math.log(norm)
