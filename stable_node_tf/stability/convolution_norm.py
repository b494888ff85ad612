"""Spectral norms of convolutions, bounded from above for images of every size.

See docs/theory.md, "Convolutions".
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from stable_node_tf.stability.lipschitz import largest_spectral_norm
from stable_node_tf.stability.rounding import relative_rounding

# Frequencies for each degree of the symbol along an axis: the bound is at most
# 1/cos(π/24) times too large, 0.9 per cent an axis.
_FREQUENCIES = 12
# Entries of all symbols that are held at once.
_MOST_ENTRIES = 2**22


def convolution_norm(
    kernel: ArrayLike,
    strides: int | Sequence[int] = 1,
    dilations: int | Sequence[int] = 1,
    groups: int = 1,
) -> float:
    """A proven upper bound of the spectral norm of a convolution.

    It holds for images of every size padded with zeros, by any number of them,
    and for the transpose of the convolution. On large images it is too large by
    at most 0.9 per cent for each axis.

    The convolution is a part of the one on all of Z^d, whose norm is that of
    its symbol Â(ω) = Σ_p K_p exp(iω·p), the largest over ω. With N frequencies
    along an axis of k taps,

        max_ω |Â(ω)|₂ <= max_grid |Â(ω)|₂ / cos(π(k - 1)/2N),

    axis after axis: a trigonometric polynomial of degree m stays above its
    maximum times cos(mt) at the distance t <= π/m from it (M. Riesz; Ehlich and
    Zeller, Math. Z. 86, 1964).

    Args:
      kernel: K, finite, of shape (k_1, ..., k_d, c / groups, c').
      strides: one for all axes, or one for each.
      dilations: as `strides`.
      groups: number of parts of the channels that are convolved apart; their
        c' / groups outputs each follow one another.

    Raises:
      ValueError: if the kernel is no finite array of such a shape.

    >>> bound = convolution_norm(np.ones((3, 1, 1)))
    >>> 3.0 <= bound < 1.01 * 3.0
    True
    >>> bool(1.0 <= convolution_norm(np.eye(4).reshape(2, 2, 1, 4), 2) < 1.001)
    True
    """
    kernel = np.asarray(kernel, np.float64)
    if (
        kernel.ndim < 2
        or not kernel.size
        or not np.isfinite(kernel).all()
        or kernel.shape[-1] % groups
    ):
        raise ValueError(
            "`kernel` must be a finite array of shape (k_1, ..., k_d, inputs, "
            f"outputs), outputs a multiple of groups={groups}. Received: "
            f"kernel of shape {kernel.shape}"
        )
    array = kernel[None] if kernel.ndim == 2 else kernel
    *sizes, inputs, outputs = array.shape
    array = array.reshape(-1, inputs, groups, outputs // groups)
    # To (taps and a zero, groups, inputs, outputs of a group).
    taps = np.pad(np.moveaxis(array, 2, 1), [(0, 1)] + [(0, 0)] * 3)
    array = np.moveaxis(taps[phases(sizes, strides, dilations)], -4, -3)
    shape = (*array.shape[:-3], -1, array.shape[-1])
    return _largest_symbol(array.reshape(shape))


def phases(
    sizes: Sequence[int],
    strides: int | Sequence[int] = 1,
    dilations: int | Sequence[int] = 1,
) -> np.ndarray:
    """The convolution without stride that maps stacked phases to the same.

    With x_r[n] = x[sn + r], Σ_k K[k] x[sn + k] = Σ_r Σ_j K[sj + r] x_r[n + j],
    axis after axis.

    Returns:
      Which tap of K, by its number in row-major order, is at (j, r), or the
      number of all taps for zeros: shape (j_1, ..., j_d, s_1 ⋯ s_d).

    >>> phases([3], 2)
    array([[0, 1],
           [2, 3]])
    """
    axes = len(sizes)
    steps = np.broadcast_to(strides, axes)
    # Without strides, dilations only permute the values of the symbol.
    gaps = np.where(steps > 1, np.broadcast_to(dilations, axes), 1)
    taps = np.indices(sizes).reshape(axes, math.prod(sizes))
    slots, rest = np.divmod(taps * gaps[:, None], steps[:, None])
    shape = slots.max(axis=1) + 1
    found = np.full((*shape, *steps), math.prod(sizes))
    found[(*slots, *rest)] = np.arange(math.prod(sizes))
    return found.reshape(*shape, np.prod(steps))


def frequencies(sizes: Sequence[int]) -> list[int]:
    """How many frequencies along each axis a kernel of that size is given."""
    return [max(1, _FREQUENCIES * (size - 1)) for size in sizes]


def loss_between(sizes: Sequence[int]) -> float:
    """What max |Â|₂ on that grid is at least, as a share of it everywhere."""
    return math.prod(
        math.cos(math.pi * (size - 1) / (2 * count))
        for size, count in zip(sizes, frequencies(sizes), strict=True)
    )


def _largest_symbol(kernel: np.ndarray) -> float:
    """Bounds max_ω |Â(ω)|₂ for a kernel (k_1, ..., k_d, g, c, c')."""
    *sizes, groups, inputs, outputs = kernel.shape
    counts = frequencies(sizes)
    taps = np.indices(sizes).reshape(len(sizes), -1)
    halves = [*counts[:-1], counts[-1] // 2 + 1]  # conjugate at -ω
    grid = np.indices(halves).reshape(len(sizes), -1)
    table = kernel.reshape(taps.shape[1], -1)
    # Each entry of a symbol is off by at most γ Σ_p |K_p|: by the sum, by its
    # phases, whose sines and cosines are right to 90 roundings for up to three
    # axes, and by the real and imaginary part, which meet in the norm.
    magnitude = np.linalg.norm(
        np.abs(kernel).sum(axis=tuple(range(len(sizes))))
    )
    error = 2 * relative_rounding(len(table) + 100) * magnitude
    step = max(1, _MOST_ENTRIES // (4 * table.shape[1]))
    largest = 0.0
    for start in range(0, grid.shape[1], step):
        some = grid[:, start : start + step]
        turns = sum(
            (np.outer(some[axis], taps[axis]) % count) / count
            for axis, count in enumerate(counts)
        )
        angles = 2 * np.pi * (turns + np.zeros((some.shape[1], len(table))))
        shape = (-1, groups, inputs, outputs)
        real = (np.cos(angles) @ table).reshape(shape)
        imaginary = (np.sin(angles) @ table).reshape(shape)
        # |Â|₂ is the norm of the real matrix of twice the size.
        both = np.block([[real, -imaginary], [imaginary, real]])
        largest = max(largest, largest_spectral_norm(both))
    bound = (largest + error) / loss_between(sizes)
    return float(bound * (1 + relative_rounding(20 + 8 * len(sizes))))
