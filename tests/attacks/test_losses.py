import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stable_node_tf.attacks import losses

logits_of_five = arrays.arrays(
    np.float64, (3, 5), elements=st.floats(-30, 30), unique=True
)
LABELS = np.array([0, 3, 4])


def gradient_of(loss, logits):
    x = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(x, LABELS)
    return tape.gradient(value, x).numpy()


@settings(deadline=None, max_examples=25)
@given(logits_of_five)
def test_log_odds_follow_the_cross_entropy(logits):
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = shifted / shifted.sum(1, keepdims=True)
    own = np.take_along_axis(probabilities, LABELS[:, None], 1)
    others = 1 - np.eye(5)[LABELS]
    expected = np.log((probabilities * others).sum(1)) - np.log(own[:, 0])
    np.testing.assert_allclose(losses.log_odds(logits, LABELS), expected)
    scaled = gradient_of(losses.log_odds, logits) * (1 - own)
    np.testing.assert_allclose(
        scaled, probabilities - np.eye(5)[LABELS], atol=1e-9
    )


@settings(deadline=None, max_examples=25)
@given(logits_of_five)
def test_cw_is_positive_where_the_answer_is_wrong(logits):
    values = losses.cw(tf.constant(logits), LABELS).numpy()
    np.testing.assert_array_equal(values > 0, logits.argmax(1) != LABELS)
    rows = np.arange(3)
    others = np.where(np.eye(5, dtype=bool)[LABELS], -np.inf, logits).max(1)
    np.testing.assert_allclose(values, others - logits[rows, LABELS])


@settings(deadline=None, max_examples=25)
@given(logits_of_five, st.floats(0.1, 10), st.floats(-5, 5))
def test_dlr_ignores_scale_and_shift(logits, scale, shift):
    logits = np.round(logits, 2) + np.linspace(0, 1e-2, 5)
    first = losses.dlr(tf.constant(logits), LABELS)
    second = losses.dlr(tf.constant(scale * logits + shift), LABELS)
    np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-6)
    ordered = np.sort(logits, axis=1)
    expected = losses.cw(tf.constant(logits), LABELS).numpy()
    expected /= ordered[:, -1] - ordered[:, -3]
    np.testing.assert_allclose(first, expected)
