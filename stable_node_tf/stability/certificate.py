"""Certificates T = diag(t) of δ <= λmax(M(t)): the proof, and the best t.

docs/theory.md, "The worst-case logarithmic norm" and, for h > 0, "From the flow
to the network".
"""

import numpy as np
import tensorflow as tf

from stable_node_tf.stability.barrier import minimize_bound, newton_step
from stable_node_tf.stability.rounding import (
    largest_eigenvalue_above,
    norm_of_rounding,
)

# To search with: where slopes are almost equal hardly anything depends on t,
# and the best t runs away. All t prove a bound for the true slopes.
LARGEST_ALPHA = 1.0 - 1e-8
# Roundings that a term of M(t) goes through, besides the d of a product.
_ROUNDINGS = 24

_MATRIX = tf.TensorSpec([None, None], tf.float64)
_MATRICES = tf.TensorSpec([None, None, None], tf.float64)
_VECTORS = tf.TensorSpec([None, None], tf.float64)
_SCALAR = tf.TensorSpec([], tf.float64)


def certificate_matrix(
    matrix: tf.Tensor,
    certificate: tf.Tensor,
    lower_slope: tf.Tensor | float,
    upper_slope: tf.Tensor | float,
    step: tf.Tensor | float = 0.0,
) -> tf.Tensor:
    """The symmetric matrix M(t), or M_h(t), with δ <= λmax(M(t)).

    With m = (upper + lower) / 2 and r = (upper - lower) / 2, entry by entry,
    and G = I + h diag(m) A,

        M(t) = sym(diag(m) A) + (h/2) Aᵀ diag(m² + r²) A
               + ½ (Gᵀ diag(r t) G + Aᵀ diag(r / t) A),

    and (|x + hDAx|² - |x|²) / (2h) <= xᵀ M(t) x for all x and all diagonal D
    with lower <= D_ii <= upper; at h = 0 the left side is its limit, xᵀDAx.

    A is of shape (..., d, d), t of shape (..., d), the slopes are so too or
    scalars, h is a scalar, all of one dtype.
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


def proven_bound(
    matrix: np.ndarray,
    certificate: np.ndarray,
    lower_slope: np.ndarray | float,
    upper_slope: np.ndarray | float,
    step: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers proven to be at least λmax(M(t)), rounding errors included.

    The arguments are those of `certificate_matrix`. The numbers are infinite
    where terms overflow. M(t), as it is computed, comes with them.
    """
    computed, magnitude = (
        certificate_matrix(
            tf.constant(signed),
            tf.constant(certificate),
            lower_slope,
            upper_slope,
            step,
        ).numpy()
        for signed in (matrix, np.abs(matrix))
    )
    finite = np.isfinite(magnitude).all(axis=(-2, -1))
    kept = finite[..., None, None]
    error = norm_of_rounding(
        np.where(kept, magnitude, 0.0), matrix.shape[-1] + _ROUNDINGS
    )
    bound = largest_eigenvalue_above(np.where(kept, computed, 0.0), error)
    return np.where(finite, bound, np.inf), computed


def best_certificate(
    matrix: tf.Tensor | np.ndarray,
    alpha: float,
    tolerance: float,
    step: float = 0.0,
    multiple: float = 1.0,
    largest_norm: float = np.inf,
) -> tf.Tensor:
    """The t that minimizes λmax(M(t)), whatever the norm of A.

    A is divided by its norm, t multiplied by it. A matrix with NaN or infinity
    counts as one of zeros. Works eagerly and inside a graph.

    Args:
      matrix: A, of shape (d, d).
      alpha: smallest slope; for 1 all t prove the same.
      tolerance: on the minimum, relative to |A|₂ max(1, h|A|₂).
      step: h >= 0.
      multiple: of |A|₂, every entry of the first t.
      largest_norm: an A with a larger norm is scaled down to this one.
    """
    matrix = tf.cast(matrix, tf.float64)
    settings = alpha, tolerance, step, multiple, largest_norm
    try:
        return _normalized_and_minimized(matrix, *settings)
    except tf.errors.InvalidArgumentError:
        # Singular to working precision: rounding hides a better t.
        return _normalized_and_minimized(matrix, 1.0, *settings[1:])


