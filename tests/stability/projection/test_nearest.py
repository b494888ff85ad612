import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stable_node_tf.stability.log_norm import (
    certified_log_norm,
    worst_case_log_norm,
)
from stable_node_tf.stability.projection.cutting_planes import (
    nonnegative_quadratic,
)
from stable_node_tf.stability.projection.nearest import (
    nearby_stable,
    nearest_stable,
)

few = settings(max_examples=12, deadline=None, derandomize=True)
sizes = st.integers(1, 8)
seeds = st.integers(0, 10_000)
alphas = st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.9, 0.999, 1.0])
bounds = st.floats(-1.0, 1.5).map(lambda value: round(value, 3))


def gaussian(size, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((size, size)) / np.sqrt(size)


def assert_certified(result, matrix, delta_bar, alpha):
    assert (
        certified_log_norm(result.matrix, alpha, result.certificate)
        <= delta_bar
    )
    np.testing.assert_array_equal(result.perturbation, result.matrix - matrix)
    assert result.distance == pytest.approx(
        np.linalg.norm(result.perturbation), rel=1e-12
    )
    assert 0.0 <= result.distance_lower_bound <= result.distance


def exact_log_norm(matrix, alpha):
    """δ by all vertices."""
    vertices = itertools.product((alpha, 1.0), repeat=len(matrix))
    scaled = np.array(list(vertices))[:, :, None] * matrix
    symmetric = (scaled + scaled.transpose(0, 2, 1)) / 2
    return np.linalg.eigvalsh(symmetric)[:, -1].max()


@pytest.mark.parametrize(
    "size, alpha, delta_bar, distance, exact",
    [
        (4, 0.1, 0.2, 0.70983, 0.68492),
        (8, 0.1, 0.2, 1.14323, 1.09590),
        (16, 0.1, 0.2, 2.37369, 2.34627),
        (16, 0.5, 0.2, 1.97923, 1.96056),
    ],
)
def test_reference_table(size, alpha, delta_bar, distance, exact):
    result = nearest_stable(gaussian(size), delta_bar, alpha)
    assert result.distance == pytest.approx(distance, rel=1e-4)
    assert result.distance_lower_bound == pytest.approx(exact, rel=1e-2)


@pytest.mark.parametrize("size", [2, 5, 8, 16])
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_bounds_are_five_per_cent_apart(size, seed, alpha):
    result = nearest_stable(gaussian(size, seed), 0.2, alpha)
    assert result.distance_lower_bound >= 0.95 * result.distance


@pytest.mark.parametrize("size", [4, 8, 24])
@pytest.mark.parametrize(
    "alpha, delta_bar", [(0.1, 0.2), (0.1, -0.3), (0.5, 0.8), (0.02, 0.0)]
)
def test_agrees_with_interior_point_solver(size, alpha, delta_bar):
    cvxpy = pytest.importorskip("cvxpy")
    if size == 24 and delta_bar != 0.2:
        pytest.skip("one large problem is enough")
    matrix = gaussian(size, seed=size)
    middle, radius = (1 + alpha) / 2, (1 - alpha) / 2
    B, t = cvxpy.Variable((size, size)), cvxpy.Variable(size)
    corner = delta_bar * np.eye(size) - middle * (B + B.T) / 2
    corner -= radius / 2 * cvxpy.diag(t)
    low = np.sqrt(radius / 2) * B
    block = cvxpy.bmat([[corner, low.T], [low, cvxpy.diag(t)]])
    problem = cvxpy.Problem(
        cvxpy.Minimize(cvxpy.sum_squares(B - matrix)),
        [(block + block.T) / 2 >> 0],
    )
    problem.solve(solver="CLARABEL")
    expected = np.linalg.norm(B.value - matrix)
    result = nearest_stable(matrix, delta_bar, alpha)
    assert result.distance == pytest.approx(expected, rel=1e-4)
    # |B' - A| <= (1 + e) |B - A| means |B' - B|² <= (2e + e²) |B - A|².
    assert np.linalg.norm(result.matrix - B.value) <= 0.015 * expected


@few
@given(sizes, seeds, alphas, bounds)
def test_always_certified(size, seed, alpha, delta_bar):
    matrix = gaussian(size, seed)
    result = nearest_stable(matrix, delta_bar, alpha)
    assert_certified(result, matrix, delta_bar, alpha)


@pytest.mark.parametrize("alpha", [1e-4, 1e-7, 1e-10])
@pytest.mark.parametrize("delta_bar", [0.2, 0.0, -0.4])
def test_certified_for_tiny_slopes(alpha, delta_bar):
    matrix = gaussian(6)
    result = nearest_stable(matrix, delta_bar, alpha)
    assert_certified(result, matrix, delta_bar, alpha)


@pytest.mark.parametrize("max_iterations", [1, 3, 10])
@pytest.mark.parametrize("delta_bar", [0.2, 0.0, -0.4])
def test_certified_when_stopped_early(max_iterations, delta_bar):
    matrix = gaussian(10)
    result = nearest_stable(
        matrix, delta_bar, 0.1, max_iterations=max_iterations
    )
    assert_certified(result, matrix, delta_bar, 0.1)


@few
@given(sizes, seeds, alphas, bounds)
def test_idempotent(size, seed, alpha, delta_bar):
    once = nearest_stable(gaussian(size, seed), delta_bar, alpha)
    same = nearest_stable(
        once.matrix, delta_bar, alpha, certificate=once.certificate
    )
    np.testing.assert_array_equal(same.matrix, once.matrix)
    assert same.distance == 0.0
    cold = nearest_stable(once.matrix, delta_bar, alpha)
    assert cold.distance <= 1e-4 * max(1.0, np.linalg.norm(once.matrix, 2))


@few
@given(st.integers(2, 7), seeds, alphas, bounds)
def test_non_expansive(size, seed, alpha, delta_bar):
    first, second = gaussian(size, seed), gaussian(size, seed + 1)
    ends = [
        nearest_stable(matrix, delta_bar, alpha, tolerance=1e-6).matrix
        for matrix in (first, second)
    ]
    apart = np.linalg.norm(first - second)
    assert np.linalg.norm(ends[0] - ends[1]) <= apart * (1 + 1e-3)


@few
@given(st.integers(2, 7), seeds, alphas, bounds, st.integers(-300, 300))
def test_scales_with_the_problem(size, seed, alpha, delta_bar, exponent):
    matrix = gaussian(size, seed)
    scale = 2.0**exponent
    result = nearest_stable(matrix, delta_bar, alpha)
    scaled = nearest_stable(matrix * scale, delta_bar * scale, alpha)
    np.testing.assert_allclose(scaled.matrix, result.matrix * scale, rtol=1e-9)
    np.testing.assert_allclose(
        scaled.distance_lower_bound, result.distance_lower_bound * scale
    )


@pytest.mark.parametrize("scale", [1e-140, 1e-30, 1e30, 1e140])
def test_extreme_norms(scale):
    matrix = gaussian(6) * scale
    result = nearest_stable(matrix, 0.2 * scale, 0.1)
    expected = nearest_stable(gaussian(6), 0.2, 0.1)
    assert result.distance == pytest.approx(expected.distance * scale, rel=1e-4)
    bound = certified_log_norm(result.matrix, 0.1, result.certificate)
    assert bound <= 0.2 * scale


@few
@given(st.integers(2, 7), seeds, alphas, bounds)
def test_permutation_of_the_coordinates(size, seed, alpha, delta_bar):
    matrix = gaussian(size, seed)
    order = np.random.default_rng(seed).permutation(size)
    result = nearest_stable(matrix, delta_bar, alpha, tolerance=1e-6)
    permuted = nearest_stable(
        matrix[np.ix_(order, order)], delta_bar, alpha, tolerance=1e-6
    )
    assert permuted.distance == pytest.approx(
        result.distance, rel=2e-6, abs=1e-7
    )


@few
@given(st.integers(2, 7), seeds, alphas, bounds)
def test_no_certified_matrix_is_nearer(size, seed, alpha, delta_bar):
    matrix = gaussian(size, seed)
    result = nearest_stable(matrix, delta_bar, alpha)
    generator = np.random.default_rng(seed)
    for width in (1e-3, 0.03, 1.0):
        other = nearest_stable(
            result.matrix + width * generator.normal(size=matrix.shape),
            delta_bar,
            alpha,
            tolerance=1e-3,
        )
        assert_certified(
            other, other.matrix - other.perturbation, delta_bar, alpha
        )
        # On the way to any certified matrix the distance only grows.
        for share in (0.01, 0.3, 1.0):
            between = result.matrix + share * (other.matrix - result.matrix)
            nearness = np.linalg.norm(between - matrix)
            assert nearness >= result.distance * (1 - 1e-4) - 1e-6


@few
@given(st.integers(1, 8), seeds, st.floats(-1.0, 1.0))
def test_alpha_one_clips_eigenvalues(size, seed, delta_bar):
    matrix = gaussian(size, seed)
    result = nearest_stable(matrix, delta_bar, 1.0)
    eigenvalues = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    expected = np.linalg.norm(np.maximum(eigenvalues - delta_bar, 0.0))
    assert result.distance == pytest.approx(expected, abs=1e-12)
    assert result.distance_lower_bound == pytest.approx(expected, abs=1e-9)
    skew = (matrix - matrix.T) / 2
    np.testing.assert_allclose(
        (result.matrix - result.matrix.T) / 2, skew, atol=1e-14
    )


@pytest.mark.parametrize("alpha", [0.1, 0.7, 1.0])
@pytest.mark.parametrize("value", [-3.0, -0.1, 0.0, 0.4, 2.0])
@pytest.mark.parametrize("delta_bar", [-0.5, 0.0, 0.3])
def test_one_dimension(alpha, value, delta_bar):
    largest = delta_bar if delta_bar >= 0 else delta_bar / alpha
    result = nearest_stable([[value]], delta_bar, alpha)
    accuracy = 1e-4 * (1 + abs(value - largest))
    assert result.matrix[0, 0] == pytest.approx(
        min(value, largest), abs=accuracy
    )
    assert_certified(result, np.array([[value]]), delta_bar, alpha)


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((5, 5)),
        -np.eye(4),
        np.array([[0.0, 1.0], [-1.0, 0.0]]),
        0.01 * gaussian(6),
    ],
)
def test_feasible_is_returned_unchanged(matrix):
    result = nearest_stable(matrix, 0.6, 0.3)
    np.testing.assert_array_equal(result.matrix, matrix)
    assert result.distance == result.distance_lower_bound == 0.0
    assert_certified(result, matrix, 0.6, 0.3)


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((4, 4)),
        np.eye(6, k=1),
        gaussian(6) - gaussian(6).T,
        np.ones((6, 6)),
        -np.outer(np.arange(5.0), np.arange(5.0)),
        np.diag([1.0, 0.0, 0.0, -1.0]),
        1e3 * np.eye(3),
    ],
)
@pytest.mark.parametrize("delta_bar", [0.1, 0.0, -0.5, -50.0])
def test_special_matrices(matrix, delta_bar):
    result = nearest_stable(matrix, delta_bar, 0.2)
    assert_certified(result, matrix, delta_bar, 0.2)
    assert result.distance_lower_bound >= 0.9 * result.distance - 1e-4


