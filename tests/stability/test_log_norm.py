import itertools
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from stable_node_tf import (
    Witness,
    attained_log_norm,
    certified_log_norm,
    worst_case_log_norm,
)
from stable_node_tf.stability.log_norm import euler_log_norm

SEEDS = st.integers(0, 10**6)
ALPHAS = st.sampled_from([0.02, 0.1, 0.5, 0.9, 1.0])


def gaussian(size, seed):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((size, size)) / np.sqrt(size)


def brute_force(matrix, alpha):
    """max over all vertices D of the largest eigenvalue of sym(DA)."""
    vertices = np.array(
        list(itertools.product([alpha, 1.0], repeat=len(matrix)))
    )
    scaled = vertices[:, :, None] * matrix
    symmetric = (scaled + scaled.transpose(0, 2, 1)) / 2
    return np.linalg.eigvalsh(symmetric)[:, -1].max()


def quick(matrix, alpha):
    return worst_case_log_norm(matrix, alpha, starts=32)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), SEEDS, ALPHAS)
def test_brackets_brute_force(size, seed, alpha):
    matrix = gaussian(size, seed)
    bracket = quick(matrix, alpha)
    exact = brute_force(matrix, alpha)
    slack = 1e-12 * np.linalg.norm(matrix)
    assert bracket.lower <= exact + slack
    assert exact - slack <= bracket.upper
    assert bracket.lower >= exact - 1e-3 * abs(exact)


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 10), SEEDS, st.sampled_from([0.02, 0.1, 0.5]))
def test_exact_closes_the_gap(size, seed, alpha):
    matrix = gaussian(size, seed)
    bracket = worst_case_log_norm(matrix, alpha, exact=True, starts=64)
    exact = brute_force(matrix, alpha)
    assert bracket.upper - bracket.lower <= 2e-9
    assert bracket.lower - 1e-12 <= exact <= bracket.upper + 1e-12


def test_exact_at_sixteen():
    bracket = worst_case_log_norm(gaussian(16, 0), 0.1, exact=True)
    assert bracket.upper - bracket.lower <= 2e-9


def test_stopped_early_is_still_an_interval():
    matrix = gaussian(24, 1)
    matrix = matrix - matrix.T + 0.1 * gaussian(24, 2)
    stopped = worst_case_log_norm(matrix, 0.02, exact=True, time_limit=0.0)
    relaxed = worst_case_log_norm(matrix, 0.02)
    assert stopped.lower < stopped.upper <= relaxed.upper


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 12), SEEDS, ALPHAS, st.floats(1e-3, 1e3))
def test_homogeneous(size, seed, alpha, factor):
    matrix = gaussian(size, seed)
    one, many = quick(matrix, alpha), quick(factor * matrix, alpha)
    scale = factor * np.linalg.norm(matrix)
    np.testing.assert_allclose(
        many[:2], factor * np.array(one[:2]), atol=2e-3 * scale
    )


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 8), SEEDS, ALPHAS)
def test_convex(size, seed, alpha):
    one, other = gaussian(size, seed), gaussian(size, seed + 1)
    middle = quick((one + other) / 2, alpha).lower
    assert middle <= (quick(one, alpha).upper + quick(other, alpha).upper) / 2


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 10), SEEDS, st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_monotone_in_alpha(size, seed, one, other):
    matrix = gaussian(size, seed)
    small, large = sorted([one, other])
    assert quick(matrix, large).lower <= quick(matrix, small).upper


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 10), SEEDS, ALPHAS)
def test_invariant_under_permutation(size, seed, alpha):
    matrix = gaussian(size, seed)
    order = np.random.default_rng(seed).permutation(size)
    one, other = quick(matrix, alpha), quick(matrix[order][:, order], alpha)
    np.testing.assert_allclose(one.upper, other.upper, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 40), SEEDS, ALPHAS)
def test_every_diagonal_obeys_the_bound(size, seed, alpha):
    matrix = gaussian(size, seed)
    upper = quick(matrix, alpha).upper
    generator = np.random.default_rng(seed)
    for _ in range(20):
        scaled = generator.uniform(alpha, 1.0, size)[:, None] * matrix
        assert np.linalg.eigvalsh((scaled + scaled.T) / 2)[-1] <= upper + 1e-12


@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_trajectories_obey_the_bound(alpha):
    matrix, bias = gaussian(6, 3), np.full(6, 0.1)
    upper = quick(matrix, alpha).upper

    def field(time, state):
        z = matrix @ state + bias
        return alpha * z + (1 - alpha) * np.tanh(z)

    generator = np.random.default_rng(0)
    for _ in range(10):
        one = generator.standard_normal(6)
        other = one + 1e-2 * generator.standard_normal(6)
        ends = [
            solve_ivp(field, (0, 1), u, rtol=1e-11, atol=1e-12).y[:, -1]
            for u in (one, other)
        ]
        growth = np.linalg.norm(ends[0] - ends[1])
        assert growth <= np.exp(upper) * np.linalg.norm(one - other) + 1e-9


