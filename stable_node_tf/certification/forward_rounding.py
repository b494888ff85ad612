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
_ACTIVATION_ROUNDINGS = 16


class Affine(NamedTuple):
    """The function s -> constant + slope · s of a norm s >= 0.

    >>> 2.0 * Affine(1.0, 3.0) + 0.5
    Affine(constant=2.5, slope=6.0)
    """

    constant: float
    slope: float

    def __add__(self, other):
        """The sum with another function, or with a number."""
        if not isinstance(other, Affine):
            other = Affine(other, 0.0)
        return Affine(self.constant + other.constant, self.slope + other.slope)

    def __rmul__(self, factor):
        """A multiple."""
        return Affine(factor * self.constant, factor * self.slope)


class Computed(NamedTuple):
    """A state as it is computed, over all inputs of norm s.

    Attributes:
      size: bound on its Euclidean norm.
      error: bound on the distance from the state in real arithmetic.
    """

    size: Affine
    error: Affine


EXACT_INPUT = Computed(Affine(0.0, 1.0), Affine(0.0, 0.0))


def after_dense(
    state: Computed,
    kernel: np.ndarray,
    bias: np.ndarray,
    unit: float,
    positions: int = 1,
) -> Computed:
    """The state XW + b after an affine layer, of each row of X.

    A product of n terms and a bias is off by at most γ_{n+1}(|x||W| + |b|),
    entry by entry (Higham, Accuracy and Stability of Numerical Algorithms, 2nd
    ed., §3.1).

    Args:
      state: before the layer.
      kernel: W, of shape (n, m).
      bias: b, of shape (m,).
      unit: u, half the distance from 1 to the next number.
      positions: number of rows of X. The norms of the state are Frobenius's.

    >>> state = after_dense(EXACT_INPUT, np.eye(2), np.zeros(2), 2.0**-24)
    >>> bool(0.0 < state.error.slope < 1e-6)
    True
    """
    shift = math.sqrt(positions) * float(np.linalg.norm(bias))
    absolute = spectral_norm_bound(np.abs(kernel))
    local = _gamma(len(kernel) + 2, unit) * (absolute * state.size + shift)
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
      kernels: A_1, ..., A_k, each of shape (heights of A_i, of A_(i-1)).
      biases: b_1, ..., b_k.
      damping: c >= 0.
      step: h.
      step_lipschitz: γ.
      origin_norms: N + 1 numbers, the norms of the solution from 0.
      unit: u, as in `after_dense`.

    >>> A, b = [-np.eye(2)], [np.zeros(2)]
    >>> norms = [0.0] * 3
    >>> end = after_euler(EXACT_INPUT, A, b, 0.0, 0.1, 1.0, norms, 2.0**-24)
    >>> bool(0.0 < end.error.slope < 2e-6)
    True
    """
    layers = [
        _Layer(
            spectral_norm_bound(kernel),
            _gamma(kernel.shape[1] + 2, unit)
            * spectral_norm_bound(np.abs(kernel)),
            float(np.linalg.norm(bias)),
            _gamma(kernel.shape[1] + 2, unit),
        )
        for kernel, bias in zip(kernels, biases, strict=True)
    ]
    error, reach = state.error, 1.0
    size, start = state.size, state.size + state.error
    for origin in origin_norms[1:]:
        field = _field(size, layers, damping, unit)
        local = step * field.error + (4 * step * unit) * field.size
        local += unit * (size + step * field.size)
        error = step_lipschitz * error + _SECOND_ORDER * local
        reach *= step_lipschitz
        size = reach * start + _SECOND_ORDER * float(origin) + error
    return Computed(size, error)


class _Layer(NamedTuple):
    """What is used of a layer σ(Ay + b) of a vector field.

    Attributes:
      norm: |A|₂.
      rounding: γ_(n+2) times the norm of |A|.
      shift: |b|.
      gamma: γ_(n+2).
    """

    norm: float
    rounding: float
    shift: float
    gamma: float


def _field(
    size: Affine, layers: Sequence[_Layer], damping: float, unit: float
) -> Computed:
    """f(u) at a floating-point state u whose norm is at most `size`."""
    value = Computed(size, Affine(0.0, 0.0))
    for layer in layers:
        real = layer.norm * value.size + layer.shift
        local = layer.rounding * value.size + layer.gamma * layer.shift
        local += (_ACTIVATION_ROUNDINGS * unit) * (real + local)
        value = Computed(real + local, layer.norm * value.error + local)
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

    Args:
      state: before the read-out.
      kernel: of shape (d, K).
      bias: of shape (K,).
      unit: u, as in `after_dense`.

    Returns:
      Constants and slopes in s, both of shape (K, K).

    >>> pair_errors(EXACT_INPUT, np.eye(2), np.zeros(2), 0.0)[1].tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """
    gamma = _gamma(len(kernel) + 2, unit)
    norms = np.linalg.norm(kernel, axis=0) * _SECOND_ORDER
    apart = np.linalg.norm(kernel[:, :, None] - kernel[:, None, :], axis=0)
    apart *= _SECOND_ORDER

    def pairs(error, size, shift):
        own = gamma * (norms * size + shift)
        return apart * error + own[:, None] + own[None, :]

    return (
        pairs(state.error.constant, state.size.constant, np.abs(bias)),
        pairs(state.error.slope, state.size.slope, 0.0),
    )


def _gamma(operations: int, unit: float) -> float:
    product = operations * unit
    if product >= 0.5:
        return math.inf
    return _SECOND_ORDER * product / (1.0 - product)
