import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf.stability.clipping.certificate_step import (
    BallRates,
    step_by_eigenvectors,
    step_by_projector,
)
from stable_node_tf.stability.clipping.singular_values import active_spectrum


@pytest.fixture
def rates():
    generator = np.random.default_rng(1)
    return BallRates(*tf.constant(generator.standard_normal((3, 6))))


@pytest.fixture
def matrix():
    return np.random.default_rng(2).standard_normal((6, 6)) / 2.5


def both_steps(matrix, rates):
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    excess = vectors * np.maximum(values - 1, 0) @ vectors.T
    active = vectors * (values > 1) @ vectors.T
    assert 0 < np.sum(values > 1) < 6
    return (
        step_by_eigenvectors(
            rates, active_spectrum(tf.constant(matrix), 1.0)[0]
        ),
        step_by_projector(rates, tf.constant(matrix), excess, active),
    )


def test_both_take_the_same_step(matrix, rates):
    np.testing.assert_allclose(*both_steps(matrix, rates), rtol=1e-10)


def test_along_the_gradient(matrix, rates):
    """The direction is that of finite differences of |(WᵀW - I)₊|²."""
    row, column, shift = (rate.numpy() for rate in rates)

    def excess(log_t):
        change = (row * log_t)[:, None] + (column * log_t)[None, :]
        moved = matrix + change * matrix + np.diag(shift * log_t)
        values = np.linalg.eigvalsh(moved.T @ moved)
        return np.sum(np.maximum(values - 1, 0) ** 2)

    gradient = [
        (excess(1e-6 * unit) - excess(-1e-6 * unit)) / 2e-6
        for unit in np.eye(6)
    ]
    step = both_steps(matrix, rates)[0].numpy()
    undamped = np.arctanh(step / 0.2)
    cosine = -np.dot(undamped, gradient)
    cosine /= np.linalg.norm(undamped) * np.linalg.norm(gradient)
    assert cosine > 1 - 1e-8


def test_stays_where_nothing_is_clipped(rates):
    inside = 0.5 * np.eye(6)
    spectrum = active_spectrum(tf.constant(inside), 1.0)[0]
    step = step_by_eigenvectors(rates, spectrum)
    np.testing.assert_array_equal(step, np.zeros(6))
