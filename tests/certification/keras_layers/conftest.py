"""Slopes of layers, by which rules are checked."""

import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf.certification.rules import lipschitz_after


@pytest.fixture
def bound_of():
    """What the rule says of a layer for inputs of that shape."""
    return lambda layer, shape: lipschitz_after(layer, [1.0], [shape])


@pytest.fixture
def norm_of():
    """The norm of an affine layer, from its answers to all unit vectors."""

    def norm(layer, shape):
        count = int(np.prod(shape))
        units = np.eye(count + 1, count).reshape(count + 1, *shape)
        answers = layer(tf.constant(units)).numpy().reshape(count + 1, -1)
        return np.linalg.norm(answers[:-1] - answers[-1], 2)

    return norm


@pytest.fixture
def largest_ratio():
    """The largest |f(x) - f(y)| / |x - y| of random pairs, near and far."""

    def ratio(layer, shape, count=300):
        generator = np.random.default_rng(0)
        x = 3.0 * generator.normal(size=(count, *shape))
        sizes = 10.0 ** generator.uniform(-4, 1, (count, *[1] * len(shape)))
        y = x + sizes * generator.normal(size=x.shape)
        change = (layer(tf.constant(x)) - layer(tf.constant(y))).numpy()
        apart = np.linalg.norm((x - y).reshape(count, -1), axis=1)
        return (np.linalg.norm(change.reshape(count, -1), axis=1) / apart).max()

    return ratio
