"""How far a network computed in floating point is from its real self.

The bounds are affine in s = |x|₂, the norm of the input: they hold for every
input at once, those of an attacker included. They assume arithmetic of IEEE
754 with unit roundoff u, sums in any order, fused or not, no reduced precision
inside matrix products (TF32, bfloat16), and no overflow or underflow, at the
inputs of an attacker included.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stable_node_tf.stability.lipschitz import spectral_norm_bound

# Covers products of roundings, and the rounding of these bounds themselves.
_SECOND_ORDER = 1.01
# Roundings in α y + (1 - α) tanh(y) and its like, relative to |y|, with a tanh
# that is right to 8 roundings.
ACTIVATION_ROUNDINGS = 16


class Computed(NamedTuple):
    """A state as it is computed, over all inputs of norm s.

    Attributes:
      size: array of c and f, such that its Euclidean norm is at most c + fs.
      error: the same for the distance from the state in real arithmetic.
    """

    size: np.ndarray
    error: np.ndarray


EXACT_INPUT = Computed(np.array([0.0, 1.0]), np.zeros(2))
_ONE = np.array([1.0, 0.0])


def after_dense(
    state: Computed,
    kernel: np.ndarray,
    bias: np.ndarray,
    unit: float,
    positions: int = 1,
) -> Computed:
    """The state XW + b after an affine layer, applied to each row of X.

    A product of n terms and a bias is off by at most γ_{n+1}(|x||W| + |b|),
    entry by entry (Higham, Accuracy and Stability of Numerical Algorithms, 2nd
    ed., §3.1).

    The norms of the state are Frobenius's, over all `positions` rows of X.

    >>> state = after_dense(EXACT_INPUT, np.eye(2), np.zeros(2), 2.0**-24)
    >>> bool(0.0 < state.error[1] < 1e-6)
    True
    """
    shift = math.sqrt(positions) * np.linalg.norm(bias) * _ONE
    absolute = spectral_norm_bound(np.abs(kernel))
    local = gamma(len(kernel) + 2, unit) * (absolute * state.size + shift)
    norm = spectral_norm_bound(kernel)
    error = norm * state.error + local
    return Computed(norm * state.size + shift + local, error)


def after_euler(
    state: Computed,
    kernels: Sequence[np.ndarray],
    biases: Sequence[np.ndarray],
    damping: float,
    step: float,
    step_lipschitz: float,
    origin_norms: Sequence[float],
    unit: float,
) -> Computed:
    """The state after N steps u + hf(u) of explicit Euler.

    f(u) = σ(A_k σ(⋯ σ(A_1 u + b_1) ⋯) + b_k) - cu with σ(0) = 0. With γ the
    Lipschitz constant of one step in real arithmetic, the error obeys
    e⁺ <= γe + local. The norm of u_k in real arithmetic is at most γ^k |u_0|
    plus that of the solution from the origin after k steps.

    Args:
      state: before the first step.
      kernels: A_1, ..., A_k.
      biases: b_1, ..., b_k.
      damping: c >= 0.
      step: h.
      step_lipschitz: γ.
      origin_norms: N + 1 numbers, the norms of the solution from 0.
      unit: u.

    >>> A, b = [-np.eye(2)], [np.zeros(2)]
    >>> norms = [0.0] * 3
    >>> end = after_euler(EXACT_INPUT, A, b, 0.0, 0.1, 1.0, norms, 2.0**-24)
    >>> bool(0.0 < end.error[1] < 2e-6)
    True
    """
    gammas = [gamma(kernel.shape[1] + 2, unit) for kernel in kernels]
    norms = [spectral_norm_bound(kernel) for kernel in kernels]
    absolutes = [spectral_norm_bound(np.abs(kernel)) for kernel in kernels]
    shifts = [np.linalg.norm(bias) * _ONE for bias in biases]
    layers = list(zip(norms, absolutes, shifts, gammas, strict=True))
    error, reach = state.error, 1.0
    size, start = state.size, state.size + state.error
    for origin in origin_norms[1:]:
        field = _field(size, layers, damping, unit)
        # Of hf, of the product with h, and of the sum.
        local = step * field.error + (4 * step * unit) * field.size
        local += unit * (size + step * field.size)
        error = step_lipschitz * error + _SECOND_ORDER * local
        reach *= step_lipschitz
        size = reach * start + _SECOND_ORDER * origin * _ONE + error
    return Computed(size, error)


def _field(
    size: np.ndarray,
    layers: Sequence[tuple[float, float, np.ndarray, float]],
    damping: float,
    unit: float,
) -> Computed:
    """f(u) at a floating-point state u whose norm is at most `size`.

    The layers σ(Ay + b) are |A|₂, the norm of the absolute values of A, |b| and
    γ_(n+2).
    """
    value = Computed(size, np.zeros(2))
    for norm, absolute, shift, relative in layers:
        real = norm * value.size + shift
        local = (relative * absolute) * value.size + relative * shift
        local += (ACTIVATION_ROUNDINGS * unit) * (real + local)
        value = Computed(real + local, norm * value.error + local)
    if damping == 0.0:
        return value
    pull = damping * size
    return Computed(
        value.size + pull, value.error + unit * (value.size + 4.0 * pull)
    )


def pair_errors(
    state: Computed, kernel: np.ndarray, bias: np.ndarray, unit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on the error of logit_i - logit_j of an affine read-out.

    Returns constants and slopes in s, both of shape (K, K), for a kernel of
    shape (d, K).

    >>> pair_errors(EXACT_INPUT, np.eye(2), np.zeros(2), 0.0)[1].tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """
    relative = gamma(len(kernel) + 2, unit)
    norms = np.linalg.norm(kernel, axis=0) * _SECOND_ORDER
    apart = np.linalg.norm(kernel[:, :, None] - kernel[:, None, :], axis=0)
    apart *= _SECOND_ORDER

    def pairs(error, size, shift):
        own = relative * (norms * size + shift)
        return apart * error + own[:, None] + own[None, :]

    return (
        pairs(state.error[0], state.size[0], np.abs(bias)),
        pairs(state.error[1], state.size[1], 0.0),
    )


def gamma(operations: int, unit: float) -> float:
    """γ_n = nu / (1 - nu), rounded upwards; infinite for nu near 1.

    >>> gamma(1, 0.25)
    0.336...
    """
    product = operations * unit
    if product >= 0.5:
        return math.inf
    return _SECOND_ORDER * product / (1.0 - product)
