"""Clips singular values, fast in the plain graph and under XLA.

XLA's eigendecomposition takes ten times as long as TensorFlow's own on the CPU,
and more in large matrices. In functions compiled by XLA matrix products alone
do the work, elsewhere one symmetric eigendecomposition does.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.python.ops import control_flow_util

Scalar: TypeAlias = tf.Tensor | float

# Times the root of the longer side and the unit roundoff; several times the
# largest error seen.
_ROUNDING = 32
_LARGEST_RATIO = 1e6
# A pass of products divides the square of the norm by 1.5, less what its bound
# is too large by: enough for `_LARGEST_RATIO` at any size in use.
_MOST_PASSES = 200
_SIGN_STEPS = 10
_SIGN_THRESHOLD = 8e-4
# 1 - z/2 + _SQUARE z² - _CUBE z³ <= (1 + z)^(-1/2) for 0 <= z <= 1, and smaller
# by at most 2e-4 for z <= 0.4.
_SQUARE, _CUBE = 0.354, 0.181


class ClippedMatrix(NamedTuple):
    """Clipped singular values; `inside`: `matrix` is the argument itself."""

    matrix: tf.Tensor
    inside: tf.Tensor


class ClippedByProducts(NamedTuple):
    """A `ClippedMatrix` or a stack of them, and two of shape (..., n, n).

    Attributes:
      excess: V diag(σ²/limit² - 1)₊ Vᵀ, to about 1e-4 for norms up to 1.2
        limits and 1e-3 σ²/limit² beyond.
      active: the projector V diag(σ > limit) Vᵀ, with a smoothed step at the
        limit.
    """

    matrix: tf.Tensor
    inside: tf.Tensor
    excess: tf.Tensor
    active: tf.Tensor


def _sign_approximation() -> tuple[list[float], float]:
    """Cubics whose composition f is near the sign function, and its ε.

    x <- (a x) (3 - (a x)²) / 2 with the a that is best on [l, 1], l being the
    threshold at first and its image afterwards (Chen and Chow, 2014). ε is at
    least x (1 - f(x)) / 2 for 0 <= x <= 1.
    """
    low, scales = _SIGN_THRESHOLD, []
    x = np.concatenate([np.geomspace(1e-9, 1e-2, 20001), np.linspace(0, 1, 9)])
    sign = x
    for _ in range(_SIGN_STEPS):
        scale = float(np.sqrt(3 / (1 + low + low**2)))
        scales.append(scale)
        low = scale * low * (3 - (scale * low) ** 2) / 2
        sign = scale * sign * (3 - (scale * sign) ** 2) / 2
    return scales, 1.01 * float(np.max(x * (1 - sign) / 2))


_SCALES, _RESIDUE = _sign_approximation()


def clip_singular_values(matrix: tf.Tensor, limit: Scalar) -> ClippedMatrix:
    """Lowers the singular values above a limit to that limit.

    The result is the nearest matrix, in the Frobenius norm, of spectral norm
    <= limit, to a relative 1e-3 (3e-4 for norms up to 1.2 limits); it stays
    inside, which leaves room for rounding. A matrix of norm beyond 1e6 times
    the limit is scaled down to that first: it ends inside too, but farther from
    where it was than necessary. Large matrices take two passes, more under
    XLA; should those not suffice, the Frobenius norm scales the matrix down.
    One that holds NaN or infinity is returned as it is.

    M is float32 or float64, of shape (m, n). The limit is positive, from
    `smallest_limit` to the largest number of the dtype.

    >>> kernel = tf.constant([[3.0, 0.0], [0.0, 1.0]])
    >>> clip_singular_values(kernel, 2.0).matrix.numpy().round(3)
    array([[2., 0.],
           [0., 1.]], dtype=float32)
    """
    matrix = tf.convert_to_tensor(matrix)
    if matrix.shape[0] < matrix.shape[1]:
        clipped, inside = clip_singular_values(tf.transpose(matrix), limit)
        return ClippedMatrix(tf.transpose(clipped), inside)
    if compiled_by_xla():
        return ClippedMatrix(*clip_by_products(matrix, limit)[:2])
    return clip_active_spectrum(active_spectrum(matrix, limit)[1])


def smallest_limit(dtype: tf.DType) -> float:
    """The least limit with room for what underflows: tiny / eps²."""
    info = np.finfo(dtype.as_numpy_dtype)
    return float(info.tiny) / float(info.eps) ** 2


def unit_roundoff(dtype: tf.DType) -> float:
    """Half the distance from 1 to the next larger number of the dtype."""
    return float(np.finfo(dtype.as_numpy_dtype).eps) / 2


def compiled_by_xla() -> bool:
    """Whether the operations created here will be compiled by XLA."""
    graph = tf.compat.v1.get_default_graph()
    return control_flow_util.GraphOrParentsInXlaContext(graph)


class ActiveSpectrum(NamedTuple):
    """M, and the k eigenvalues of MᵀM / limit² above 1.

    Attributes:
      matrix: M, of shape (m, n).
      eigenvalues: ascending, of shape (k,).
      vectors: the eigenvectors V, the columns of an (n, k) matrix.
      image: MV, of shape (m, k).
      largest: the largest of all eigenvalues, above 1 or not.
      clipped: bool, whether M was larger and has been clipped already.
    """

    matrix: tf.Tensor
    eigenvalues: tf.Tensor
    vectors: tf.Tensor
    image: tf.Tensor
    largest: tf.Tensor
    clipped: tf.Tensor


def active_spectrum(
    matrix: tf.Tensor, limit: Scalar
) -> tuple[ActiveSpectrum, ActiveSpectrum]:
    """The spectrum of M as it came, and one with |M|₂ <= √2 limits.

    The second is for `clip_active_spectrum`, and the same unless M was larger:
    large singular values make for large errors, so they are clipped at once,
    with an error that the second step mends.
    """

    def decompose(matrix, limit):
        scaled = matrix / (limit * (1 - _room(matrix)))
        gram = tf.matmul(scaled, scaled, transpose_a=True)
        # The eigendecomposition stops the program at NaN; training may go on.
        finite = tf.math.is_finite(tf.reduce_sum(gram))
        gram = tf.where(finite, gram, tf.zeros_like(gram))
        eigenvalues, vectors = tf.linalg.eigh(gram)
        below = tf.reduce_sum(tf.cast(eigenvalues <= 1.0, tf.int32))
        vectors = vectors[:, below:]
        spectrum = ActiveSpectrum(
            matrix,
            eigenvalues[below:],
            vectors,
            tf.matmul(matrix, vectors),
            tf.reduce_max(eigenvalues),
            tf.constant(False),
        )
        return spectrum, finite

    # One node of the graph: even untaken, every node of a branch takes time.
    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def after_clipping_once():
        wide = tf.cast(scaled_down(matrix, limit * _LARGEST_RATIO), tf.float64)
        spectrum, _ = decompose(wide, tf.cast(limit, tf.float64))
        once = tf.cast(clip_active_spectrum(spectrum).matrix, matrix.dtype)
        spectrum, finite = decompose(once, limit)
        failed = spectrum.largest > 2.0
        inside = scaled_down(once, limit * (1 - _room(matrix)))
        return spectrum._replace(
            matrix=tf.where(failed, inside, once),
            eigenvalues=tf.where(
                failed, tf.ones([], matrix.dtype), spectrum.eigenvalues
            ),
            clipped=finite,
        )

    first, finite = decompose(matrix, limit)
    small = finite & (first.largest <= 2.0)
    return first, tf.cond(small, lambda: first, after_clipping_once)


def clip_active_spectrum(spectrum: ActiveSpectrum) -> ClippedMatrix:
    """The second step: M - MV (I - Λ^(-1/2)) Vᵀ, Λ the eigenvalues."""
    matrix = spectrum.matrix
    shrink = 1.0 - tf.math.rsqrt(spectrum.eigenvalues)
    moved = spectrum.image * shrink
    moved = matrix - tf.matmul(moved, spectrum.vectors, transpose_b=True)
    inside = spectrum.largest <= 1.0 + _room(matrix)
    return ClippedMatrix(
        tf.where(inside, matrix, moved), inside & ~spectrum.clipped
    )


def _room(matrix: tf.Tensor) -> float:
    """The share of the limit that is left to rounding."""
    longer = np.sqrt(max(matrix.shape[-2:]))
    return float(_ROUNDING * unit_roundoff(matrix.dtype) * longer)


def scaled_down(matrix: tf.Tensor, most: Scalar) -> tf.Tensor:
    """Holds |M|₂ <= |M|_F <= most, whatever M is, unless it is not finite."""
    wide, most = tf.cast(matrix, tf.float64), tf.cast(most, tf.float64)
    peak = tf.reduce_max(tf.abs(wide))
    # Entries up to 1, of which no product overflows.
    shape = tf.math.divide_no_nan(wide, peak)
    norm = tf.norm(shape)
    kept = (norm <= most / peak) | ~tf.math.is_finite(norm)
    scaled = shape * tf.math.divide_no_nan(most, norm)
    return tf.where(kept, matrix, tf.cast(scaled, matrix.dtype))


def clip_by_products(matrix: tf.Tensor, limit: Scalar) -> ClippedByProducts:
    """`clip_singular_values` with matrix products alone, for XLA.

    `matrix` may be a stack of them, (..., m, n). Then `inside` is whether all
    were left alone.
    """
    limit *= 1 - _room(matrix)
    *stack, _, size = matrix.shape
    nothing = tf.zeros([*stack, size, size], matrix.dtype)
    start = ClippedByProducts(
        scaled_down(matrix, limit * _LARGEST_RATIO),
        tf.constant(True),
        nothing,
        nothing,
    )
    last, done = tf.while_loop(
        lambda clipped, done: tf.logical_not(done),
        lambda clipped, done: _clip_by_products_once(clipped, limit),
        (start, tf.constant(False)),
        maximum_iterations=_MOST_PASSES,
    )
    inside = tf.cond(
        done, lambda: last.matrix, lambda: scaled_down(last.matrix, limit)
    )
    return last._replace(matrix=inside)


def _clip_by_products_once(
    clipped: ClippedByProducts, limit: tf.Tensor
) -> tuple[ClippedByProducts, tf.Tensor]:
    """One pass; done unless the matrix was large.

    With G = MᵀM / limit² and E = G - I, a composition f of odd cubics with
    |f| <= 1 stands for the sign function, Z = E (I + f(E)) / 2 for the positive
    part of E, and a polynomial p(z) <= (1 + z)^(-1/2) for the factor by which
    singular values shrink. As E - Z <= ε for a known ε = 4e-5, the result
    M p(Z), scaled by (1 + ε)^(-1/2), has spectral norm <= limit in exact
    arithmetic, whatever the matrix.

    |f| <= 1 asks for E <= 1. Larger matrices are clipped at a higher limit, and
    are not done; those inside by 4 per cent are left alone.
    """
    matrix = clipped.matrix
    size, dtype = matrix.shape[-1], matrix.dtype
    eye = tf.eye(size, dtype=dtype)
    scaled = matrix / (limit / np.sqrt(1 + _RESIDUE))
    gram = tf.matmul(scaled, scaled, transpose_a=True)
    bound = largest_eigenvalue_bound(gram, eye)
    limit_square = tf.maximum(bound / 1.5, 1.0)[..., None, None]

    def clip():
        gap = gram / limit_square - eye
        # X = f(E), (I + X) / 2, Z, and p(Z).
        sign = gap
        for scale in _SCALES:
            square = tf.matmul(sign, sign)
            sign = tf.matmul(1.5 * scale * eye - scale**3 / 2 * square, sign)
        active = (sign + eye) / 2
        excess = tf.matmul(gap, active)
        excess = (excess + tf.linalg.matrix_transpose(excess)) / 2
        inner = tf.matmul(_SQUARE * eye - _CUBE * excess, excess) - eye / 2
        shrink = eye + tf.matmul(inner, excess)
        # Passes share V: excesses add up, and the last one, at the limit
        # itself, finds all that was above it.
        return (
            tf.matmul(matrix, shrink),
            tf.constant(False),
            clipped.excess + limit_square * excess,
            active,
        )

    inside = tf.reduce_all(bound <= 1.0)
    result = tf.cond(inside, lambda: tuple(clipped), clip)
    # Not `limit_square <= 1`: NaN must end the loop.
    done = tf.logical_not(tf.reduce_any(limit_square > 1.0))
    return ClippedByProducts(*result), done


def largest_eigenvalue_bound(
    gram: tf.Tensor, eye: tf.Tensor, doublings: int = 3
) -> tf.Tensor:
    """Bounds λmax of Hermitian G >= 0, (..., n, n), by Chebyshev's polynomial.

    T_d, d = 2^doublings, is at most 1 in absolute value on [-1, 1] and grows
    fast outside: the Frobenius norm of its value at 2G - I tells the largest
    eigenvalue. G is scaled so that the bound is best where G = I. It is tight
    where it exceeds 1, and below 1 where λmax(G) is.
    """
    size = gram.shape[-1]
    degree = 2**doublings
    slack = (1 + np.cosh(np.arccosh(np.sqrt(size)) / degree)) / 2
    trace = tf.math.real(tf.linalg.trace(gram))
    scale = tf.maximum(trace / size, 1.0)
    factor = tf.cast(2 * slack / scale, gram.dtype)[..., None, None]
    chebyshev = factor * gram - eye
    for _ in range(doublings):
        chebyshev = 2 * tf.matmul(chebyshev, chebyshev) - eye
    wide = tf.cast(tf.abs(chebyshev), tf.float64)
    norm = tf.maximum(tf.norm(wide, axis=(-2, -1)), 1.0)
    bound = (1 + tf.cosh(tf.acosh(norm) / degree)) / 2 / slack
    return tf.cast(bound, scale.dtype) * scale
