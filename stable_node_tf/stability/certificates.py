"""Lipschitz bounds, each named for what it holds for: flow, Euler, network.

All bounds are for the Euclidean norm and for real arithmetic: rounding in the
evaluation of the network (float32, say) is not part of them; rounding in the
evaluation of the bounds is.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from stable_node_tf.stability.checks import check_number
from stable_node_tf.stability.rounding import (
    largest_eigenvalue_above,
    norm_of_rounding,
    relative_rounding,
)


def spectral_norm_bound(matrix: ArrayLike) -> float:
    """A proven upper bound of the spectral norm, tight to rounding.

    Args:
      matrix: real array of shape (m, n).

    Returns:
      A float that is at least |matrix|₂, and larger by a relative 1e-10 or so
      at most, unless n is in the thousands.

    Raises:
      ValueError: if the array is not a finite matrix.

    >>> 5.0 <= spectral_norm_bound([[3.0], [4.0]]) < 5.0000001
    True
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        raise ValueError(
            "`matrix` must be a finite array of shape (m, n). "
            f"Received: matrix of shape {matrix.shape}"
        )
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    scale = np.abs(matrix).max()
    if scale == 0.0:
        return 0.0
    scale = 2.0 ** math.floor(math.log2(scale))
    scaled = matrix / scale
    gram = scaled.T @ scaled
    magnitude = np.abs(scaled).T @ np.abs(scaled)
    square = largest_eigenvalue_above(
        gram, norm_of_rounding(magnitude, len(matrix) + 2)
    )
    bound = np.nextafter(math.sqrt(square), np.inf) * scale
    return float(np.nextafter(bound, np.inf))


def flow_lipschitz(delta: float, terminal_time: float) -> float:
    """exp(δT): Lipschitz constant of the exact flow of u' = σ(Au + b).

    Holds for the flow itself, not for a discretisation of it (Dahlquist's
    lemma; De Marinis et al., arXiv 2501.10740, §2).

    Args:
      delta: an upper bound of the worst-case logarithmic norm of A.
      terminal_time: T > 0.

    Returns:
      A float, infinite where the constant exceeds the largest one.

    >>> 1.0 <= flow_lipschitz(0.0, 1.0) < 1.000000001
    True
    """
    exponent = check_number(delta, "delta") * _positive(terminal_time)
    try:
        bound = math.exp(np.nextafter(exponent, np.inf))
    except OverflowError:
        return math.inf
    return float(np.nextafter(bound * (1 + relative_rounding(4)), np.inf))


def euler_lipschitz(
    delta: float, spectral_norm: float, terminal_time: float, num_steps: int
) -> float:
    """Lipschitz constant of explicit Euler with N steps on [0, T].

    With h = T/N, |u⁺ - v⁺|² <= (1 + 2hδ + h²|A|₂²) |u - v|² in every step,
    because u⁺ - v⁺ = (I + hDA)(u - v) for some D with slopes in [α, 1], so the
    constant is (1 + 2hδ + h²|A|₂²)^(N/2). It holds for the discretised block.

    Args:
      delta: an upper bound of the worst-case logarithmic norm of A.
      spectral_norm: an upper bound of |A|₂.
      terminal_time: T > 0.
      num_steps: N >= 1.

    Raises:
      ValueError: if `num_steps` is not a positive integer or T not positive.

    >>> round(euler_lipschitz(1.0, 1.0, 1.0, 1), 9)
    2.0
    """
    if num_steps < 1:
        raise ValueError(
            "`num_steps` must be a positive integer. "
            f"Received: num_steps={num_steps}"
        )
    step = _positive(terminal_time) / num_steps
    delta = check_number(delta, "delta")
    spectral_norm = check_number(spectral_norm, "spectral_norm")
    growth = step * (2 * delta) + (step * spectral_norm) ** 2
    magnitude = 1.0 + abs(step * 2 * delta) + (step * spectral_norm) ** 2
    square = max(0.0, 1.0 + growth) + relative_rounding(8) * magnitude
    try:
        bound = square ** (num_steps / 2) * (
            1.0 + relative_rounding(8 * num_steps)
        )
    except OverflowError:
        return math.inf
    return float(np.nextafter(bound, np.inf))


def network_lipschitz(*factors: float) -> float:
    """Lipschitz constant of a composition: the product of the constants.

    >>> 6.0 <= network_lipschitz(2.0, 3.0) < 6.00001
    True
    """
    if 0.0 in factors:
        return 0.0
    bound = math.prod(factors) * (1 + relative_rounding(2 * len(factors) + 1))
    return float(np.nextafter(bound, np.inf))


def _positive(terminal_time: float) -> float:
    terminal_time = check_number(terminal_time, "terminal_time")
    if terminal_time <= 0.0:
        raise ValueError(
            "`terminal_time` must be positive. "
            f"Received: terminal_time={terminal_time}"
        )
    return terminal_time
