import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import attacks

EPSILONS = [0.0, 0.05, 0.2, 0.7]


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(23, 4, 4, 1)).astype(np.float32)
    return images, rng.integers(0, 3, size=23)


def linear_model(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )


def smooth_model(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(12, activation="tanh"),
            keras.layers.Dense(3),
        ]
    )


def test_linear_model_has_a_closed_form(data):
    images, labels = data
    model = linear_model()
    kernel, bias = (w.astype(np.float64) for w in model.get_weights())
    logits = images.reshape(23, -1) @ kernel + bias
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradient = (probabilities - np.eye(3)[labels]) @ kernel.T
    direction = np.sign(gradient).reshape(images.shape).astype(np.float32)

    result = attacks.FGSM()(model, images, labels, EPSILONS)

    for i, epsilon in enumerate(EPSILONS):
        expected = np.clip(images + np.float32(epsilon) * direction, 0, 1)
        np.testing.assert_array_equal(result.adversarial[i], expected)
        answers = (expected.reshape(23, -1) @ kernel + bias).argmax(1)
        np.testing.assert_array_equal(result.success[i], answers != labels)


def test_first_order_growth_of_the_loss(data):
    images, labels = data
    images = 0.2 + 0.6 * images  # no clipping at this budget
    model, epsilon = smooth_model(), 1e-3
    [attacked] = attacks.FGSM()(model, images, labels, epsilon).adversarial

    def loss(x):
        return keras.losses.sparse_categorical_crossentropy(
            labels, model(x), from_logits=True
        )

    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        before = loss(x)
    gradient = tape.gradient(before, x)
    growth = (loss(attacked) - before).numpy() / epsilon
    slope = tf.reduce_sum(tf.abs(gradient), axis=[1, 2, 3]).numpy()
    np.testing.assert_allclose(growth, slope, rtol=0.02, atol=2e-3)


def test_model_is_traced_once_for_each_step(data):
    images, labels = data
    model, traces = smooth_model(), []

    def traced(x):
        traces.append(x.shape)
        return model(x)

    attacks.FGSM()(traced, images, labels, EPSILONS, batch_size=5)
    assert traces == [(None, 4, 4, 1)] * 2


def test_budgets_are_independent(data):
    images, labels = data
    model = smooth_model()
    together = attacks.FGSM()(model, images, labels, [0.3, 0.1])
    alone = attacks.FGSM()(model, images, labels, [0.1])
    np.testing.assert_array_equal(together.adversarial[1], alone.adversarial[0])
    np.testing.assert_array_equal(together.success[1], alone.success[0])


def test_zero_gradients_are_reported_per_image(data):
    images, labels = data

    def dead_for_bright(x):  # no gradient where the first pixel is bright
        alive = tf.cast(x[:, 0, 0, :] < 0.5, tf.float32)
        return tf.reshape(x, [-1, 16])[:, :3] * alive

    batch = attacks.FGSM()(dead_for_bright, images, labels, [0.1])
    dark = images[:, 0, 0, 0] < 0.5
    assert 0 < dark.sum() < len(dark)
    np.testing.assert_array_equal(batch.zero_gradient, ~dark)
    unmoved = (batch.adversarial[0] == images).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(unmoved, ~dark)


def test_non_finite_logits_are_an_error(data):
    images, labels = data

    def explodes(x):
        logits = tf.reshape(x, [-1, 16])[:, :3]
        return logits + 0 * tf.math.log(1.0 - tf.reduce_max(x))

    with pytest.raises(ValueError, match="logits under attack must be finite"):
        attacks.FGSM()(explodes, images, labels, [0.0, 1.0])


def test_confident_answers_are_attacked_too():
    """In float32 the gradient of the cross-entropy is 0 or wrong here."""
    weights = tf.constant([[100.0, -100.0, 0.0], [30.0, 0.0, 40.0]])
    images = np.array([[0.9, 0.5]], np.float32)
    attack = attacks.FGSM()(lambda x: x @ weights, images, [0], [0.1])
    np.testing.assert_allclose(attack.adversarial[0], [[0.8, 0.6]])