@pytest.mark.parametrize("size, alpha", [(8, 0.1), (16, 0.1), (16, 0.5)])
def test_upper_agrees_with_an_interior_point_solver(size, alpha):
    cvxpy = pytest.importorskip("cvxpy")
    matrix = gaussian(size, 5)
    m, r = (1 + alpha) / 2, (1 - alpha) / 2
    t, bound = cvxpy.Variable(size), cvxpy.Variable()
    corner = (
        bound * np.eye(size)
        - m * (matrix + matrix.T) / 2
        - r / 2 * cvxpy.diag(t)
    )
    block = cvxpy.bmat(
        [
            [corner, np.sqrt(r / 2) * matrix.T],
            [np.sqrt(r / 2) * matrix, cvxpy.diag(t)],
        ]
    )
    problem = cvxpy.Problem(cvxpy.Minimize(bound), [block >> 0])
    problem.solve(solver="CLARABEL")
    upper = worst_case_log_norm(matrix, alpha).upper
    np.testing.assert_allclose(upper, problem.value, rtol=1e-5)


def test_reference_figure_at_twelve():
    """The family of the literature: the gap at d = 12 is below a per cent."""
    bracket = worst_case_log_norm(gaussian(12, 0), 0.1)
    assert bracket.upper / bracket.lower < 1.01


def test_gap_at_sixty_four():
    bracket = worst_case_log_norm(gaussian(64, 0), 0.1)
    assert bracket.upper / bracket.lower < 1.01


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_special_matrices(alpha):
    symmetric = np.diag([1.0, -2.0, 0.5])
    assert quick(symmetric, alpha).upper == pytest.approx(1.0, rel=1e-6)
    assert quick(np.zeros((3, 3)), alpha)[:2] == (0.0, 0.0)
    rank_one = np.outer([1.0, 2.0], [3.0, -1.0])
    exact = brute_force(rank_one, alpha)
    bracket = quick(rank_one, alpha)
    assert bracket.lower <= exact + 1e-12 and exact <= bracket.upper + 1e-12
    jordan = -np.eye(5) + np.diag(np.ones(4), 1)
    assert quick(jordan, alpha).upper >= brute_force(jordan, alpha) - 1e-12
    assert quick([[-2.0]], alpha).upper == pytest.approx(-2.0 * alpha, abs=1e-6)


def test_skew_symmetric_without_slopes_is_neutral():
    matrix = gaussian(6, 0)
    bracket = quick(matrix - matrix.T, 1.0)
    assert bracket.lower <= 0.0 <= bracket.upper
    assert bracket.upper - bracket.lower < 1e-12


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e-8, 1e8, 1e150, 1e300])
def test_extreme_norms(scale):
    matrix = gaussian(6, 0)
    reference = quick(matrix, 0.1)
    bracket = quick(scale * matrix, 0.1)
    np.testing.assert_allclose(
        bracket.upper / scale, reference.upper, rtol=1e-6
    )
    np.testing.assert_allclose(
        bracket.lower / scale, reference.lower, rtol=1e-6
    )


def test_both_ends_can_be_rechecked():
    matrix = gaussian(10, 0)
    bracket = worst_case_log_norm(matrix, 0.1)
    assert attained_log_norm(matrix, 0.1, bracket.witness) == bracket.lower
    assert certified_log_norm(matrix, 0.1, bracket.certificate) == bracket.upper
    assert np.linalg.norm(bracket.witness.vector) == pytest.approx(1.0)


def test_equal_arguments_give_equal_results():
    matrix = gaussian(20, 0)
    one, other = (worst_case_log_norm(matrix, 0.1) for _ in range(2))
    assert one[:2] == other[:2]


@pytest.mark.parametrize(
    "matrix, alpha, message",
    [
        ([[np.nan]], 0.5, "finite"),
        ([[1.0, 2.0]], 0.5, "square"),
        ([[0.0, 1e303], [0.0, 0.0]], 0.5, "above 1e\\+302.*with 1e\\+303"),
        (np.zeros((0, 0)), 0.5, "square"),
        ([[1.0]], 0.0, "alpha"),
        ([[1.0]], 1.5, "alpha"),
        ([[1.0]], np.nan, "alpha"),
    ],
)
def test_refuses(matrix, alpha, message):
    with pytest.raises(ValueError, match=message):
        worst_case_log_norm(matrix, alpha)


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"starts": -1}, ValueError),
        ({"starts": 1.5}, TypeError),
        ({"seed": -1}, ValueError),
        ({"seed": "1"}, TypeError),
        ({"tolerance": 0.0}, ValueError),
    ],
)
def test_refuses_by_name(arguments, error):
    with pytest.raises(error, match=f"`{next(iter(arguments))}` must"):
        worst_case_log_norm(np.eye(2), 0.5, **arguments)


@pytest.mark.parametrize("tolerance", [1e-12, 1e-15, 1e-30])
def test_no_tolerance_is_too_small(tolerance):
    matrix = np.random.default_rng(0).standard_normal((5, 5))
    usual = worst_case_log_norm(matrix, 0.1)
    found = worst_case_log_norm(matrix, 0.1, tolerance=tolerance)
    assert usual.upper - 1e-6 <= found.upper <= usual.upper
    usual, _ = euler_log_norm(matrix, 0.1, 1.0)
    found, _ = euler_log_norm(matrix, 0.1, 1.0, tolerance)
    assert usual - 1e-6 <= found <= usual * (1 + 1e-12)


