import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stable_node_tf import certified_log_norm, nearest_stable
from stable_node_tf.stability.clipping.log_norm import (
    clip_log_norm,
    smallest_certificate,
)

CLIPS = {
    "plain": clip_log_norm,
    "graph": tf.function(clip_log_norm, autograph=False),
    "xla": tf.function(clip_log_norm, jit_compile=True, autograph=False),
}


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([1, 2, 5, 20]),
    st.integers(0, 10**6),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.sampled_from([-1.0, 0.0, 0.2, 2.0]),
    st.sampled_from([0.0, 0.05, 1.0]),
    st.sampled_from(["float32", "float64"]),
)
def test_ends_certified_and_stays(size, seed, alpha, delta_bar, step, dtype):
    assume(smallest_certificate(delta_bar, alpha, step) < np.inf)
    check_ends_certified_and_stays(
        "plain", size, seed, alpha, delta_bar, step, dtype
    )


# Few settings, because XLA compiles each of them anew.
@pytest.mark.parametrize(
    "size, alpha, delta_bar, step, dtype",
    [
        (20, 0.1, -1.0, 0.0, "float32"),
        (5, 0.5, 0.2, 0.05, "float64"),
        (1, 0.1, 2.0, 1.0, "float32"),
        (20, 1.0, 0.0, 0.0, "float32"),
        (5, 1.0, -1.0, 0.05, "float64"),
    ],
)
def test_ends_certified_and_stays_by_xla(size, alpha, delta_bar, step, dtype):
    for seed in range(8):
        check_ends_certified_and_stays(
            "xla", size, seed, alpha, delta_bar, step, dtype
        )


def check_ends_certified_and_stays(
    clip, size, seed, alpha, delta_bar, step, dtype
):
    least = smallest_certificate(delta_bar, alpha, step)
    clip = CLIPS[clip]
    generator = np.random.default_rng(seed)
    matrix = generator.standard_normal((size, size)).astype(dtype)
    certificate = np.exp(generator.normal(size=size))
    options = (delta_bar, alpha, step)
    clipped = clip(tf.constant(matrix), tf.constant(certificate), *options)
    assert clipped.matrix.dtype == dtype
    certificate = clipped.certificate.numpy()
    reached = certified_log_norm(
        clipped.matrix.numpy(), alpha, certificate, step
    )
    assert reached <= delta_bar
    np.testing.assert_allclose(
        clipped.distance,
        np.linalg.norm(clipped.matrix.numpy().astype(np.float64) - matrix),
        rtol=1e-5,
        atol=1e-6,
    )
    again = clip(clipped.matrix, clipped.certificate, *options)
    np.testing.assert_allclose(
        again.matrix, clipped.matrix, atol=2e-4 * np.sum(certificate)
    )
    assert np.all(clipped.proposal.numpy() > least)


@pytest.mark.parametrize("clip", ["plain", "xla"])
def test_inside_is_left_alone(clip):
    matrix = tf.constant([[-1.0, 0.1], [0.0, -1.0]])
    certificate = tf.ones(2, tf.float64)
    clipped = CLIPS[clip](matrix, certificate, 0.0, 0.5)
    np.testing.assert_array_equal(clipped.matrix, matrix)
    np.testing.assert_array_equal(clipped.proposal, certificate)
    assert clipped.distance == 0.0


def test_carried_certificate_stays_near_optimal():
    """Steps that leave the set, as in training: T follows, B stays near."""
    generator = np.random.default_rng(0)
    start = nearest_stable(generator.standard_normal((12, 12)) / 3, 0.2, 0.1)
    certificate, matrix = tf.constant(start.certificate), start.matrix
    moved = nearest = 0.0
    drift = 0.02 * generator.standard_normal((12, 12))
    for _ in range(40):
        step = matrix + drift + 0.02 * generator.standard_normal((12, 12))
        clipped, _, certificate, _ = CLIPS["graph"](
            tf.constant(step), certificate, 0.2, 0.1
        )
        moved += np.linalg.norm(clipped - step)
        nearest += nearest_stable(step, 0.2, 0.1).distance
        matrix = clipped.numpy()
    assert nearest * (1 - 1e-6) <= moved < 1.3 * nearest


@pytest.mark.parametrize("clip", ["graph", "xla"])
def test_leaves_the_zero_matrix_again(clip):
    """Nearest to I is 0, with a certificate of almost nothing."""
    matrix, certificate = tf.zeros((4, 4)), tf.fill([4], np.float64(1e-20))
    for _ in range(150):
        clipped = CLIPS[clip](matrix - 0.02 * tf.eye(4), certificate, 0.0, 0.1)
        matrix, certificate = clipped.matrix, clipped.proposal
    assert np.all(np.diag(matrix) < -0.2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "alpha, step", [(1e-3, 0.0), (0.1, 0.0), (0.9, 0.0), (1e-3, 2e-4), (0.1, 2)]
)
@pytest.mark.parametrize("delta_bar", [-1.0, 0.0, 0.3])
def test_certified_after_any_jump(dtype, alpha, delta_bar, step):
    if smallest_certificate(delta_bar, alpha, step) == np.inf:
        pytest.skip("no matrix is that stable")
    check_certified_after_any_jump("plain", dtype, alpha, delta_bar, step)


@pytest.mark.parametrize(
    "dtype, alpha, delta_bar, step",
    [
        ("float32", 1e-3, 0.3, 0.0),
        ("float64", 0.1, -1.0, 0.0),
        ("float32", 0.9, 0.0, 0.0),
        ("float64", 1e-3, 0.3, 2e-4),
        ("float32", 0.1, 0.0, 2),
    ],
)
def test_certified_after_any_jump_by_xla(dtype, alpha, delta_bar, step):
    check_certified_after_any_jump("xla", dtype, alpha, delta_bar, step)


def check_certified_after_any_jump(clip, dtype, alpha, delta_bar, step):
    generator = np.random.default_rng(5)
    certificate = np.full(4, 100.0 + 2 * smallest_certificate(-1.0, alpha))
    for scale in (0.0, 1e-6, 1e3, 1e6, 1e9, 1e14):
        matrix = (scale * generator.standard_normal((4, 4))).astype(dtype)
        clipped = CLIPS[clip](
            tf.constant(matrix),
            tf.constant(certificate),
            delta_bar,
            alpha,
            step,
        )
        reached = certified_log_norm(
            clipped.matrix.numpy(), alpha, clipped.certificate.numpy(), step
        )
        assert reached <= delta_bar, scale
        assert np.all(np.isfinite(clipped.proposal)), scale


@pytest.mark.parametrize("alpha", [1 - 1e-10, 1 - 1e-12, 1 - 1e-15])
@pytest.mark.parametrize("delta_bar, step", [(-5.0, 0.05), (-5.0, 0.0), (9, 1)])
def test_slopes_that_are_almost_equal(alpha, delta_bar, step):
    for number in (300.0, -300.0, 0.01):
        clipped = clip_log_norm(
            tf.constant([[number]]),
            tf.constant([1e-9], tf.float64),
            delta_bar,
            alpha,
            step,
        )
        certificate = clipped.certificate.numpy()
        reached = certified_log_norm(
            clipped.matrix.numpy(), alpha, certificate, step
        )
        assert reached <= delta_bar
