"""Multipliers that bound μ2(D_k A_k ⋯ D_1 A_1) over all diagonal D_i.

With m = (1+α)/2, r = (1-α)/2 and D_i = mI + rE_i, a state x passes
y_1 = A_1 x, y_(i+1) = A_(i+1)(m y_i + r v_i) with v_i = E_i y_i, so that
|v_i| <= |y_i| in every entry. For multipliers s_i of the inner layers and t > 0
of the last,

    xᵀ D_k y_k <= m xᵀy_k + ½ r Σ (t x² + y_k²/t) + r Σ_i Σ s_i (y_i² - v_i²).

The right side is a quadratic form in z = (x, v_1, ..., v_(k-1)). If it is at
most λ|x|² for all z, then δ <= λ. The best multipliers solve a convex problem,
a linear matrix inequality in (λ, s, t); all that satisfy it prove their λ.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

# As in `certificate_search`.
_CENTRED = np.float64(0.3)
_NEARLY_CENTRED = np.float64(0.9)
_FIRST_GAP = 0.05
_SMALLEST_TOLERANCE = 1e-13

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
    which come first, and φ = 1/t for the last one.

    Attributes:
      base: the part without multipliers, of shape (n, n).
      raising: R, of shape (n, n).
      lowering: Q, of shape (n, n).
    """

    base: tf.Tensor
    raising: tf.Tensor
    lowering: tf.Tensor


_FORM = QuadraticForm(_MATRIX, _MATRIX, _MATRIX)


def quadratic_form(kernels: Sequence[tf.Tensor], alpha: float) -> QuadraticForm:
    """Builds the form of A_1, ..., A_k; n = m_1 + ... + m_k.

    Args:
      kernels: float64, A_i of shape (m_i, m_(i-1)) with m_0 = m_k = d.
      alpha: smallest slope; one above 1 - 1e-6 counts as that.

    >>> quadratic_form([tf.eye(2)] * 3, 0.5).base.shape
    TensorShape([6, 6])
    """
    alpha = min(alpha, _LARGEST_ALPHA)
    m, r = (1.0 + alpha) / 2, (1.0 - alpha) / 2
    size = kernels[-1].shape[0]
    start, total = size, size + sum(A.shape[0] for A in kernels[:-1])
    eye = tf.eye(total, dtype=kernels[0].dtype)
    x = eye[:size]
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
    )


def form_matrix(
    form: QuadraticForm, multipliers: tf.Tensor, size: Any, sign: float = -1.0
) -> tf.Tensor:
    """M(θ), symmetric; with `sign` = 1 and A_i >= 0, the sum of magnitudes.

    Args:
      form: of `quadratic_form`.
      multipliers: θ, of shape (n,).
      size: d.
      sign: of φ for the inner layers.

    >>> form = quadratic_form([tf.eye(1)], 0.5)
    >>> form_matrix(form, tf.ones(1), 1).numpy()
    array([[1.]], dtype=float32)
    """
    inner, last = multipliers[:-size], multipliers[-size:]
    weights = tf.concat([sign * inner, 1.0 / last], 0)
    raised = tf.matmul(
        form.raising, multipliers[:, None] * form.raising, transpose_a=True
    )
    lowered = tf.matmul(
        form.lowering, weights[:, None] * form.lowering, transpose_a=True
    )
    matrix = form.base + raised + lowered
    return (matrix + tf.transpose(matrix)) / 2


def reached_bound(
    form: QuadraticForm, multipliers: tf.Tensor, size: Any
) -> tf.Tensor:
    """The smallest λ that the multipliers prove, up to rounding, or infinity.

    That is the largest eigenvalue of the Schur complement of the part in v.

    Args:
      form: of `quadratic_form`.
      multipliers: θ, of shape (n,).
      size: d.

    >>> form = quadratic_form([tf.eye(1, dtype=tf.float64)] * 2, 0.5)
    >>> theta = tf.constant([1.0, 1.0], tf.float64)
    >>> bool(1.0 <= reached_bound(form, theta, 1) < 1.3)
    True
    """
    return _schur_eigenvalues(form, multipliers, size)[-1]