def test_large():
    matrix = gaussian(96)
    result = nearest_stable(matrix, 0.2, 0.1)
    assert_certified(result, matrix, 0.2, 0.1)
    assert result.distance_lower_bound >= 0.95 * result.distance


@few
@given(st.integers(1, 5), seeds, st.sampled_from([0.05, 0.3, 0.8]), bounds)
def test_exact_is_the_projection_onto_the_true_set(
    size, seed, alpha, delta_bar
):
    matrix = gaussian(size, seed)
    certified = nearest_stable(matrix, delta_bar, alpha)
    result = nearest_stable(matrix, delta_bar, alpha, exact=True)
    reached = exact_log_norm(result.matrix, alpha)
    assert reached <= delta_bar + 1e-12
    assert result.distance <= certified.distance
    assert certified.distance_lower_bound <= result.distance
    assert result.distance_lower_bound >= result.distance * (1 - 1e-6) - 1e-6
    assume(result.distance > 1e-3)
    assert reached == pytest.approx(delta_bar, abs=1e-6 * max(1, 1 / alpha))
    # The residual of a projection makes an obtuse angle with the whole set.
    generator = np.random.default_rng(seed)
    for _ in range(20):
        other = generator.normal(size=matrix.shape)
        excess = exact_log_norm(other, alpha) - delta_bar
        other -= max(excess, 0.0) / alpha * np.eye(size)
        angle = np.vdot(matrix - result.matrix, other - result.matrix)
        assert angle <= 1e-5 * (1 + np.linalg.norm(other - result.matrix))


