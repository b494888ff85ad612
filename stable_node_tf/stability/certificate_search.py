"""The best certificate: minimises the upper bound of δ over T = diag(t)."""

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


def certificate_matrix(matrix, certificate, lower_slope, upper_slope):
    """The symmetric matrix whose largest eigenvalue bounds δ from above.

    With m = (upper + lower) / 2 and r = (upper - lower) / 2, entry by entry,

        M(t) = sym(diag(m) A) + ½ (diag(r t) + Aᵀ diag(r / t) A),

    and xᵀ D A x <= xᵀ M(t) x for all x and all diagonal D with
    lower <= D_ii <= upper, because D A x = m·Ax + w with |w_i| <= r_i |Ax|_i
    and x_i w_i <= r_i (t_i x_i² + (Ax)_i² / t_i) / 2.

    Args:
      matrix: A, of shape (..., d, d).
      certificate: t > 0, of shape (..., d), same dtype.
      lower_slope: of shape (..., d) or scalar, same dtype.
      upper_slope: likewise.

    Returns:
      M(t), symmetric, of shape (..., d, d).

    >>> A = tf.constant([[0.0, 2.0], [0.0, 0.0]])
    >>> certificate_matrix(A, tf.constant([1.0, 1.0]), 1.0, 1.0).numpy()
    array([[0., 1.],
           [1., 0.]], dtype=float32)
    """
    middle = (upper_slope + lower_slope) / 2 * tf.ones_like(certificate)
    radius = (upper_slope - lower_slope) / 2 * tf.ones_like(certificate)
    scaled = middle[..., None] * matrix
    scaled += tf.linalg.matrix_transpose(scaled)
    weighted = (radius / certificate)[..., None] * matrix
    scaled += tf.matmul(matrix, weighted, transpose_a=True)
    return (scaled + tf.linalg.diag(radius * certificate)) / 2


@tf.function(
    input_signature=[_MATRICES, _VECTORS, _VECTORS, _VECTORS, _SCALAR],
    autograph=False,
)
def minimise_certificate(matrix, start, lower_slope, upper_slope, tolerance):
    """Minimises λmax(M(t)) over t > 0, for a batch of matrices at once.

    Newton's method on the logarithmic barrier of the equivalent linear matrix
    inequality in (s, t),

        [ sI - sym(diag(m) A) - diag(r t) / 2    (diag(√(r/2)) A)ᵀ ]
        [ diag(√(r/2)) A                         diag(t)           ]  ⪰ 0,

    whose Schur complement is sI - M(t). The barrier is self-concordant, so
    steps damped by 1 / (1 + decrement) stay feasible without a line search;
    its Hessian is made of entry-wise squares of d×d matrices, so that a step
    costs a few matrix products and one solve. At a centred point the distance
    to the minimum is at most 2dμ (Nesterov and Nemirovskii, 1994).

    Args:
      matrix: float64, of shape (n, d, d), of norm about 1.
      start: first t > 0, of shape (n, d).
      lower_slope: of shape (n, d).
      upper_slope: of shape (n, d); entries where both slopes are equal need
        no certificate and keep their t.
      tolerance: absolute, on the minimum.

    Returns:
      t of shape (n, d).
    """
    size = tf.shape(matrix)[-1]
    dtype = matrix.dtype
    weight = (upper_slope - lower_slope) / 4
    free = tf.cast(weight > 0, dtype)
    eye = tf.eye(size, batch_shape=tf.shape(matrix)[:1], dtype=dtype)
    degree = 2.0 * tf.cast(size, dtype)

    def bound_matrix(t):
        return certificate_matrix(matrix, t, lower_slope, upper_slope)

    def newton(bound, t, mu):
        """One damped step; returns (bound, t, Newton decrement)."""
        slack = bound[:, None, None] * eye - bound_matrix(t)
        S = tf.linalg.inv(slack)
        SA = tf.matmul(S, matrix, transpose_b=True)
        ASA = tf.matmul(matrix, SA)
        diag_ASA = tf.linalg.diag_part(ASA)
        slope = weight * (tf.linalg.diag_part(S) - diag_ASA / t**2)
        cross = weight * tf.reduce_sum(S**2 - SA**2 / t[:, None, :] ** 2, -2)
        gradient = tf.concat(
            [(1.0 / mu - tf.linalg.trace(S))[:, None], slope - free / t], -1
        )
        mixed = SA**2 / t[:, None, :] ** 2
        curvature = S**2 - mixed - tf.linalg.matrix_transpose(mixed)
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
        last = mu <= tolerance / degree
        centred = decrement < tf.where(last, _CENTRED, _NEARLY_CENTRED)
        keep = done | ~tf.math.is_finite(decrement)
        bound = tf.where(keep, bound, new_bound)
        t = tf.where(keep[:, None], t, new_t)
        done = keep | (centred & last)
        return steps + 1, bound, t, tf.where(centred, 0.1 * mu, mu), done

    gap = _FIRST_GAP / tf.sqrt(degree)
    bound = tf.linalg.eigvalsh(bound_matrix(start))[:, -1] + gap
    mu = tf.fill(tf.shape(bound), gap / tf.sqrt(degree))
    done = tf.zeros(tf.shape(bound), tf.bool)
    return tf.while_loop(
        not_done,
        body,
        (0, bound, start, mu, done),
        maximum_iterations=500,
    )[2]
