"""Clips the norm of a convolution in the train step.

See docs/theory.md, "Convolutions".
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from stable_node_tf.stability.clipping.singular_values import (
    clip_by_products,
    clip_singular_values,
    largest_eigenvalue_bound,
    scaled_down,
    unit_roundoff,
)
from stable_node_tf.stability.convolution_norm import (
    frequencies,
    loss_between,
    phases,
)

_LARGEST_RATIO = 1e6
# Below the limit, for what is between the frequencies where it clips.
_TARGET = 0.98
# Chebyshev's polynomial of degree 16: at most 1 per cent too large.
_DOUBLINGS = 4
# Entries of all symbols that are held at once.
_MOST_ENTRIES = 2**22


def clip_convolution(
    kernel: tf.Tensor, limit: float, strides: int | Sequence[int] = 1
) -> tf.Tensor:
    """Brings a convolution to a spectral norm of at most `limit`.

    In images of every size, see `convolution_norm`, whose bound of the result
    is at most `limit`. Frequency by frequency, singular values above the limit
    are lowered to it, and what leaves the k taps of the kernel is dropped. That
    is near the nearest kernel inside, but may end a little outside, so the
    kernel is then scaled by the limit over a proven bound of its norm.

    A kernel inside, or one that holds NaN or infinity, is returned as it is.

    Args:
      kernel: float32 or float64, of shape (k_1, ..., k_d, c, c').
      limit: positive, from `smallest_limit` to the largest number of the dtype.
      strides: one for all axes, or one for each.

    >>> kernel = clip_convolution(tf.ones((3, 1, 1)), 1.0)
    >>> bool(0.32 < kernel[0, 0, 0] <= 1 / 3)
    True
    """
    *sizes, inputs, outputs = kernel.shape
    places = phases(sizes, strides)
    *shape, count = places.shape

    def stacked(taps):
        """The kernel without stride, with its taps in one axis."""
        zero = tf.zeros([1, inputs, outputs], taps.dtype)
        found = tf.gather(tf.concat([taps, zero], 0), places.reshape(-1, count))
        return tf.reshape(found, [-1, count * inputs, outputs])

    def apart(found):
        found = tf.reshape(found, [-1, inputs, outputs])
        return tf.gather(found, np.argsort(places, None)[: np.prod(sizes)])

    taps = tf.reshape(kernel, [-1, inputs, outputs])
    if max(shape) == 1:
        matrix = clip_singular_values(stacked(taps)[0], limit).matrix
        return tf.reshape(apart(matrix), kernel.shape)
    # The roundings of the bound, and that of the scaling.
    rows, columns = sorted([count * inputs, outputs])
    proof = 8 * (rows + columns + places.size) * rows * 2.0**-53 + 1e-9
    room = proof + np.sqrt(places.size * rows) * unit_roundoff(kernel.dtype)

    def bound(taps):
        """|K|₂ / limit, from above."""
        operator = tf.cast(stacked(taps), tf.float64) / limit
        between = loss_between(shape) * (1 - proof)
        return _largest_on_grid(operator, shape) / between

    def clipped():
        moved = scaled_down(taps, limit * _LARGEST_RATIO)
        target = limit * loss_between(shape) * _TARGET
        moved = apart(_clip_symbols(stacked(moved), shape, target))
        factor = tf.minimum((1 - 2 * room) / bound(moved), 1.0)
        scaled = tf.cast(factor * tf.cast(moved, tf.float64), kernel.dtype)
        return tf.reshape(scaled, kernel.shape)

    finite = tf.reduce_all(tf.math.is_finite(kernel))
    inside = bound(taps) <= 1.0
    return tf.cond(inside | ~finite, lambda: kernel, clipped)


def _clip_symbols(
    taps: tf.Tensor, sizes: Sequence[int], limit: float
) -> tf.Tensor:
    """Clips Â on 2^d grids in turn, that of the torus and those between.

    `taps` is (k_1 ⋯ k_d, c, c'). A grid has as many frequencies as the kernel
    has taps, so that any values on it are those of a kernel: clipped, they are
    those of the nearest. -ω is in the grid of ω, so it is real.
    """
    *_, inputs, outputs = taps.shape
    places = np.indices(sizes).reshape(len(sizes), -1)
    halves = np.indices([1 if k == 1 else 2 for k in sizes]) / 2
    shifts = halves.reshape(len(sizes), -1).T[:, None]
    angles = (shifts + places.T) / sizes @ places
    waves = np.exp(2j * np.pi * angles)

    def clip(taps, wave):
        cosine, sine = wave[0], wave[1]
        real = tf.tensordot(cosine, taps, 1)
        imaginary = tf.tensordot(sine, taps, 1)
        # The real matrix of twice the size, its smaller side last.
        upper = tf.concat([real, imaginary], -1)
        lower = tf.concat([-imaginary, real], -1)
        both = tf.concat([upper, lower], -2)
        if inputs < outputs:
            both = tf.linalg.matrix_transpose(both)
        clipped, inside, *_ = clip_by_products(both, limit)
        if inputs < outputs:
            clipped = tf.linalg.matrix_transpose(clipped)
        real, imaginary = tf.split(clipped[:, :inputs], 2, -1)
        nearest = tf.tensordot(cosine, real, [[0], [0]])
        nearest += tf.tensordot(sine, imaginary, [[0], [0]])
        return tf.where(inside, taps, nearest / len(places.T))

    waves = tf.constant(np.stack([waves.real, waves.imag], 1), taps.dtype)
    return tf.foldl(clip, waves, taps, parallel_iterations=1)


def _largest_on_grid(taps: tf.Tensor, sizes: Sequence[int]) -> tf.Tensor:
    """Bounds max |Â|₂ on the grid of `convolution_norm`."""
    *_, inputs, outputs = taps.shape
    if inputs < outputs:
        taps = tf.linalg.matrix_transpose(taps)
    rows, columns = taps.shape[1:]
    taps = tf.cast(tf.reshape(taps, [*sizes, rows, columns]), tf.complex128)
    eye = tf.eye(columns, dtype=tf.complex128)
    counts = frequencies(sizes)
    waves = [
        np.exp(2j * np.pi * np.outer(np.arange(count), np.arange(size)) / count)
        for count, size in zip(counts, sizes, strict=True)
    ]
    # Conjugate at -ω.
    waves[-1] = waves[-1][: counts[-1] // 2 + 1]

    def largest(first):
        symbol = taps
        for wave in (*waves[:0:-1], first):
            symbol = tf.tensordot(wave, symbol, [[1], [len(sizes) - 1]])
        symbol = tf.reshape(symbol, [-1, rows, columns])
        gram = tf.matmul(symbol, symbol, adjoint_a=True)
        # Relative to the mean eigenvalue: the bound of cK is c times that of K.
        mean = tf.math.real(tf.linalg.trace(gram)) / columns
        unit = tf.where(mean > 0.0, mean, 1.0)
        gram /= tf.cast(unit, gram.dtype)[:, None, None]
        bound = mean * largest_eigenvalue_bound(gram, eye, _DOUBLINGS)
        # What overflows is large, too.
        return tf.reduce_max(tf.where(bound < np.inf, bound, np.inf))

    entries = np.prod([len(wave) for wave in waves]) * rows * columns
    if entries <= _MOST_ENTRIES:
        square = largest(tf.constant(waves[0]))
    else:
        square = tf.reduce_max(
            tf.map_fn(
                lambda row: largest(row[None]),
                tf.constant(waves[0]),
                tf.float64,
                parallel_iterations=1,
            )
        )
    return tf.sqrt(square)
