"""The best certificate: minimizes an upper bound of δ over T = diag(t)."""

import numpy as np
import tensorflow as tf

_MATRICES = tf.TensorSpec([None, None, None], tf.float64)
_VECTORS = tf.TensorSpec([None, None], tf.float64)
_SCALAR = tf.TensorSpec([], tf.float64)

# Bounds on Newton decrements; the first gap takes the fewest steps from d = 16
# to 512.
_CENTRED = np.float64(0.3)
_NEARLY_CENTRED = np.float64(0.9)
_FIRST_GAP = 0.05
# Below it rounding errors decide.
_SMALLEST_TOLERANCE = 1e-13

# To search with: where slopes are almost equal hardly anything depends on t,
# and the best t runs away. All t prove a bound for the true slopes.
LARGEST_ALPHA = 1.0 - 1e-8


def certificate_matrix(matrix, certificate, lower_slope, upper_slope, step=0.0):
    """The symmetric matrix whose largest eigenvalue bounds δ from above.

    With m = (upper + lower) / 2 and r = (upper - lower) / 2, entry by entry,
    and G = I + h diag(m) A,

        M(t) = sym(diag(m) A) + (h/2) Aᵀ diag(m² + r²) A
               + ½ (Gᵀ diag(r t) G + Aᵀ diag(r / t) A),

    and (|x + hDAx|² - |x|²) / (2h) <= xᵀ M(t) x for all x and all diagonal D
    with lower <= D_ii <= upper; at h = 0 the left side is its limit, xᵀDAx.
    For DAx = m·Ax + w with |w_i| <= r_i |Ax|_i, and the mixed term
    (Gx)_i w_i is at most r_i (t_i (Gx)_i² + (Ax)_i² / t_i) / 2.

    Args:
      matrix: A, of shape (..., d, d).
      certificate: t > 0, of shape (..., d), same dtype.
      lower_slope: of shape (..., d) or scalar, same dtype.
      upper_slope: likewise.
      step: h >= 0, scalar, same dtype.

    Returns:
      M(t), symmetric, of shape (..., d, d).

    >>> A = tf.constant([[0.0, 2.0], [0.0, 0.0]])
    >>> certificate_matrix(A, tf.constant([1.0, 1.0]), 1.0, 1.0).numpy()
    array([[0., 1.],
           [1., 0.]], dtype=float32)
    """
    middle = (upper_slope + lower_slope) / 2 * tf.ones_like(certificate)
    radius = (upper_slope - lower_slope) / 2 * tf.ones_like(certificate)
    # GᵀTG = T + h (TB + (TB)ᵀ) + h² BᵀTB with B = diag(m) A.
    scaled = (middle * (1.0 + step * radius * certificate))[..., None] * matrix
    scaled += tf.linalg.matrix_transpose(scaled)
    weight = radius / certificate + step * radius**2
    weight += step * middle**2 * (1.0 + step * radius * certificate)
    weighted = weight[..., None] * matrix
    scaled += tf.matmul(matrix, weighted, transpose_a=True)
    return (scaled + tf.linalg.diag(radius * certificate)) / 2


