"""Lipschitz bounds, each named for what it holds for: flow, Euler, network.

All bounds are for real arithmetic: rounding in the evaluation of the network
(float32, say) is not part of them; rounding in the evaluation of the bounds is.
Those whose names begin with `inf_` are for the ∞-norm, others for the Euclidean
norm; `flow_lipschitz`, `ssprk3_step_lipschitz`, `runge_kutta_step_lipschitz`
and products hold in either, given numbers of that norm. They are derived in
docs/theory.md, "From the flow to the network" and "The ∞-norm". One that
exceeds the largest float is infinite.

Arguments: `delta` is an upper bound of the worst-case logarithmic norm δ of A
with slopes in [α, 1], `spectral_norm` one of |A|₂, `step` the step size h > 0,
`terminal_time` T > 0, `num_steps` N >= 1.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from stable_node_tf.checks import (
    check_count,
    check_not_negative,
    check_number,
    check_positive,
)
from stable_node_tf.stability.rounding import (
    largest_eigenvalue_above,
    norm_of_rounding,
    relative_rounding,
)


def spectral_norm_bound(matrix: ArrayLike) -> float:
    """A proven upper bound of the spectral norm of an m×n matrix.

    It is larger than |matrix|₂ by a relative 1e-10 or so at most, unless n is
    in the thousands.

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
    return largest_spectral_norm(matrix)


def largest_spectral_norm(matrices: np.ndarray) -> float:
    """A proven upper bound of the spectral norms of matrices (..., m, n).

    They are finite, float64.

    >>> 5.0 <= largest_spectral_norm(np.array([[[3.0]], [[5.0]]])) < 5.0000001
    True
    """
    if matrices.shape[-2] < matrices.shape[-1]:
        matrices = matrices.swapaxes(-1, -2)
    scale = np.abs(matrices).max()
    if scale == 0.0:
        return 0.0
    scale = 2.0 ** math.floor(math.log2(scale))
    scaled = matrices / scale
    transposed = scaled.swapaxes(-1, -2)
    magnitude = np.abs(transposed) @ np.abs(scaled)
    square = largest_eigenvalue_above(
        transposed @ scaled,
        norm_of_rounding(magnitude, matrices.shape[-2] + 2),
    ).max()
    bound = np.nextafter(math.sqrt(square), np.inf) * scale
    return float(np.nextafter(bound, np.inf))


def flow_lipschitz(delta: float, terminal_time: float) -> float:
    """exp(δT): Lipschitz constant of the exact flow of u' = σ(Au + b).

    Holds for the flow itself, not for a discretization of it (Dahlquist's
    lemma; De Marinis et al., arXiv 2501.10740, §2).

    >>> 1.0 <= flow_lipschitz(0.0, 1.0) < 1.000000001
    True
    """
    time = check_positive(terminal_time, "terminal_time")
    exponent = check_number(delta, "delta") * time
    try:
        bound = math.exp(np.nextafter(exponent, np.inf))
    except OverflowError:
        return math.inf
    return _padded(bound, 4)


def euler_lipschitz(
    delta: float, spectral_norm: float, terminal_time: float, num_steps: int
) -> float:
    """Lipschitz constant of explicit Euler with N steps on [0, T].

    With h = T/N, |u⁺ - v⁺|² <= (1 + 2hδ + h²|A|₂²) |u - v|² in every step,
    because u⁺ - v⁺ = (I + hDA)(u - v) for some D with slopes in [α, 1], so the
    constant is (1 + 2hδ + h²|A|₂²)^(N/2). It holds for the discretized block.
    `euler_step_lipschitz` with `euler_log_norm` gives a sharper one.

    >>> round(euler_lipschitz(1.0, 1.0, 1.0, 1), 9)
    2.0
    """
    time = check_positive(terminal_time, "terminal_time")
    step = time / check_count(num_steps, "num_steps")
    delta = check_number(delta, "delta")
    z = step * check_not_negative(spectral_norm, "spectral_norm")
    return repeated_lipschitz(
        _root_of_square(step * (2 * delta), z * z), num_steps
    )


def euler_step_lipschitz(log_norm: float, step: float) -> float:
    """√(1 + 2hδ_h): Lipschitz constant of one step of explicit Euler.

    `log_norm` is an upper bound of δ_h(A), from `euler_log_norm` for example.
    """
    log_norm = check_number(log_norm, "log_norm")
    return _root_of_square(check_positive(step, "step") * (2 * log_norm))


def ssprk3_step_lipschitz(euler_step: float) -> float:
    """Lipschitz constant of one step of Shu and Osher's third-order scheme.

    SSPRK(3,3) is made of convex combinations of Euler steps E of its own step
    size, so with γ = `euler_step` the Lipschitz constant of E one step has

        1/3 + 2/3 γ (3/4 + 1/4 γ²) = 1/3 + γ/2 + γ³/6,

    in particular 1 if γ = 1 (Gottlieb, Shu, Tadmor, SIAM Review 43, 2001).
    """
    gamma = check_not_negative(euler_step, "euler_step")
    return _padded(1 / 3 + gamma / 2 + gamma * gamma * gamma / 6, 8)


