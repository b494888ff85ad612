import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_node_tf.losses import MarginCrossentropy


def test_is_a_smooth_maximum_of_the_negative_margins():
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((6, 4)).astype(np.float32)
    labels = generator.integers(4, size=6)
    margins = logits[np.arange(6), labels][:, None] - logits
    losses = keras.ops.convert_to_numpy(
        MarginCrossentropy(3.0, reduction=None)(labels, logits)
    )
    expected = np.log(np.exp(-3.0 * margins).sum(1)) / 3.0
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    hard = MarginCrossentropy(1e4, reduction=None)(labels, logits)
    np.testing.assert_allclose(hard, -margins.min(1), atol=1e-3)


def test_offset_is_the_margin_that_is_asked_for():
    logits = np.array([[3.0, 1.0], [3.0, 2.5], [0.0, 1.0]], np.float32)
    losses = MarginCrossentropy(1e3, offset=1.5, reduction=None)(
        np.zeros(3, int), logits
    )
    np.testing.assert_allclose(losses, [0.0, 1.0, 2.5], atol=1e-3)


@given(
    scale=st.floats(0.1, 20.0),
    offset=st.floats(0.0, 3.0),
    shift=st.floats(-5.0, 5.0),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=50, deadline=None)
def test_invariances(scale, offset, shift, seed):
    """The offset lowers the true logit; a shift of all logits is not seen."""
    generator = np.random.default_rng(seed)
    logits = generator.standard_normal((6, 4))
    labels = generator.integers(4, size=6)
    loss = MarginCrossentropy(scale, offset, reduction=None, dtype="float64")
    losses = loss(labels, logits)
    np.testing.assert_allclose(loss(labels, logits + shift), losses, atol=1e-9)
    np.testing.assert_allclose(loss(labels[:, None], logits), losses)
    lowered = logits.copy()
    lowered[np.arange(6), labels] -= offset
    without = MarginCrossentropy(scale, reduction=None, dtype="float64")
    np.testing.assert_allclose(without(labels, lowered), losses, atol=1e-12)
    unit = MarginCrossentropy(1.0, scale * offset, reduction=None)
    scaled = unit(labels, np.float32(scale * logits)) / scale
    np.testing.assert_allclose(scaled, losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 0.7])
def test_gradient_is_the_difference_of_two_distributions(offset):
    generator = np.random.default_rng(1)
    logits = generator.standard_normal((5, 4))
    labels = generator.integers(4, size=5)
    loss = MarginCrossentropy(3.0, offset, reduction="sum", dtype="float64")
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        value = loss(labels, variable)
    own = np.eye(4)[labels]
    weights = np.exp(3.0 * (logits - offset * own))
    expected = weights / weights.sum(1, keepdims=True) - own
    np.testing.assert_allclose(
        tape.gradient(value, variable), expected, rtol=1e-9
    )


def test_is_saved_and_loaded():
    loss = MarginCrossentropy(3.0, 0.5)
    config = keras.losses.serialize(loss)
    loaded = keras.losses.deserialize(config)
    assert (loaded.scale, loaded.offset) == (3.0, 0.5)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan])
def test_refuses(scale):
    with pytest.raises(ValueError, match="scale"):
        MarginCrossentropy(scale)


@pytest.mark.parametrize("offset", [-0.1, np.inf])
def test_refuses_offsets(offset):
    with pytest.raises(ValueError, match="offset"):
        MarginCrossentropy(1.0, offset)