@tf.function(
    input_signature=[_MATRICES, *[_VECTORS] * 3, _SCALAR, _SCALAR],
    autograph=False,
)
def minimize_certificate(
    matrix, start, lower_slope, upper_slope, tolerance, step=0.0
):
    """Minimizes λmax(M(t)) over t > 0, for a batch of matrices at once.

    Newton's method on the logarithmic barrier of the equivalent linear matrix
    inequality in (s, t),

        [ sI - C - Gᵀ diag(r t) G / 2    (diag(√(r/2)) A)ᵀ ]
        [ diag(√(r/2)) A                 diag(t)           ]  ⪰ 0,

    C being the part of M(t) without t and G as in `certificate_matrix`, whose
    Schur complement is sI - M(t). The barrier is self-concordant, so steps
    damped by 1 / (1 + decrement) stay feasible without a line search; its
    Hessian is made of entry-wise squares of d×d matrices, so that a step costs
    a few matrix products and one solve. At a centered point the distance to the
    minimum is at most 2dμ (Nesterov and Nemirovskii, 1994).

    Args:
      matrix: float64, of shape (n, d, d), of norm about 1.
      start: first t > 0, of shape (n, d).
      lower_slope: of shape (n, d).
      upper_slope: of shape (n, d); entries where both slopes are equal need
        no certificate and keep their t.
      tolerance: absolute, on the minimum divided by max(1, h); one below 1e-13
        counts as that.
      step: h >= 0.

    Returns:
      t of shape (n, d).
    """
    # Functions that run eagerly get what they are called with.
    matrix, start, lower_slope, upper_slope, tolerance, step = (
        tf.convert_to_tensor(argument, tf.float64)
        for argument in (
            matrix,
            start,
            lower_slope,
            upper_slope,
            tolerance,
            step,
        )
    )
    size = tf.shape(matrix)[-1]
    dtype = matrix.dtype
    weight = (upper_slope - lower_slope) / 4
    stretch = step * (upper_slope + lower_slope)[:, :, None] / 2
    free = tf.cast(weight > 0, dtype)
    eye = tf.eye(size, batch_shape=tf.shape(matrix)[:1], dtype=dtype)
    degree = 2.0 * tf.cast(size, dtype)

    def bound_matrix(t):
        return certificate_matrix(matrix, t, lower_slope, upper_slope, step)

    def newton(bound, t, mu):
        """One damped step; returns (bound, t, Newton decrement)."""
        slack = bound[:, None, None] * eye - bound_matrix(t)
        S = tf.linalg.inv(slack)
        AS = tf.matmul(matrix, S)
        ASA = tf.matmul(AS, matrix, transpose_b=True)
        GS = S + stretch * AS
        GSA = tf.linalg.matrix_transpose(AS) + stretch * ASA
        GSG = GS + GSA * tf.linalg.matrix_transpose(stretch)
        diag_ASA = tf.linalg.diag_part(ASA)
        slope = weight * (tf.linalg.diag_part(GSG) - diag_ASA / t**2)
        cross = weight * (
            tf.reduce_sum(GS**2, -1) - tf.reduce_sum(AS**2, -1) / t**2
        )
        gradient = tf.concat(
            [(1.0 / mu - tf.linalg.trace(S))[:, None], slope - free / t], -1
        )
        mixed = GSA**2 / t[:, None, :] ** 2
        curvature = GSG**2 - mixed - tf.linalg.matrix_transpose(mixed)
        curvature += (ASA / (t[:, :, None] * t[:, None, :])) ** 2
        curvature *= weight[:, :, None] * weight[:, None, :]
        curvature += tf.linalg.diag(
            2 * weight * diag_ASA / t**3 + free / t**2 + (1.0 - free)
        )
        top = tf.concat([tf.reduce_sum(S**2, [-2, -1])[:, None], -cross], -1)
        hessian = tf.concat(
            [
                top[:, None, :],
                tf.concat([-cross[:, :, None], curvature], -1),
            ],
            -2,
        )
        step = -tf.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        decrement = tf.sqrt(
            tf.maximum(-tf.reduce_sum(gradient * step, -1), 0.0)
        )
        damping = tf.cast(decrement >= 0.25, dtype) * decrement
        step /= 1.0 + damping[:, None]
        return bound + step[:, 0], t + step[:, 1:], decrement

    def not_done(steps, bound, t, mu, done):
        del steps, bound, t, mu
        return tf.logical_not(tf.reduce_all(done))

    def body(steps, bound, t, mu, done):
        new_bound, new_t, decrement = newton(bound, t, mu)
        last = mu <= tolerance * scale / degree
        centered = decrement < tf.where(last, _CENTRED, _NEARLY_CENTRED)
        keep = done | ~tf.math.is_finite(decrement)
        bound = tf.where(keep, bound, new_bound)
        t = tf.where(keep[:, None], t, new_t)
        done = keep | (centered & last)
        return steps + 1, bound, t, tf.where(centered, 0.1 * mu, mu), done

    tolerance = tf.maximum(tolerance, _SMALLEST_TOLERANCE)
    scale = tf.maximum(step, 1.0)
    gap = _FIRST_GAP * scale / tf.sqrt(degree)
    bound = tf.linalg.eigvalsh(bound_matrix(start))[:, -1] + gap
    mu = tf.fill(tf.shape(bound), gap / tf.sqrt(degree))
    done = tf.zeros(tf.shape(bound), tf.bool)
    return tf.while_loop(
        not_done,
        body,
        (0, bound, start, mu, done),
        maximum_iterations=500,
    )[2]
