"""δ of several layers: max μ2(D_k A_k ⋯ D_1 A_1), proven from both sides."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from stable_node_tf.checks import (
    check_alpha,
    check_certificate,
    check_count,
    check_positive,
)
from stable_node_tf.stability.product_certificate import (
    form_matrix,
    minimize_multipliers,
    neutral_multipliers,
    quadratic_form,
    reached_bound,
    rescaled,
)
from stable_node_tf.stability.rounding import (
    UNIT_ROUNDOFF,
    largest_eigenvalue_above,
    norm_of_rounding,
    relative_rounding,
)

_ASCENTS = 12
# Squares of the norms of products are still numbers.
_WIDEST_EXPONENT = 100


class ProductLogNorm(NamedTuple):
    """An interval that holds δ(A_1, ..., A_k), and the proofs of its ends.

    Attributes:
      lower: largest value proven to be attained.
      upper: smallest value proven never to be exceeded.
      diagonals: those of D_1, ..., D_k, entries alpha or 1, and
      vector: x, of shape (d,), the proof of `lower`, see
        `attained_product_log_norm`.
      multipliers: the proof of `upper`, see `certified_product_log_norm`.
    """

    lower: float
    upper: float
    diagonals: tuple[np.ndarray, ...]
    vector: np.ndarray
    multipliers: np.ndarray


def product_log_norm(
    matrices: Sequence[ArrayLike],
    alpha: float,
    *,
    tolerance: float = 1e-6,
    starts: int = 16,
    seed: int = 0,
) -> ProductLogNorm:
    """Brackets δ = max μ2(D_k A_k ⋯ D_1 A_1), alpha <= entries of D_i <= 1.

    The flow of u' = σ(A_k σ(⋯ σ(A_1 u + b_1) ⋯) + b_k) on [0, T], slopes of σ
    in [alpha, 1], has Lipschitz constant at most exp(δT) in the 2-norm
    (Guglielmi, De Marinis, Savostianov, Tudisco, arXiv 2402.13092, for the
    problem; docs/theory.md for the bound). For one matrix the upper end is
    that of `worst_case_log_norm`.

    Args:
      matrices: A_1, ..., A_k, applied in this order, A_i of shape
        (m_i, m_(i-1)) with m_0 = m_k = d.
      alpha: smallest slope of the activation, in (0, 1]; `upper` is one for
        1 - 1e-6 if it is larger.
      tolerance: how far `upper` may be from the best bound of its kind,
        relative to Π |A_i|₂; positive.
      starts: how many starts the search behind `lower` makes, at least 1.
      seed: seeds the starts, not negative; equal arguments give equal results.

    Raises:
      ValueError: if the shapes do not fit, an entry is not finite, alpha is not
        in (0, 1], or another argument is out of its range.
      TypeError: if an argument is not numeric.

    >>> bracket = product_log_norm([np.eye(2), -np.eye(2)], alpha=0.5)
    >>> bool(-0.25 - 1e-9 <= bracket.lower <= bracket.upper < 0.0)
    True
    """
    arrays = check_chain(matrices)
    alpha = check_alpha(alpha)
    tolerance = check_positive(tolerance, "tolerance")
    starts = check_count(starts, "starts")
    seed = check_count(seed, "seed", 0)
    norms = [float(np.linalg.norm(A, 2)) or 1.0 for A in arrays]
    sizes = [len(A) for A in arrays]
    scaled = [tf.constant(A / c) for A, c in zip(arrays, norms, strict=True)]
    multipliers = minimize_multipliers(
        quadratic_form(scaled, alpha),
        neutral_multipliers(sizes, alpha),
        tolerance,
    ).numpy()
    multipliers = rescaled(multipliers, sizes, norms)
    upper = certified_product_log_norm(arrays, alpha, multipliers)
    diagonals, vector = _ascend(arrays, alpha, starts, seed)
    lower = attained_product_log_norm(arrays, alpha, diagonals, vector)
    return ProductLogNorm(lower, upper, diagonals, vector, multipliers)


def certified_product_log_norm(
    matrices: Sequence[ArrayLike], alpha: float, multipliers: ArrayLike
) -> float:
    """The bound on δ(A_1, ..., A_k) that multipliers prove.

    λ such that M(θ) <= λ diag(1, ..., 1, 0, ..., 0), see `quadratic_form`,
    verified by one eigenvalue of a matrix of size n = d + Σ m_i (i < k): that
    of M(θ) + λ diag(0, ..., 0, 1, ..., 1) is at most λ, rounding errors
    included. Infinite if the multipliers prove nothing.

    The multipliers are θ = (s_1, ..., s_(k-1), t) > 0, of shape (n,).

    >>> bound = certified_product_log_norm([[[2.0]], [[3.0]]], 1.0, [1.0, 6.0])
    >>> round(bound, 3)
    6.0
    """
    arrays = check_chain(matrices)
    alpha = check_alpha(alpha)
    sizes = [len(A) for A in arrays]
    size, total = sizes[-1], sum(sizes)
    theta = check_certificate(multipliers, total)
    # Powers of two scale without rounding.
    exponents = [
        int(np.ceil(np.log2(np.linalg.norm(A) or 1.0))) for A in arrays
    ]
    scaled = [np.ldexp(A, -e) for A, e in zip(arrays, exponents, strict=True)]
    theta = rescaled(theta, sizes, [0.5**e for e in exponents])
    if not np.isfinite(theta).all():
        return np.inf
    form = quadratic_form([tf.constant(A) for A in scaled], alpha)
    matrix = form_matrix(form, theta).numpy()
    absolute = quadratic_form([tf.constant(np.abs(A)) for A in scaled], alpha)
    magnitude = form_matrix(absolute, theta, sign=1.0).numpy()
    if not np.isfinite(magnitude).all():
        return np.inf
    bound = float(reached_bound(form, tf.constant(theta)))
    inner = np.diag((np.arange(total) >= size).astype(np.float64))
    largest = np.abs(matrix).max() + abs(bound)
    padding = 16 * total * UNIT_ROUNDOFF * largest
    operations = 4 * (total + size) + 16 * len(sizes) + 32
    while np.isfinite(bound) and padding <= largest:
        # M(θ) + λ diag(0, I) ⪯ λI, with λ = `proven`.
        proven = bound + padding
        error = norm_of_rounding(magnitude + abs(proven) * inner, operations)
        above = largest_eigenvalue_above(matrix + proven * inner, error)
        if above <= proven:
            return float(np.nextafter(np.ldexp(proven, sum(exponents)), np.inf))
        padding *= 4
    return np.inf


def attained_product_log_norm(
    matrices: Sequence[ArrayLike],
    alpha: float,
    diagonals: Sequence[ArrayLike],
    vector: ArrayLike,
) -> float:
    """The value of δ(A_1, ..., A_k) that D_1, ..., D_k and x prove is attained.

    xᵀ D_k A_k ⋯ D_1 A_1 x / xᵀx, less a bound on its rounding errors.

    The diagonals, of shape (m_i,), have entries in [alpha, 1]; x is not zero.

    >>> D = [np.ones(1), np.full(1, 0.5)]
    >>> round(attained_product_log_norm([[[2.0]], [[3.0]]], 0.5, D, [1.0]), 9)
    3.0
    """
    arrays = check_chain(matrices)
    alpha = check_alpha(alpha)
    x = np.asarray(vector, np.float64)
    size = len(arrays[-1])
    if x.shape != (size,) or not (np.isfinite(x).all() and x.any()):
        raise ValueError(
            f"`vector` must be of shape ({size},), finite and not zero. "
            f"Received: vector={x}"
        )
    if len(diagonals) != len(arrays):
        raise ValueError(
            "`diagonals` must be one for each of `matrices`. Received: "
            f"{len(diagonals)} for {len(arrays)} matrices"
        )
    x = x / np.abs(x).max()
    image, magnitude = x, np.abs(x)
    for matrix, diagonal in zip(arrays, diagonals, strict=True):
        slopes = np.asarray(diagonal, np.float64)
        if slopes.shape != (len(matrix),) or not (
            np.all((slopes >= alpha) & (slopes <= 1.0))
        ):
            raise ValueError(
                f"`diagonals` must hold vectors of shape ({len(matrix)},) in "
                f"[{alpha}, 1]. Received: {diagonal}"
            )
        image = slopes * (matrix @ image)
        magnitude = slopes * (np.abs(matrix) @ magnitude)
    square = x @ x
    operations = 2 * sum(A.shape[1] + 4 for A in arrays) + 2 * len(x) + 8
    error = relative_rounding(operations) * (np.abs(x) @ magnitude)
    return float(np.nextafter((x @ image - error) / square, -np.inf))


def check_chain(matrices: Sequence[ArrayLike]) -> list[np.ndarray]:
    """Returns A_1, ..., A_k as finite float64 arrays that can be multiplied."""
    arrays = [np.asarray(A) for A in matrices]
    if not all(A.dtype.kind in "fiub" for A in arrays):
        raise TypeError(
            "`matrices` must be real numeric arrays. "
            f"Received: arrays of dtype {[str(A.dtype) for A in arrays]}"
        )
    arrays = [A.astype(np.float64) for A in arrays]
    shapes = [A.shape for A in arrays]
    fit = bool(arrays) and all(A.ndim == 2 and A.size for A in arrays)
    fit = fit and all(
        after[1] == before[0]
        for before, after in zip([shapes[-1], *shapes], shapes, strict=False)
    )
    if not fit or not all(np.isfinite(A).all() for A in arrays):
        raise ValueError(
            "`matrices` must be finite, A_1 of shape (m_1, d), A_2 of shape "
            "(m_2, m_1) and so on, the last one of shape (d, m). "
            f"Received: shapes {shapes}"
        )
    exponents = np.log10([np.abs(A).max() or 1.0 for A in arrays])
    reached = np.concatenate([exponents, np.cumsum(exponents)])
    if np.abs(reached).max() > _WIDEST_EXPONENT:
        largest = ", ".join(f"{np.abs(A).max():.3g}" for A in arrays)
        raise ValueError(
            "The largest entries of `matrices`, and their products, must be "
            f"0 or from 1e-{_WIDEST_EXPONENT} to 1e{_WIDEST_EXPONENT}. "
            f"Received: largest entries {largest}"
        )
    return arrays


def _ascend(
    matrices: list[np.ndarray], alpha: float, starts: int, seed: int
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Climbs xᵀ D_k A_k ⋯ D_1 A_1 x, one D_i and then x at a time."""
    rng = np.random.default_rng(seed)
    slopes = [
        np.where(rng.random((starts, len(A))) < 0.5, alpha, 1.0)
        for A in matrices
    ]
    best = -np.inf
    found: tuple[tuple[np.ndarray, ...], np.ndarray]
    for _ in range(_ASCENTS):
        # The best x for each start: a top eigenvector of the symmetric part.
        product = np.eye(len(matrices[-1]))
        for A, D in zip(matrices, slopes, strict=True):
            product = D[..., None] * (A @ product)
        values, vectors = np.linalg.eigh(product + product.swapaxes(-1, -2))
        top = np.argmax(values[:, -1])
        x = vectors[:, :, -1]
        if values[top, -1] > best:
            best = values[top, -1]
            found = tuple(D[top] for D in slopes), x[top]
        # The best D_i for this x, from the last one to the first.
        before = [x]
        for A, D in zip(matrices, slopes, strict=True):
            before.append(D * (before[-1] @ A.T))
        after = x
        for i in reversed(range(len(matrices))):
            gain = after * (before[i] @ matrices[i].T)
            slopes[i] = np.where(gain > 0, 1.0, alpha)
            after = (slopes[i] * after) @ matrices[i]
    return found
