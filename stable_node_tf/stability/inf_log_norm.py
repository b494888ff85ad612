"""The worst-case logarithmic norm in the ∞-norm: a closed form, no search.

With g_i = a_ii + Σ_(j≠i) |a_ij| the logarithmic norm of DA is max_i D_ii g_i,
see docs/theory.md, "The ∞-norm". All sums are rounded outwards, exactly.
"""

import math
from fractions import Fraction

import numpy as np

from stable_node_tf.stability.rounding import relative_rounding


def inf_log_norm(
    matrix: np.ndarray, alpha: float
) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Floats around δ∞(A) = max_i max(g_i, α g_i), and what attains it.

    Returns:
      The largest float below and the smallest one above, up to one unit in the
      last place where δ∞ < 0; the diagonal of D; and x, |x|∞ = 1, with
      D_ii x_i (Ax)_i = δ∞ where x_i = 1.

    >>> inf_log_norm(np.array([[-3.0, 1.0], [0.0, -8.0]]), 0.5)[:2]
    (-1.0, -1.0)
    """
    below, above, row = _largest_row_sum(matrix, np.diagonal(matrix))
    vector = np.sign(matrix[row])
    vector[row] = 1.0
    sums = np.abs(matrix).sum(1) - np.abs(np.diagonal(matrix))
    diagonal = np.where(sums + np.diagonal(matrix) > 0.0, 1.0, alpha)
    diagonal[row] = 1.0 if below > 0.0 else alpha
    if below < 0.0:
        below = _rounded(Fraction(alpha) * Fraction(below), -math.inf)
    if above < 0.0:
        above = _rounded(Fraction(alpha) * Fraction(above), math.inf)
    return below, above, diagonal, vector


def attained_inf_log_norm(
    matrix: np.ndarray, diagonal: np.ndarray, vector: np.ndarray
) -> float:
    """max_i D_ii (Ax)_i / x_i where |x_i| is largest, less its rounding.

    The derivative of |x + tDAx|∞ / |x|∞ at t = 0 is that: DA attains it.
    """
    largest = np.abs(vector).max()
    top = np.flatnonzero(np.abs(vector) == largest)
    terms = matrix[top] * (vector / largest) * np.sign(vector[top, None])
    errors = relative_rounding(len(matrix) + 4) * np.abs(terms).sum(1)
    errors += 2 * len(matrix) * np.finfo(np.float64).smallest_subnormal
    value = np.max(diagonal[top] * (terms.sum(1) - errors))
    return float(np.nextafter(value, -np.inf))


def inf_euler_log_norm(
    matrix: np.ndarray, alpha: float, step: float
) -> tuple[float, float]:
    """Floats around max_D (|I + hDA|∞ - 1) / h.

    It is the larger one of δ∞ and max_i (Σ_(j≠i) |a_ij| - a_ii) - 2/h.

    >>> inf_euler_log_norm(np.array([[-5.0]]), 0.5, 0.5)
    (1.0, 1.0)
    """
    lower, upper = inf_log_norm(matrix, alpha)[:2]
    if step > 0.0:
        below, above, _ = _largest_row_sum(matrix, -np.diagonal(matrix))
        reach = 2 / Fraction(step)
        lower = max(lower, _rounded(Fraction(below) - reach, -math.inf))
        upper = max(upper, _rounded(Fraction(above) - reach, math.inf))
    return lower, upper


def row_bounds(
    delta_bar: float, alpha: float, step: float = 0.0
) -> tuple[float, float]:
    """The largest floats c, c' whose inequalities prove the bound δ̄.

    They are g_i <= c and, for a step h > 0, Σ_(j≠i) |a_ij| - a_ii <= c'; c' is
    infinite for the flow.

    Raises:
      ValueError: if a matrix inside would have numbers beyond the range of
        float64, or no step of Euler contracts that much.

    >>> row_bounds(-1.0, 0.5), row_bounds(1.0, 0.5, 0.5)
    ((-2.0, inf), (1.0, 5.0))
    """
    exact = Fraction(delta_bar)
    bound = _rounded(exact / Fraction(alpha) if exact < 0 else exact, -math.inf)
    opposite = math.inf
    if step > 0.0:
        opposite = _rounded(exact + 2 / Fraction(step), -math.inf)
    if not math.isfinite(bound) or bound + opposite <= 0.0:
        raise ValueError(
            "`delta_bar` must be so large that float64 has room for its "
            "matrices, and that a step of Euler can contract as much: "
            "delta_bar / alpha + delta_bar + 2 / step must be positive. "
            f"Received: delta_bar={delta_bar}, alpha={alpha}, step={step}"
        )
    return bound, opposite


def inf_norm_bound(matrix: np.ndarray) -> float:
    """The smallest float that is not below |A|∞."""
    return _largest_row_sum(matrix, np.abs(np.diagonal(matrix)))[1]


def _largest_row_sum(
    matrix: np.ndarray, diagonal: np.ndarray
) -> tuple[float, float, int]:
    """Floats around max_i (diagonal_i + Σ_(j≠i) |a_ij|), and its row."""
    rows = np.abs(matrix)
    sizes = rows.sum(1)
    np.fill_diagonal(rows, diagonal)
    sums = rows.sum(1)
    errors = relative_rounding(len(rows) + 2) * sizes
    contenders = np.flatnonzero(sums + errors >= np.max(sums - errors))
    brackets = [_sum_bracket(terms) for terms in rows[contenders].tolist()]
    below = max(low for low, _ in brackets)
    row = [low for low, _ in brackets].index(below)
    return below, max(high for _, high in brackets), int(contenders[row])


def _sum_bracket(terms: list[float]) -> tuple[float, float]:
    """The floats next to a sum, below and above, equal if it is one itself."""
    # fsum rounds correctly, so the sign of the rest is right.
    total = math.fsum(terms)
    rest = math.fsum([*terms, -total])
    below = math.nextafter(total, -math.inf) if rest < 0.0 else total
    above = math.nextafter(total, math.inf) if rest > 0.0 else total
    return below, above


def _rounded(exact: Fraction, towards: float) -> float:
    """The float next to a fraction on the side of -∞ or ∞."""
    try:
        value = float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf
    if value != exact and (value < exact) == (towards > 0.0):
        value = math.nextafter(value, towards)
    return value