def centred_bound(
    form: QuadraticForm, multipliers: tf.Tensor, weight: tf.Tensor, size: Any
) -> tf.Tensor:
    """The best λ of the barrier of `newton_step` for the multipliers as given.

    It solves Σ μ/(λ - e_i) = 1, e_i being the eigenvalues of which the largest
    is `reached_bound`.

    Args:
      form: of `quadratic_form`.
      multipliers: θ, of shape (n,).
      weight: μ > 0.
      size: d.

    >>> form = quadratic_form([tf.eye(1, dtype=tf.float64)] * 2, 0.5)
    >>> theta, mu = tf.ones(2, tf.float64), tf.constant(0.1, tf.float64)
    >>> gap = centred_bound(form, theta, mu, 1) - reached_bound(form, theta, 1)
    >>> round(float(gap), 9)
    0.1
    """
    eigenvalues = _schur_eigenvalues(form, multipliers, size)
    behind = eigenvalues[-1] - eigenvalues
    gap = weight
    for _ in range(8):  # Newton's method for 1 / Σ 1/(λ - e_i), concave
        terms = 1.0 / (gap + behind)
        total = tf.reduce_sum(terms)
        gap += (weight - 1.0 / total) * total**2 / tf.reduce_sum(terms**2)
    return eigenvalues[-1] + gap


def _schur_eigenvalues(form, multipliers, size):
    """Those of the Schur complement of the part in v; infinite if none."""
    matrix = form_matrix(form, multipliers, size)
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