def test_recheck_refuses():
    with pytest.raises(ValueError, match="positive"):
        certified_log_norm(np.eye(2), 0.5, [1.0, 0.0])
    with pytest.raises(ValueError, match="shape"):
        certified_log_norm(np.eye(2), 0.5, [1.0])
    outside = Witness(np.array([2.0, 1.0]), np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="diagonal"):
        attained_log_norm(np.eye(2), 0.5, outside)
    zero = Witness(np.ones(2), np.zeros(2))
    with pytest.raises(ValueError, match="zero"):
        attained_log_norm(np.eye(2), 0.5, zero)


@pytest.mark.parametrize("exponent", [-300, -200, -162, 154, 200, 300])
def test_rechecks_hold_at_the_ends_of_the_range(exponent):
    """For A = -a, d = 1, the value is -αa; only rounding can miss it."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        alpha = 10.0 ** generator.uniform(-3, 0)
        a = generator.uniform(1, 10) * 10.0**exponent
        exact = -Fraction(alpha) * Fraction(a)
        upper = certified_log_norm([[-a]], alpha, [a])
        assert np.isfinite(upper) and Fraction(upper) >= exact
        witness = Witness(np.array([alpha]), np.array([1e-160]))
        assert Fraction(attained_log_norm([[-a]], alpha, witness)) <= exact


def test_certificate_without_a_finite_bound():
    assert certified_log_norm(np.eye(2), 0.5, [1e-320, 1.0]) == np.inf


def attained_exactly(matrix, diagonal, vector):
    """xᵀDAx / xᵀx without rounding."""
    A, d, x = (np.vectorize(Fraction)(v) for v in (matrix, diagonal, vector))
    return (d * x) @ (A @ x) / (x @ x)


ENDS = st.sampled_from(
    [1e-300, 1e-12, 0.1, 0.5, 1 - 1e-9, np.nextafter(1.0, 0.0), 1.0]
)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(-323, 301), st.sampled_from([0, 5, 300]), ENDS)
def test_holds_over_the_whole_range_of_exponents(seed, power, spread, alpha):
    generator = np.random.default_rng(seed)
    powers = power + generator.integers(-spread, spread + 1, (2, 2))
    matrix = generator.uniform(-1.0, 1.0, (2, 2))
    matrix *= 10.0 ** np.clip(powers, -323, 302).astype(float)
    for exact in (False, True):
        bracket = worst_case_log_norm(matrix, alpha, exact=exact, starts=8)
        attained = attained_exactly(matrix, *bracket.witness)
        assert Fraction(bracket.lower) <= attained
        assert attained <= Fraction(min(bracket.upper, 1e308))
        for vector in (*np.eye(2), *generator.standard_normal((4, 2))):
            for diagonal in itertools.product([alpha, 1.0], repeat=2):
                value = attained_exactly(matrix, diagonal, vector)
                assert value <= Fraction(min(bracket.upper, 1e308))
        proven = certified_log_norm(matrix, alpha, bracket.certificate)
        assert proven >= bracket.upper


def test_small_entries_beside_very_large_ones():
    alpha, matrix = 0.1, np.diag([-1e301, -1e-20])
    bracket = worst_case_log_norm(matrix, alpha)
    assert Fraction(bracket.lower) <= -Fraction(alpha) * Fraction(1e-20)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(-300, 150), st.sampled_from([0, 150]), ENDS)
def test_steps_of_euler_hold_over_the_whole_range(seed, power, spread, alpha):
    generator = np.random.default_rng(seed)
    powers = power + generator.integers(-spread, spread + 1, (2, 2))
    matrix = generator.uniform(-1.0, 1.0, (2, 2)) * 10.0 ** powers.astype(float)
    step = 10.0 ** float(np.clip(generator.integers(-60, 60) - power, -300, 40))
    try:
        bound, _ = euler_log_norm(matrix, alpha, step)
    except ValueError as error:
        assert "must be at most 1e+100" in str(error)
        return
    A, x = np.vectorize(Fraction)(matrix), np.vectorize(Fraction)([1.0, 2.0])
    h = Fraction(step)
    for diagonal in itertools.product([alpha, 1.0], repeat=2):
        moved = x + h * np.vectorize(Fraction)(diagonal) * (A @ x)
        reached = (moved @ moved / (x @ x) - 1) / (2 * h)
        assert bound == np.inf or reached <= Fraction(bound)


def test_functions_that_run_eagerly():
    usual = worst_case_log_norm(gaussian(4, 0), 0.5, starts=2)
    tf.config.run_functions_eagerly(True)
    try:
        bracket = worst_case_log_norm(gaussian(4, 0), 0.5, starts=2)
        bound, _ = euler_log_norm(gaussian(4, 0), 0.5, 0.1)
    finally:
        tf.config.run_functions_eagerly(False)
    assert bracket.lower <= bracket.upper <= bound
    assert bracket.upper == pytest.approx(usual.upper, rel=1e-12)
