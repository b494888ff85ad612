"""δ in the ∞-norm against enumeration of D, in exact rational arithmetic."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stable_node_tf import (
    attained_log_norm,
    euler_log_norm,
    worst_case_log_norm,
)
from stable_node_tf.stability.inf_log_norm import (
    inf_euler_log_norm,
    inf_norm_bound,
    row_bounds,
)

NUMBERS = st.one_of(
    st.floats(-10.0, 10.0),
    st.floats(-1e300, 1e300),
    st.floats(-1e-300, 1e-300),
    st.integers(-3, 3).map(float),
)
MATRICES = st.integers(1, 4).flatmap(
    lambda size: arrays(np.float64, (size, size), elements=NUMBERS)
)
ALPHAS = st.one_of(st.floats(1e-3, 1.0), st.sampled_from([0.5, 1.0, 1e-300]))


def log_norm(matrix, diagonal):
    """μ∞(DA) as a fraction."""
    size = len(matrix)
    return max(
        Fraction(diagonal[i])
        * (
            Fraction(matrix[i, i])
            + sum(abs(Fraction(matrix[i, j])) for j in range(size) if j != i)
        )
        for i in range(size)
    )


def step_growth(matrix, diagonal, h):
    """(|I + hDA|∞ - 1) / h as a fraction."""
    size = len(matrix)
    sums = [
        sum(
            abs((i == j) + h * Fraction(diagonal[i]) * Fraction(matrix[i, j]))
            for j in range(size)
        )
        for i in range(size)
    ]
    return (max(sums) - 1) / h


def largest(function, size, alpha):
    return max(map(function, itertools.product([alpha, 1.0], repeat=size)))


@settings(deadline=None, max_examples=150)
@given(MATRICES, ALPHAS)
def test_the_closed_form_is_the_maximum_over_all_vertices(matrix, alpha):
    exact = largest(lambda D: log_norm(matrix, D), len(matrix), alpha)
    lower, upper, witness, _ = worst_case_log_norm(matrix, alpha, norm="inf")
    assert lower <= exact <= upper
    assert upper <= np.nextafter(np.nextafter(lower, np.inf), np.inf)
    attained = attained_log_norm(matrix, alpha, witness, norm="inf")
    assert attained <= exact
    slack = 1e-14 * np.abs(matrix).sum(1).max() + 1e-320
    assert float(exact - Fraction(attained)) <= slack


@settings(deadline=None, max_examples=150)
@given(MATRICES, ALPHAS, st.sampled_from([2.0**-8, 0.3, 1.0, 7.0]))
def test_a_step_of_euler(matrix, alpha, step):
    h = Fraction(step)
    exact = largest(lambda D: step_growth(matrix, D, h), len(matrix), alpha)
    lower, upper = inf_euler_log_norm(matrix, alpha, step)
    assert lower <= exact <= upper
    tiny = np.finfo(np.float64).smallest_subnormal
    assert upper - lower <= 1e-15 * abs(upper) + 2 * tiny
    assert euler_log_norm(matrix, alpha, step, norm="inf")[0] == upper


@given(MATRICES)
def test_norm(matrix):
    exact = max(sum(map(abs, map(Fraction, row))) for row in matrix)
    assert (
        exact <= inf_norm_bound(matrix) <= float(exact) * (1 + 1e-15) + 1e-320
    )


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1.0))
def test_row_bounds_are_the_largest_that_prove_it(delta_bar, alpha):
    bound, opposite = row_bounds(delta_bar, alpha)
    above = np.nextafter(bound, np.inf)
    for g, holds in ((bound, True), (above, False)):
        exact = max(Fraction(g), Fraction(alpha) * Fraction(g))
        assert (exact <= Fraction(delta_bar)) == holds
    assert opposite == np.inf


def test_no_gap_at_512_and_no_entry_counts_twice():
    matrix = np.random.default_rng(0).standard_normal((512, 512))
    bracket = worst_case_log_norm(matrix, 0.1, norm=np.inf)
    rows = np.abs(matrix).sum(1)
    rows += np.diagonal(matrix) - np.abs(np.diagonal(matrix))
    assert bracket.upper == pytest.approx(rows.max(), rel=1e-14)
    assert bracket.upper - bracket.lower <= np.spacing(bracket.upper)


def test_what_no_step_can_do_is_refused():
    with pytest.raises(ValueError, match="a step of Euler can contract"):
        row_bounds(-2.0, 0.5, 0.5)
    with pytest.raises(ValueError, match="float64 has room"):
        row_bounds(-1e300, 1e-10)
    with pytest.raises(ValueError, match="`norm` must be '2' or 'inf'"):
        worst_case_log_norm([[1.0]], 0.5, norm="l1")
