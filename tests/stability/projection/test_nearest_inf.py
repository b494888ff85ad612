"""The nearest matrix in the ∞-norm against a cone solver and a sort."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_node_tf import nearest_stable, worst_case_log_norm
from stable_node_tf.stability.inf_log_norm import row_bounds


def draw(size, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((size, size)) / np.sqrt(size)


def by_sorting(matrix, bound):
    """λ = max_k (a_ii + sum of the k largest - c) / (k + 1), row by row."""
    result = matrix.copy()
    for i, row in enumerate(matrix):
        others = np.sort(np.abs(np.delete(row, i)))[::-1]
        partial = row[i] + np.concatenate([[0.0], np.cumsum(others)]) - bound
        shift = max(0.0, np.max(partial / np.arange(1, len(row) + 1)))
        result[i] = np.sign(row) * np.maximum(np.abs(row) - shift, 0.0)
        result[i, i] = row[i] - shift
    return result


@pytest.mark.parametrize("delta_bar", [-0.3, 0.0, 0.5])
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_against_a_cone_solver(delta_bar, alpha):
    cvxpy = pytest.importorskip("cvxpy")
    matrix = draw(6)
    bound = delta_bar if delta_bar >= 0.0 else delta_bar / alpha
    B = cvxpy.Variable((6, 6))
    off = cvxpy.multiply(1.0 - np.eye(6), cvxpy.abs(B))
    problem = cvxpy.Problem(
        cvxpy.Minimize(cvxpy.sum_squares(B - matrix)),
        [cvxpy.diag(B) + cvxpy.sum(off, axis=1) <= bound],
    )
    problem.solve("CLARABEL", tol_gap_abs=1e-13, tol_gap_rel=1e-13)
    result = nearest_stable(matrix, delta_bar, alpha, norm="inf")
    np.testing.assert_allclose(result.matrix, B.value, atol=1e-6)
    assert result.distance == pytest.approx(np.sqrt(problem.value), rel=1e-7)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40),
    st.floats(-2.0, 2.0),
    st.sampled_from([0.05, 0.5, 1.0]),
    st.sampled_from([1e-200, 1e-3, 1.0, 1e200]),
    st.integers(0, 100),
)
def test_it_is_the_projection(size, delta_bar, alpha, scale, seed):
    matrix, delta_bar = scale * draw(size, seed), scale * delta_bar
    result = nearest_stable(matrix, delta_bar, alpha, norm="inf")
    B = result.matrix
    assert worst_case_log_norm(B, alpha, norm="inf").upper <= delta_bar
    bound, _ = row_bounds(delta_bar, alpha)
    atol = 1e-12 * max(np.abs(matrix).max(), abs(bound))
    np.testing.assert_allclose(B, by_sorting(matrix, bound), rtol=0, atol=atol)
    assert 0.0 <= result.distance_lower_bound <= result.distance
    gap = result.distance - result.distance_lower_bound
    assert gap <= size * atol
    np.testing.assert_array_equal(result.perturbation, B - matrix)
    again = nearest_stable(B, delta_bar, alpha, norm="inf")
    np.testing.assert_array_equal(again.matrix, B)
    assert again.distance == 0.0
    # No projection moves two points apart.
    other = scale * draw(size, seed + 1000)
    moved = nearest_stable(other, delta_bar, alpha, norm="inf").matrix
    assert np.linalg.norm((moved - B) / scale) <= (
        np.linalg.norm((other - matrix) / scale) + size * atol / scale
    )


@pytest.mark.parametrize("scale", [1e302, 1e-305, 5e-324])
def test_ends_of_the_range(scale):
    matrix = scale * np.array([[1.0, -1.0], [0.0, 1.0]])
    result = nearest_stable(matrix, 0.0, 0.5, norm="inf")
    assert worst_case_log_norm(result.matrix, 0.5, norm="inf").upper <= 0.0
    assert np.isfinite(result.distance)
    assert result.distance_lower_bound <= result.distance