@tf.function(input_signature=[_MATRIX, *[_SCALAR] * 5], autograph=False)
def _normalized_and_minimized(
    matrix, alpha, tolerance, step, multiple, largest_norm
):
    peak = tf.reduce_max(tf.abs(matrix))
    shape = matrix / peak
    # Eigendecompositions stop the program at NaN; training may go on.
    usable = tf.math.is_finite(tf.norm(shape))
    shape = tf.where(usable, shape, 0.0)
    squares = tf.linalg.eigvalsh(tf.matmul(shape, shape, transpose_a=True))
    shape_norm = tf.where(usable, tf.sqrt(squares[-1]), 1.0)
    norm = tf.where(usable, shape_norm * peak, 1.0)
    norm = tf.minimum(norm, largest_norm)
    ones = tf.ones_like(shape[:1])

    def minimized():
        return minimize_certificate(
            shape[None] / shape_norm,
            multiple * ones,
            alpha * ones,
            ones,
            tolerance,
            step * norm,
        )

    return norm * tf.cond(alpha < 1.0, minimized, lambda: multiple * ones)[0]


@tf.function(
    input_signature=[_MATRICES, *[_VECTORS] * 3, _SCALAR, _SCALAR],
    autograph=False,
)
def minimize_certificate(
    matrix, start, lower_slope, upper_slope, tolerance, step=0.0
):
    """The t > 0, of shape (n, d), that minimize λmax(M(t)) for n matrices.

    By the barrier method: M(t) is the form of `barrier` with θ = t, φ = 1/t,
    R = diag(√(r/2)) G, Q = diag(√(r/2)) A.

    All arguments are float64, the matrices A of norm about 1; entries where
    both slopes are equal need no certificate and keep their t. The tolerance is
    that on the minimum divided by max(1, h).
    """
    arguments = matrix, start, lower_slope, upper_slope, tolerance, step
    # Functions that run eagerly get what they are called with.
    matrix, start, lower_slope, upper_slope, tolerance, step = (
        tf.convert_to_tensor(argument, tf.float64) for argument in arguments
    )
    size = tf.shape(matrix)[-1]
    searched = tf.minimum(lower_slope, LARGEST_ALPHA)
    lower_slope = tf.where(upper_slope > lower_slope, searched, lower_slope)
    root = tf.sqrt((upper_slope - lower_slope) / 4)[:, :, None]
    stretch = step * (upper_slope + lower_slope)[:, :, None] / 2
    free = tf.cast(upper_slope > lower_slope, tf.float64)
    eye = tf.eye(size, batch_shape=tf.shape(matrix)[:1], dtype=tf.float64)

    def bound_matrix(t):
        return certificate_matrix(matrix, t, lower_slope, upper_slope, step)

    def newton(bound, t, weight):
        # S = (λI - M(t))⁻¹, and G = I + h diag(m) A without its product.
        S = tf.linalg.inv(bound[:, None, None] * eye - bound_matrix(t))
        AS = tf.matmul(matrix, S)
        ASA = tf.matmul(AS, matrix, transpose_b=True)
        GS = S + stretch * AS
        GSA = tf.linalg.matrix_transpose(AS) + stretch * ASA
        GSG = GS + GSA * tf.linalg.matrix_transpose(stretch)
        # R = diag(√(r/2)) G and P = diag(√(r/2) / t) A.
        lower = root / t[:, :, None]
        column = tf.linalg.matrix_transpose(lower)
        scaled = (
            root * GS,
            lower * AS,
            root * tf.linalg.matrix_transpose(root) * GSG,
            root * column * GSA,
            lower * column * ASA,
        )
        return newton_step(
            (S, *scaled),
            bend=2.0 / t,
            slope=-free / t,
            curvature=free / t**2 + 1.0 - free,
            weight=weight,
            size=size,
        )

    return minimize_bound(
        newton,
        tf.linalg.eigvalsh(bound_matrix(start))[:, -1],
        start,
        2.0 * tf.cast(size, tf.float64),
        tolerance,
        tf.maximum(step, 1.0),
    )