def runge_kutta_step_lipschitz(
    euler_step: float,
    spectral_norm: float,
    step: float,
    coefficients: Sequence[Sequence[float]],
    weights: Sequence[float],
) -> float:
    """Lipschitz constant of one step of an explicit Runge-Kutta scheme.

    An Euler step plus terms of second order in h|A|: with b >= 0, Σ b = 1,

        |e⁺| <= |(I + hDA) e| + h Σ_i b_i |A| h Σ_j |a_ij| |k_j|,

    |k_i| <= |A| κ_i |e|, κ_i = 1 + h|A| Σ_j |a_ij| κ_j. For the classical
    scheme of order 4 the terms are z²/2 + z³/6 + z⁴/24, z = h|A|.

    `euler_step` is the Lipschitz constant of an Euler step of size h,
    `coefficients` the strictly lower triangle of a, row i of length i, and
    `weights` is b.

    >>> bound = runge_kutta_step_lipschitz(1.0, 2.0, 0.1, ((), (0.5,)), (0, 1))
    >>> round(bound, 9)
    1.02
    """
    weights = [check_number(weight, "weights") for weight in weights]
    if min(weights, default=-1.0) < 0.0 or abs(sum(weights) - 1.0) > 1e-12:
        raise ValueError(
            "`weights` must not be negative, and must sum to 1. "
            f"Received: weights={weights}"
        )
    z = check_positive(step, "step") * check_not_negative(
        spectral_norm, "spectral_norm"
    )
    growths: list[float] = []
    for row in coefficients:
        inner = sum(abs(a) * k for a, k in zip(row, growths, strict=True))
        growths.append(1.0 + z * inner)
    excess = z * sum(
        b * (k - 1.0) for b, k in zip(weights, growths, strict=True)
    )
    return _padded(
        check_not_negative(euler_step, "euler_step") + excess,
        8 * (len(weights) + 1) ** 2,
    )


def implicit_midpoint_step_lipschitz(
    delta: float, spectral_norm: float, step: float
) -> float:
    """Lipschitz constant of one step of the implicit midpoint rule.

    With μ <= δ and s, (hμ)²/4 <= s <= (h|A|)²/4, a difference e becomes e⁺ with

        |e⁺|² / |e|² = (1 + hμ + s) / (1 - hμ + s).

    That is at most 1 if δ <= 0 (B-stability), and smaller by how much |A|
    allows; at most ((1 + hδ/2) / (1 - hδ/2))² if 0 < hδ/2 < 1; and nothing is
    promised beyond. The equation of the step is taken to be solved exactly.

    >>> 1.0 <= implicit_midpoint_step_lipschitz(0.0, 3.0, 0.1) < 1.000000001
    True
    """
    step = check_positive(step, "step")
    z = step * check_not_negative(spectral_norm, "spectral_norm")
    growth = np.nextafter(step * check_number(delta, "delta"), np.inf)
    if growth >= 2.0:
        return math.inf
    if growth > 0.0:
        return _padded((1 + growth / 2) / (1 - growth / 2), 8)
    square = z * z / 4 * (1 + relative_rounding(8))
    if square == math.inf:
        return _padded(1.0, 8)
    rounding = relative_rounding(8) * (1 - growth + square)
    numerator = max(0.0, 1 + growth + square) + rounding
    return _padded(math.sqrt(numerator / (1 - growth + square)), 8)


def inf_euler_step_lipschitz(log_norm: float, step: float) -> float:
    """1 + hδ_h: one step of explicit Euler in the ∞-norm.

    `log_norm` is δ_h in that norm, see `euler_log_norm`.

    >>> round(inf_euler_step_lipschitz(-1.0, 0.25), 9)
    0.75
    """
    growth = check_positive(step, "step") * check_number(log_norm, "log_norm")
    rounding = relative_rounding(8) * (1.0 + abs(growth))
    return _padded(max(0.0, 1.0 + growth) + rounding, 4)


def inf_implicit_midpoint_step_lipschitz(
    delta: float, euler_step: float, step: float
) -> float:
    """One step of the implicit midpoint rule in the ∞-norm, solved exactly.

    It is a step of implicit Euler of size h/2, which has at most 1/(1 - hδ/2),
    after one of explicit Euler of that size, whose constant is `euler_step`:
    both with the same D. Nothing is promised where hδ/2 >= 1.

    >>> round(inf_implicit_midpoint_step_lipschitz(-1.0, 0.5, 1.0), 9)
    0.333333333
    """
    growth = check_positive(step, "step") * check_number(delta, "delta") / 2
    left = 1.0 - growth - relative_rounding(8) * (1.0 + abs(growth))
    return _padded(euler_step / left, 8) if left > 0.0 else math.inf


def repeated_lipschitz(step_bound: float, num_steps: int) -> float:
    """Lipschitz constant of N equal steps: that of one to the power N."""
    check_count(num_steps, "num_steps")
    try:
        return _padded(step_bound**num_steps, 8 * num_steps)
    except OverflowError:
        return math.inf


def network_lipschitz(*factors: float) -> float:
    """Lipschitz constant of a composition: the product of the constants.

    >>> 6.0 <= network_lipschitz(2.0, 3.0) < 6.00001
    True
    """
    if 0.0 in factors:
        return 0.0
    # A large one next while the product is small: none underflows on the way.
    rest, product = sorted(factors), 1.0
    while rest:
        product *= rest.pop(-1 if product < 1.0 else 0)
    return _padded(product, 2 * len(factors) + 1)


def _root_of_square(*growth: float) -> float:
    """√(1 + Σ growth), rounded upwards, and 0 where the sum is negative."""
    magnitude = 1.0 + sum(map(abs, growth))
    square = max(0.0, 1.0 + sum(growth)) + relative_rounding(8) * magnitude
    return _padded(math.sqrt(square), 4)


def _padded(bound: float, operations: int) -> float:
    """A computed number, raised above the exact one."""
    return float(
        np.nextafter(bound * (1 + relative_rounding(operations)), np.inf)
    )