@pytest.mark.parametrize("size, expected", [(8, 1.09590), (12, 2.1213771)])
def test_exact_against_the_branch_and_bound_bracket(size, expected):
    result = nearest_stable(gaussian(size), 0.2, 0.1, exact=True)
    assert result.distance == pytest.approx(expected, rel=1e-5)
    assert result.distance - result.distance_lower_bound <= 1e-6
    bracket = worst_case_log_norm(result.matrix, 0.1, exact=True)
    assert bracket.lower <= 0.2
    assert bracket.upper == pytest.approx(0.2, abs=1e-6)


def test_exact_stopped_early_is_certified():
    matrix = gaussian(12)
    result = nearest_stable(matrix, 0.2, 0.1, exact=True, time_limit=0.0)
    assert_certified(result, matrix, 0.2, 0.1)
    assert result.distance_lower_bound >= 0.95 * result.distance


@few
@given(st.integers(1, 12), seeds)
def test_nonnegative_quadratic_is_optimal(size, seed):
    generator = np.random.default_rng(seed)
    factor = generator.normal(size=(size + 1, size))
    gram, linear = factor.T @ factor, generator.normal(size=size)
    c = nonnegative_quadratic(gram, linear, np.zeros(size))
    slope = linear - gram @ c
    assert c.min() >= 0
    assert slope.max() <= 1e-8
    np.testing.assert_allclose(slope[c > 0], 0.0, atol=1e-8)


