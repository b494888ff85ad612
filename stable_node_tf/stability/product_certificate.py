"""Multipliers that bound μ2(D_k A_k ⋯ D_1 A_1) over all diagonal D_i.

With m = (1+α)/2, r = (1-α)/2 and D_i = mI + rE_i, a state x passes
y_1 = A_1 x, y_(i+1) = A_(i+1)(m y_i + r v_i) with v_i = E_i y_i, so that
|v_i| <= |y_i| in every entry. For multipliers s_i of the inner layers and t > 0
of the last,

    xᵀ D_k y_k <= m xᵀy_k + ½ r Σ (t x² + y_k²/t) + r Σ_i Σ s_i (y_i² - v_i²).

The right side is a quadratic form in z = (x, v_1, ..., v_(k-1)). If it is at
most λ|x|² for all z, then δ <= λ. The best multipliers solve a convex problem,
a linear matrix inequality in (λ, s, t); all that satisfy it prove their λ. See
docs/theory.md, "Several layers".
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from stable_node_tf.stability.barrier import (
    Step,
    minimize_bound,
    newton_step,
)

# Multipliers of rows of zeros would grow without end.
_PRICE = 1e-9

# No form is strict where r = 0; a wider interval of slopes only raises bounds.
_LARGEST_ALPHA = 1.0 - 1e-6

_MATRIX = tf.TensorSpec([None, None], tf.float64)
_VECTOR = tf.TensorSpec([None], tf.float64)
_SCALAR = tf.TensorSpec([], tf.float64)


class QuadraticForm(NamedTuple):
    """The form above as a function of its n multipliers θ = (s, t).

    M(θ) = base + Rᵀ diag(θ) R + Qᵀ diag(φ) Q with φ = -s for the inner layers,
    which come first, and φ = 1/t for the last one; R is `raising`, Q is
    `lowering`, these three are of shape (n, n); t and x have `size` entries.
    """

    base: tf.Tensor
    raising: tf.Tensor
    lowering: tf.Tensor
    size: Any


_FORM = QuadraticForm(_MATRIX, _MATRIX, _MATRIX, tf.TensorSpec([], tf.int32))


def quadratic_form(kernels: Sequence[tf.Tensor], alpha: float) -> QuadraticForm:
    """Builds the form of A_1, ..., A_k; n = m_1 + ... + m_k.

    A_i is float64, of shape (m_i, m_(i-1)) with m_0 = m_k = d. An alpha above
    1 - 1e-6 counts as that.
    """
    alpha = min(alpha, _LARGEST_ALPHA)
    m, r = (1.0 + alpha) / 2, (1.0 - alpha) / 2
    size = kernels[-1].shape[0]
    start, total = size, size + sum(A.shape[0] for A in kernels[:-1])
    eye = tf.eye(total, dtype=kernels[0].dtype)
    x = eye[:size]
    # x, v_i and y_i as matrices that act on z.
    y = tf.matmul(kernels[0], x)
    raising, lowering = [], []
    for kernel in kernels[1:]:
        v = eye[start : start + y.shape[0]]
        start += y.shape[0]
        raising.append(r**0.5 * y)
        lowering.append(r**0.5 * v)
        y = tf.matmul(kernel, m * y + r * v)
    raising.append((r / 2) ** 0.5 * x)
    lowering.append((r / 2) ** 0.5 * y)
    product = m * tf.matmul(x, y, transpose_a=True)
    return QuadraticForm(
        (product + tf.transpose(product)) / 2,
        tf.concat(raising, 0),
        tf.concat(lowering, 0),
        size,
    )


def form_matrix(
    form: QuadraticForm, multipliers: tf.Tensor, sign: float = -1.0
) -> tf.Tensor:
    """M(θ), symmetric; with `sign` = 1, A_i >= 0, the sum of magnitudes."""
    inner, last = multipliers[: -form.size], multipliers[-form.size :]
    weights = tf.concat([sign * inner, 1.0 / last], 0)
    raised = tf.matmul(
        form.raising, multipliers[:, None] * form.raising, transpose_a=True
    )
    lowered = tf.matmul(
        form.lowering, weights[:, None] * form.lowering, transpose_a=True
    )
    matrix = form.base + raised + lowered
    return (matrix + tf.transpose(matrix)) / 2


def reached_bound(form: QuadraticForm, multipliers: tf.Tensor) -> tf.Tensor:
    """The smallest λ that θ proves, up to rounding, or infinity."""
    return _schur_eigenvalues(form, multipliers)[-1]


def centered_bound(
    form: QuadraticForm, multipliers: tf.Tensor, weight: tf.Tensor
) -> tf.Tensor:
    """The λ at which the barrier of weight μ is least for the given θ.

    It solves Σ μ/(λ - e_i) = 1, e_i being the eigenvalues of which the largest
    is `reached_bound`.
    """
    eigenvalues = _schur_eigenvalues(form, multipliers)
    behind = eigenvalues[-1] - eigenvalues
    gap = weight
    for _ in range(8):  # Newton's method for 1 / Σ 1/(λ - e_i), concave
        terms = 1.0 / (gap + behind)
        total = tf.reduce_sum(terms)
        gap += (weight - 1.0 / total) * total**2 / tf.reduce_sum(terms**2)
    return eigenvalues[-1] + gap


def _schur_eigenvalues(
    form: QuadraticForm, multipliers: tf.Tensor
) -> tf.Tensor:
    """Those of the Schur complement of the part in v; infinite if none."""
    matrix, size = form_matrix(form, multipliers), form.size
    inner = -matrix[size:, size:]
    eye = tf.eye(tf.shape(inner)[0], dtype=inner.dtype)
    scale = tf.reduce_max(tf.abs(multipliers)) * 1e-14
    proper = tf.reduce_all(tf.linalg.eigvalsh(inner) > scale)
    inner = tf.where(proper, inner, eye)
    cross = matrix[size:, :size]
    schur = matrix[:size, :size] + tf.matmul(
        cross, tf.linalg.solve(inner, cross), transpose_a=True
    )
    eigenvalues = tf.linalg.eigvalsh((schur + tf.transpose(schur)) / 2)
    return tf.where(proper, eigenvalues, tf.constant(np.inf, schur.dtype))


def multiplier_step(
    form: QuadraticForm,
    bound: tf.Tensor,
    multipliers: tf.Tensor,
    weight: tf.Tensor,
) -> Step:
    """The Newton step of `barrier` from λ and θ, at weight μ.

    Instead of logarithms, s has the price 1e-9 Σ s / μ. The kernels have norms
    of at most about 1, and λ is larger than `reached_bound`.
    """
    last = multipliers[-form.size :]
    zeros = tf.zeros_like(multipliers[: -form.size])
    # S = (λ diag(I, 0) - M(θ))⁻¹ and P = diag(√-φ') Q.
    state = tf.concat([tf.ones_like(last), zeros], 0)
    S = tf.linalg.diag(bound * state) - form_matrix(form, multipliers)
    S = tf.linalg.inv(S)
    R = form.raising
    P = tf.concat([zeros + 1.0, 1.0 / last], 0)[:, None] * form.lowering
    RS, PS = tf.matmul(R, S), tf.matmul(P, S)
    RSR = tf.matmul(RS, R, transpose_b=True)
    RSP = tf.matmul(RS, P, transpose_b=True)
    PSP = tf.matmul(PS, P, transpose_b=True)
    return newton_step(
        (S, RS, PS, RSR, RSP, PSP),
        bend=tf.concat([zeros, 2.0 / last], 0),
        slope=tf.concat([_PRICE / weight + zeros, -1.0 / last], 0),
        curvature=tf.concat([zeros, 1.0 / last**2], 0),
        weight=weight,
        size=form.size,
    )


@tf.function(input_signature=[_FORM, _VECTOR, _SCALAR], autograph=False)
def minimize_multipliers(form, start, tolerance):
    """Minimizes `reached_bound` over θ, from one that proves some bound.

    The norms of the kernels are about 1; the tolerance is that on the minimum.
    """
    return minimize_bound(
        lambda *state: multiplier_step(form, *state),
        reached_bound(form, start),
        start,
        tf.cast(tf.shape(start)[0] + form.size, tf.float64),
        tolerance,
    )


def neutral_multipliers(sizes: Sequence[int], alpha: float) -> np.ndarray:
    """θ that prove some bound whenever |A_i|₂ <= 1, for A_i of m_i rows.

    Norms obey |y_(i+1)| <= m |y_i| + r |v_i|, so it suffices that the form of
    scalars A_i = 1 is negative in v.

    >>> neutral_multipliers([3, 2], 0.5)
    array([1., 1., 1., 1., 1.])
    """
    growth = 1.0
    with tf.init_scope():
        form = quadratic_form([tf.ones((1, 1), tf.float64)] * len(sizes), alpha)
        while True:
            multipliers = growth ** np.arange(len(sizes) - 1.0, -1.0, -1.0)
            if np.isfinite(reached_bound(form, tf.constant(multipliers))):
                return np.repeat(multipliers, sizes)
            growth *= 2.0


def rescaled(
    multipliers: Any, sizes: Sequence[int], factors: Sequence[Any]
) -> Any:
    """θ for the kernels c_i A_i: they prove Π c_i times the bound.

    t' = Π c_j t and s_i' = Π c_j / (c_1 ⋯ c_i)² s_i; powers of two round
    nothing.

    >>> rescaled(np.ones(3), [2, 1], [2.0, 3.0])
    array([1.5, 1.5, 6. ])
    """
    whole, before, parts = 1.0, 1.0, []
    for factor in factors:
        whole = whole * factor
    ends = np.cumsum([0, *sizes])
    for i, factor in enumerate(factors[:-1]):
        before = before * factor
        part = multipliers[ends[i] : ends[i + 1]]
        parts.append(part * (whole / before**2))
    parts.append(multipliers[ends[-2] :] * whole)
    join = tf.concat if tf.is_tensor(multipliers) else np.concatenate
    return join(parts, 0)
