"""Tests of the bounds of μ2(D_k A_k ⋯ D_1 A_1) over all diagonal D_i."""

import cvxpy as cp
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_node_tf import product_log_norm, worst_case_log_norm
from stable_node_tf.stability.clipping.product_scaling import scale_into_bound
from stable_node_tf.stability.product_certificate import (
    neutral_multipliers,
    rescaled,
)
from stable_node_tf.stability.product_log_norm import (
    attained_product_log_norm,
    certified_product_log_norm,
)


def chain(sizes, seed=0, scale=1.0):
    """A_1, ..., A_k of heights `sizes`."""
    rng = np.random.default_rng(seed)
    widths = (sizes[-1], *sizes[:-1])
    return [
        scale * rng.standard_normal((m, n)) / np.sqrt(n)
        for m, n in zip(sizes, widths, strict=True)
    ]


def sampled(matrices, alpha, count, seed=0):
    """μ2 of products with random slopes, half of them at the ends."""
    rng = np.random.default_rng(seed)
    product = np.eye(len(matrices[-1]))
    for matrix in matrices:
        slopes = rng.uniform(alpha, 1.0, (count, len(matrix)))
        ends = rng.choice([alpha, 1.0], slopes.shape)
        slopes = np.where(rng.random((count, 1)) < 0.5, ends, slopes)
        product = slopes[..., None] * (matrix @ product)
    return np.linalg.eigvalsh(product + product.swapaxes(-1, -2))[:, -1] / 2


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_one_matrix_has_the_bounds_of_one_layer(alpha, seed):
    matrices = chain([7], seed)
    bracket = product_log_norm(matrices, alpha, tolerance=1e-8)
    one = worst_case_log_norm(matrices[0], alpha)
    assert bracket.upper == pytest.approx(one.upper, rel=1e-6, abs=2e-6)
    assert bracket.lower == pytest.approx(one.lower, rel=1e-9)


@pytest.mark.parametrize("sizes", [(5, 3), (2, 6), (3, 4, 5), (1, 1, 1, 1)])
@pytest.mark.parametrize("alpha", [0.1, 0.6])
def test_random_slopes_stay_between_the_bounds(sizes, alpha):
    for seed in range(3):
        matrices = chain(sizes, seed, scale=2.0)
        bracket = product_log_norm(matrices, alpha)
        found = sampled(matrices, alpha, 5000).max()
        assert found <= bracket.upper
        assert bracket.lower <= bracket.upper
        assert bracket.lower >= found - 1e-9 * abs(found)
        norms = [np.linalg.norm(A, 2) for A in matrices]
        assert bracket.upper <= np.prod(norms) * (1 + 1e-6)


@pytest.mark.parametrize("sizes", [(4,), (4, 3), (3, 3, 3)])
@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_the_bound_is_the_optimum_of_the_semidefinite_programme(sizes, alpha):
    """With all slopes as unknowns of quadratic constraints, by CVXPY."""
    matrices = chain(sizes, 4)
    size, total = sizes[-1], sizes[-1] + sum(sizes)
    eye = np.eye(total)
    x, start = eye[:size], size
    bound, form = cp.Variable(), 0
    w = x
    for matrix in matrices:
        y, w = matrix @ w, eye[start : start + len(matrix)]
        start += len(matrix)
        tau = cp.Variable(len(matrix), nonneg=True)
        form += (w - alpha * y).T @ cp.diag(tau) @ (y - w)
    form = bound * x.T @ x - x.T @ w - form
    problem = cp.Problem(cp.Minimize(bound), [form + form.T >> 0])
    problem.solve(solver=cp.CLARABEL)
    upper = product_log_norm(matrices, alpha).upper
    assert upper == pytest.approx(float(bound.value), rel=1e-4, abs=1e-4)


def test_slope_one_leaves_a_single_product():
    matrices = chain((4, 5), 1)
    product = matrices[1] @ matrices[0]
    exact = np.linalg.eigvalsh(product + product.T)[-1] / 2
    bracket = product_log_norm(matrices, 1.0)
    assert bracket.lower == pytest.approx(exact, rel=1e-9)
    assert bracket.lower < bracket.upper <= exact + 3e-5


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.floats(0.05, 0.95))
def test_any_multipliers_prove_what_they_say(seed, alpha):
    rng = np.random.default_rng(seed)
    matrices = chain((3, 4), seed, scale=10 ** rng.uniform(-2, 2))
    norms = [float(np.linalg.norm(A)) for A in matrices]
    start = rescaled(neutral_multipliers([3, 4], alpha), [3, 4], norms)
    multipliers = start * np.exp(0.3 * rng.standard_normal(7))
    proven = certified_product_log_norm(matrices, alpha, multipliers)
    assert sampled(matrices, alpha, 200, seed).max() <= proven