@pytest.mark.parametrize(
    "matrix, delta_bar, alpha, name",
    [
        (np.ones((2, 3)), 0.1, 0.5, "matrix"),
        (np.ones(4), 0.1, 0.5, "matrix"),
        ([[np.nan, 0.0], [0.0, 0.0]], 0.1, 0.5, "matrix"),
        ([[np.inf]], 0.1, 0.5, "matrix"),
        (np.eye(2), np.nan, 0.5, "delta_bar"),
        (np.eye(2), np.inf, 0.5, "delta_bar"),
        (np.eye(2), 0.1, 0.0, "alpha"),
        (np.eye(2), 0.1, 1.5, "alpha"),
        (np.eye(2), 0.1, np.nan, "alpha"),
        (np.eye(2), 0.1, 1e-11, "alpha"),
    ],
)
def test_refuses_by_name(matrix, delta_bar, alpha, name):
    with pytest.raises(ValueError, match=name):
        nearest_stable(matrix, delta_bar, alpha)


@pytest.mark.parametrize(
    "arguments",
    [{"max_iterations": 0}, {"tolerance": 0.0}, {"tolerance": np.nan}],
)
def test_refuses_other_arguments_by_name(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` must"):
        nearest_stable(np.eye(2), 0.1, 0.5, **arguments)


def test_refuses_a_certificate_of_another_shape():
    with pytest.raises(ValueError, match="certificate"):
        nearest_stable(np.eye(2), 0.1, 0.5, certificate=np.ones(3))


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("delta_bar", [-1.0, 0.0, 0.5, 1.2])
def test_nearby_is_certified_and_almost_as_near(alpha, delta_bar):
    for size, seed in ((1, 0), (7, 1), (20, 2)):
        matrix = np.random.default_rng(seed).standard_normal((size, size))
        matrix /= np.sqrt(size)
        near, t = nearby_stable(matrix, delta_bar, alpha)
        assert certified_log_norm(near, alpha, t) <= delta_bar
        nearest = nearest_stable(matrix, delta_bar, alpha).distance
        norm = np.linalg.norm(matrix)
        assert np.linalg.norm(near - matrix) <= 1.03 * nearest + 1e-3 * norm


def test_nearby_leaves_alone_what_is_certified():
    matrix = np.random.default_rng(0).standard_normal((9, 9))
    near, t = nearby_stable(matrix - matrix.T, 6.0, 0.3)
    np.testing.assert_array_equal(near, matrix - matrix.T)
    assert certified_log_norm(near, 0.3, t) <= 6.0