def newton_step(
    form: QuadraticForm,
    bound: tf.Tensor,
    multipliers: tf.Tensor,
    weight: tf.Tensor,
    size: Any,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """One damped step towards the minimum of a barrier function.

    It is (λ + 1e-9 Σ s) / μ - log det F - Σ log t with
    F = λ diag(1, ..., 1, 0, ..., 0) - M(θ), and self-concordant, F being a
    Schur complement of a matrix linear in (λ, s, t): the step keeps F positive
    definite. The Hessian is made of squares of entries of R F⁻¹ Rᵀ and the
    like.

    Args:
      form: of `quadratic_form`, of kernels with norms of at most about 1.
      bound: λ, larger than `reached_bound`.
      multipliers: θ, of shape (n,).
      weight: μ > 0.
      size: d.

    Returns:
      λ, θ and the length of the step in the norm of the Hessian.
    """
    dtype = multipliers.dtype
    last = multipliers[-size:]
    zeros = tf.zeros_like(multipliers[:-size])
    rate = tf.concat([zeros - 1.0, -1.0 / last**2], 0)
    bend = tf.concat([zeros, 2.0 / last**3], 0)
    fixed = tf.concat([_PRICE / weight + zeros, -1.0 / last], 0)

    F = -form_matrix(form, multipliers, size)
    state = tf.concat([tf.ones_like(last), zeros], 0)
    S = tf.linalg.inv(F + tf.linalg.diag(bound * state))
    RS, QS = tf.matmul(form.raising, S), tf.matmul(form.lowering, S)
    RSR = tf.matmul(RS, form.raising, transpose_b=True)
    RSQ = tf.matmul(RS, form.lowering, transpose_b=True)
    QSQ = tf.matmul(QS, form.lowering, transpose_b=True)
    inside = tf.linalg.diag_part(QSQ)
    slope = tf.linalg.diag_part(RSR) + rate * inside + fixed
    mixed = RSQ**2 * rate
    curvature = RSR**2 + mixed + tf.transpose(mixed)
    curvature += QSQ**2 * rate * rate[:, None]
    curvature += tf.linalg.diag(bend * inside)
    curvature += tf.linalg.diag(tf.concat([zeros, 1.0 / last**2], 0))
    cross = -tf.reduce_sum(RS[:, :size] ** 2, 1)
    cross -= rate * tf.reduce_sum(QS[:, :size] ** 2, 1)
    corner = tf.reduce_sum(S[:size, :size] ** 2)
    trace = tf.linalg.trace(S[:size, :size])
    gradient = tf.concat([[1.0 / weight - trace], slope], 0)
    hessian = tf.concat(
        [
            tf.concat([[corner], cross], 0)[None],
            tf.concat([cross[:, None], curvature], 1),
        ],
        0,
    )
    step = -tf.linalg.solve(hessian, gradient[:, None])[:, 0]
    decrement = tf.sqrt(tf.maximum(-tf.reduce_sum(gradient * step), 0.0))
    step /= 1.0 + tf.cast(decrement >= 0.25, dtype) * decrement
    return bound + step[0], multipliers + step[1:], decrement


@tf.function(
    input_signature=[_FORM, _VECTOR, tf.TensorSpec([], tf.int32), _SCALAR],
    autograph=False,
)
def minimize_multipliers(form, start, size, tolerance):
    """Minimizes `reached_bound` over the multipliers.

    Args:
      form: of `quadratic_form`, of kernels with norms of about 1.
      start: θ that prove some bound, of shape (n,).
      size: d.
      tolerance: absolute, on the minimum; one below 1e-13 counts as that.

    Returns:
      θ, of shape (n,).
    """
    tolerance = tf.maximum(tolerance, _SMALLEST_TOLERANCE)
    degree = tf.cast(tf.shape(start)[0] + size, start.dtype)
    gap = _FIRST_GAP / tf.sqrt(degree)

    def body(count, bound, multipliers, weight, done):
        ahead = newton_step(form, bound, multipliers, weight, size)
        new_bound, new_multipliers, decrement = ahead
        last = weight <= tolerance / degree
        centered = decrement < tf.where(last, _CENTRED, _NEARLY_CENTRED)
        keep = ~tf.math.is_finite(decrement)
        bound = tf.where(keep, bound, new_bound)
        multipliers = tf.where(keep, multipliers, new_multipliers)
        done = keep | (centered & last)
        weight = tf.where(centered, 0.1 * weight, weight)
        return count + 1, bound, multipliers, weight, done

    return tf.while_loop(
        lambda count, bound, multipliers, weight, done: ~done,
        body,
        (
            tf.constant(0),
            reached_bound(form, start, size) + gap,
            start,
            gap / tf.sqrt(degree),
            tf.constant(False),
        ),
        maximum_iterations=500,
    )[2]


def neutral_multipliers(sizes: Sequence[int], alpha: float) -> np.ndarray:
    """θ that prove some bound whenever |A_i|₂ <= 1.

    Norms obey |y_(i+1)| <= m |y_i| + r |v_i|, so it suffices that the form of
    scalars A_i = 1 is negative in v.

    Args:
      sizes: m_1, ..., m_k, the heights of the kernels.
      alpha: smallest slope.

    >>> neutral_multipliers([3, 2], 0.5)
    array([1., 1., 1., 1., 1.])
    """
    growth = 1.0
    with tf.init_scope():
        form = quadratic_form([tf.ones((1, 1), tf.float64)] * len(sizes), alpha)
        while True:
            inner = [growth ** (len(sizes) - i) for i in range(1, len(sizes))]
            multipliers = np.array([*inner, 1.0])
            if np.isfinite(reached_bound(form, tf.constant(multipliers), 1)):
                return np.repeat(multipliers, sizes)
            growth *= 2.0


def rescaled(
    multipliers: Any, sizes: Sequence[int], factors: Sequence[Any]
) -> Any:
    """θ for the kernels c_i A_i: they prove Π c_i times the bound.

    Args:
      multipliers: θ for the kernels A_i, of shape (n,).
      sizes: m_1, ..., m_k.
      factors: c_i > 0, powers of two for a result without rounding.

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
