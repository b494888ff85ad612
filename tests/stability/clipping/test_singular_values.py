import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_node_tf.stability.clipping.singular_values import (
    clip_by_products,
    clip_singular_values,
)

# The limit is a tensor and shapes are few: XLA compiles once for each shape.
CLIPS = {
    name: tf.function(
        lambda matrix, limit: clip_singular_values(matrix, limit),
        jit_compile=name == "xla",
        autograph=False,
    )
    for name in ("plain", "xla")
}


def clip(name, matrix, limit):
    return CLIPS[name](matrix, tf.constant(limit, matrix.dtype))


def nearest(matrix, limit):
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left * np.minimum(values, limit) @ right


@pytest.mark.parametrize("name", ["plain", "xla"])
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(1, 1), (32, 32), (40, 20)]),
    st.integers(0, 10**6),
    st.sampled_from([0.01, 0.2, 0.4, 1.0, 100.0]),
    st.sampled_from([np.float32, np.float64]),
)
def test_projects_onto_the_ball(name, shape, seed, scale, dtype):
    matrix = np.random.default_rng(seed).standard_normal(shape) * scale
    matrix = matrix.astype(dtype)
    clipped = clip(name, tf.constant(matrix), 0.7)
    result = clipped.matrix.numpy().astype(np.float64)
    limit = float(dtype(0.7))
    matrix = matrix.astype(np.float64)
    assert clipped.matrix.dtype == dtype
    assert np.linalg.norm(result, 2) <= limit * (1 + 1e-15)
    largest = np.linalg.norm(matrix, 2)
    np.testing.assert_allclose(
        result,
        nearest(matrix, limit),
        atol=7e-4 if dtype == np.float64 else 7e-4 + 1e-6 * largest,
    )
    if clipped.inside:
        np.testing.assert_array_equal(result, matrix)
    assert clipped.inside or largest > 0.68


@pytest.mark.parametrize("scale", [1.0, 5.0])  # one pass, and several
def test_products_tell_what_was_clipped(scale):
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    values = np.array([0.1, 0.5, 0.9, 1.05, 1.1, 1.2 * scale])
    clipped = clip_by_products(tf.constant(basis * values @ basis.T), 1.0)
    excess = basis * np.maximum(values**2 - 1, 0) @ basis.T
    active = basis * (values > 1) @ basis.T
    np.testing.assert_allclose(
        clipped.excess, excess, atol=2e-4 if scale == 1.0 else 4e-2
    )
    np.testing.assert_allclose(clipped.active, active, atol=2e-3)


@pytest.mark.parametrize("name", ["plain", "xla"])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_clusters_at_the_limit(name, dtype):
    """Nearly equal singular values on both sides, as in training."""
    generator = np.random.default_rng(2)
    for width in (1e-1, 1e-3, 1e-5, 0.0):
        left, right = (
            np.linalg.qr(generator.standard_normal((32, 32)))[0]
            for _ in range(2)
        )
        values = 1 + width * generator.standard_normal(32)
        matrix = tf.constant(left * values @ right, dtype)
        result = clip(name, matrix, 1.0).matrix.numpy().astype(np.float64)
        assert 1 - 3e-4 < np.linalg.norm(result, 2) <= 1 + 1e-15
        exact = nearest(matrix.numpy().astype(np.float64), 1.0)
        assert np.linalg.norm(result - exact, 2) < 3e-4


@pytest.mark.parametrize("name", ["plain", "xla"])
def test_nan_ends(name):
    assert np.isnan(clip(name, tf.fill([32, 32], np.nan), 1.0).matrix).any()


@pytest.mark.parametrize("name", ["plain", "xla"])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("ratio", [1e7, 1e12, 1e25, 1e37])
def test_ends_inside_at_any_ratio(name, dtype, ratio):
    for size in (1, 32):
        matrix = ratio * tf.eye(size, dtype=dtype)
        result = clip(name, matrix, 1.0).matrix.numpy().astype(np.float64)
        assert 0.9 < np.linalg.norm(result, 2) <= 1.0 + 1e-15