def test_rows_and_columns_of_zeros():
    """Their multipliers have no best value."""
    matrices = chain((5, 4), 3)
    matrices[0][4] = 0.0
    matrices[1][:, 2] = 0.0
    bracket = product_log_norm(matrices, 0.2)
    kept = [matrices[0][[0, 1, 3]], matrices[1][:, [0, 1, 3]]]
    expected = product_log_norm(kept, 0.2).upper
    assert bracket.upper == pytest.approx(expected, rel=1e-4)
    zeros = product_log_norm([np.zeros((2, 3)), np.ones((3, 2))], 0.2)
    assert zeros.lower <= 0.0 <= zeros.upper < 1e-3


def test_multipliers_that_prove_nothing():
    matrices = chain((3, 3))
    multipliers = np.array([1e-9] * 3 + [1.0] * 3)
    assert certified_product_log_norm(matrices, 0.5, multipliers) == np.inf


@pytest.mark.parametrize(
    ("near", "jit_compile"), [(True, True), (True, False), (False, False)]
)
def test_scaling_follows_moving_kernels(near, jit_compile):
    """Always certified; from a good start, not farther inside than need be."""
    rng = np.random.default_rng(0)
    alpha, bound, sizes = 0.2, 0.5, (12, 8)
    kernels = [tf.constant(A, tf.float32) for A in chain(sizes, 2, scale=3.0)]
    best = product_log_norm(kernels, alpha).multipliers
    multipliers = tf.constant(best if near else np.ones(20))
    scale = tf.function(
        lambda kernels, multipliers: scale_into_bound(
            kernels, multipliers, bound, alpha
        ),
        jit_compile=jit_compile,
    )
    for _ in range(40):
        factor, multipliers, _ = scale(kernels, multipliers)
        kernels = [tf.cast(factor, tf.float32) * A for A in kernels]
        stored = [A.numpy() for A in kernels]
        proven = certified_product_log_norm(stored, alpha, multipliers.numpy())
        assert proven <= bound
        kernels = [
            1.05 * A
            + 0.002 * tf.constant(rng.standard_normal(A.shape), tf.float32)
            for A in kernels
        ]
    if near:
        assert 0.9 * bound <= product_log_norm(stored, alpha).upper


def test_refuses():
    with pytest.raises(ValueError, match=r"shapes \[\(2, 3\), \(2, 2\)\]"):
        product_log_norm([np.ones((2, 3)), np.ones((2, 2))], 0.5)
    with pytest.raises(ValueError, match="finite"):
        product_log_norm([np.full((2, 2), np.nan)], 0.5)
    with pytest.raises(ValueError, match=r"1e100.*entries 1e\+60, 1e\+60"):
        product_log_norm([1e60 * np.eye(2), 1e60 * np.eye(2)], 0.5)
    with pytest.raises(ValueError, match="1e-100"):
        product_log_norm([1e-200 * np.eye(2)], 0.5)
    with pytest.raises(ValueError, match="alpha"):
        product_log_norm([np.eye(2)], 0.0)
    with pytest.raises(ValueError, match="certificate"):
        certified_product_log_norm([np.eye(2)], 0.5, np.ones(3))
    with pytest.raises(ValueError, match="diagonals"):
        attained_product_log_norm([np.eye(2)], 0.5, [np.zeros(2)], np.ones(2))
    with pytest.raises(ValueError, match="`diagonals` must be one for each"):
        attained_product_log_norm([np.eye(2)] * 2, 0.5, [np.ones(2)], [1, 1])
    for vector in ([0, 0], [np.nan, 1], [1], [[1, 1]]):
        with pytest.raises(ValueError, match="`vector` must be"):
            attained_product_log_norm([np.eye(2)], 0.5, [np.ones(2)], vector)
    with pytest.raises(TypeError, match="real numeric.*complex128"):
        product_log_norm([1j * np.eye(2)], 0.5)
    for name, value in {"starts": 0, "seed": -1, "tolerance": 0.0}.items():
        with pytest.raises(ValueError, match=f"`{name}` must"):
            product_log_norm([np.eye(2)], 0.5, **{name: value})


def test_no_tolerance_is_too_small():
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal((3, 3)) for _ in range(2)]
    usual = product_log_norm(matrices, 0.1).upper
    for tolerance in (1e-12, 1e-15, 1e-30):
        found = product_log_norm(matrices, 0.1, tolerance=tolerance).upper
        assert usual - 1e-4 <= found <= usual * (1 + 1e-9)
