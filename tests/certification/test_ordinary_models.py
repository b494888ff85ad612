"""Architectures of Keras's own layers: certified, and attacked."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import load_classifier, save_classifier
from stable_node_tf.attacks import PGD
from stable_node_tf.certification import (
    certified_accuracy,
    certified_radii,
    certifier,
)

layers = keras.layers


def perceptron(x):
    x = layers.Rescaling(2.0, -1.0)(x)
    return layers.Dense(16, "relu")(layers.Flatten()(x))


def convolutional(x):
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="elu")(x)
    return layers.Flatten()(layers.BatchNormalization()(x))


def residual(x):
    x = layers.Conv2D(4, 2, strides=2)(x)
    y = layers.Conv2D(4, 3, padding="same", activation="gelu")(x)
    x = layers.Average()([x, y])
    y = layers.SeparableConv2D(3, 3, padding="same", activation="silu")(x)
    return layers.GlobalAveragePooling2D()(layers.Concatenate()([x, y]))


def shared(x):
    """A nested model that is used on two paths."""
    entry = keras.Input((4, 8))
    inner = keras.Model(entry, layers.Conv1D(3, 3, activation="tanh")(entry))
    rows = layers.Reshape((4, 8))(layers.AveragePooling2D((2, 1))(x))
    turned = layers.Reshape((4, 8))(layers.MaxPooling2D((2, 1))(x))
    x = layers.Subtract()([inner(rows), inner(turned)])
    return layers.PReLU()(layers.Flatten()(x))


def expanding(x):
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, dilation_rate=2)(x)
    x = layers.LeakyReLU()(layers.UpSampling2D()(x))
    x = layers.Conv2DTranspose(2, 3, strides=2, activation="softplus")(x)
    return layers.Flatten()(layers.AveragePooling2D(3, padding="same")(x))


ARCHITECTURES = [perceptron, convolutional, residual, shared, expanding]


def data():
    """Two classes: the upper or the lower half is brighter."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 40)
    images = generator.uniform(0.0, 0.5, (40, 8, 8, 1))
    for image, label in zip(images, labels, strict=True):
        image[4 * label : 4 * label + 4] += 0.5
    return images.astype(np.float32), labels


def model_of(architecture):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    return keras.Model(image, layers.Dense(2)(architecture(image)))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def trained(request):
    model = model_of(request.param)
    model.compile(
        keras.optimizers.Adam(0.02),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.fit(*data(), epochs=15, verbose=0)
    return model


def test_no_attack_gets_below_the_certified_accuracy(trained):
    images, labels = data()
    classes, radii = certified_radii(trained, images)
    assert np.mean(classes == labels) > 0.8 and np.median(radii) > 0.0
    epsilons = [float(np.quantile(radii, q)) for q in (0.2, 0.5, 0.8)]
    epsilons = [epsilon for epsilon in epsilons if epsilon > 0.0] + [1.0]
    curve = certified_accuracy(trained, images, labels, epsilons)
    # Pixels of any value, as the certificate says.
    attack = PGD(norm="l2", loss="cw", steps=30, restarts=1)
    result = attack(trained, images, labels, epsilons, bounds=(-9.0, 9.0))
    accuracies = result.right.mean(axis=1)
    assert np.all(accuracies >= curve.accuracies)
    assert np.any(curve.accuracies > 0.0)
    held = (radii[None, :] > np.array(epsilons)[:, None]) & (classes == labels)
    assert np.all(result.right[held])


def test_slopes_stay_below_the_bound(trained):
    images, _ = data()
    images = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = trained(images, training=False)
        difference = logits[:, 0] - logits[:, 1]
    slopes = tape.gradient(difference, images).numpy().reshape(40, -1)
    bound = certifier(trained).pair_lipschitz[0, 1]
    steepest = np.linalg.norm(slopes, axis=1).max()
    assert 0.02 * bound < steepest <= bound * (1 + 1e-5)


def test_exported_models_certify(tmp_path):
    images, _ = data()
    trained = model_of(residual)
    save_classifier(trained, tmp_path)
    answers = load_classifier(tmp_path).certify(images)
    classes, radii = certified_radii(trained, images)
    np.testing.assert_array_equal(answers["label"], classes)
    np.testing.assert_allclose(
        answers["certified_radius"], radii, rtol=1e-3, atol=1e-5
    )


def test_rounding_is_bounded_where_all_layers_say_so():
    def dense(*middle):
        image = keras.Input((4,))
        x = layers.Dense(4, "relu")(image)
        for layer in middle:
            x = layer(x)
        return keras.Model(image, layers.Dense(2)(x))

    for layer, exact in (
        (layers.ReLU(), True),
        (layers.Activation("leaky_relu"), True),
        (layers.Rescaling(0.5), True),
        (layers.Activation("gelu"), False),
        (layers.BatchNormalization(), True),
    ):
        said = certifier(dense(layer)).holds_for
        assert ("float32" in said) == exact, layer


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_float32_errors_of_a_graph_stay_below_their_bound(scale):
    def graph(dtype):
        options = {"dtype": dtype}
        image = keras.Input((4, 4, 1), dtype=dtype)
        # The certified scale is the one that float32 has.
        x = layers.Rescaling(float(np.float32(0.3)), -0.25, **options)(image)
        x = layers.Flatten(**options)(x)
        options["bias_initializer"] = "normal"
        y = layers.Dense(16, "relu", **options)(x)
        z = layers.Dense(16, "leaky_relu", **options)(x)
        x = layers.Average(dtype=dtype)([x, y, z])
        apart = layers.Subtract(dtype=dtype)([y, z])
        x = layers.Concatenate(dtype=dtype)([x, apart])
        x = layers.BatchNormalization(
            epsilon=2.0**-10,
            moving_mean_initializer="normal",
            moving_variance_initializer=keras.initializers.RandomUniform(0, 2),
            dtype=dtype,
        )(x)
        return keras.Model(image, layers.Dense(3, dtype=dtype)(x))

    keras.utils.set_random_seed(0)
    model, exact = graph("float32"), graph("float64")
    exact.set_weights(model.get_weights())
    bounds = certifier(model)
    assert bounds.holds_for == "2-norm, float32 arithmetic as computed"
    x = scale * np.random.default_rng(0).normal(size=(500, 4, 4, 1))
    x = x.astype(np.float32)
    error = model(x).numpy() - exact(x.astype(np.float64)).numpy()
    error = np.abs(error[:, :, None] - error[:, None, :])
    norms = np.linalg.norm(x.reshape(500, -1).astype(np.float64), axis=1)
    allowed = bounds.offset + bounds.slope * norms[:, None, None]
    assert np.all(error <= allowed)
    assert error.max() > 1e-4 * allowed.max()
