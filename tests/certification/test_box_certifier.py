"""Certificates in the ∞-norm, against attacks, brute force and closed forms."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import (
    DeepODELayer,
    Euler,
    LeakyTanh,
    StableODELayer,
    load_classifier,
    save_classifier,
)
from stable_node_tf.attacks import FGSM, PGD, WorstCase
from stable_node_tf.certification import (
    certified_accuracy,
    certified_radii,
    certifier,
)
from stable_node_tf.certification.boxes import Box
from stable_node_tf.solvers import SSPRungeKutta3

layers = keras.layers
STEP = 2.0 ** (24 / 2**16)


def data(size=8, count=40):
    """Two classes: the upper or the lower half is brighter."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, count)
    images = generator.uniform(0.0, 0.5, (count, size, size, 1))
    half = size // 2
    for image, label in zip(images, labels, strict=True):
        image[half * label : half * label + half] += 0.5
    return images.astype(np.float32), labels


def with_readout(model, images, labels, ridge=0.01):
    """Trains the last layer alone, by least squares."""
    features = keras.Model(model.input, model.layers[-1].input)(images).numpy()
    classes = model.output.shape[1]
    targets = np.eye(max(classes, 2))[labels][:, -classes:] * 2.0 - 1.0
    inputs = np.hstack([features, np.ones((len(images), 1))])
    square = inputs.T @ inputs + ridge * np.eye(inputs.shape[1])
    solution = np.linalg.solve(square, inputs.T @ targets)
    model.layers[-1].set_weights([solution[:-1], solution[-1]])
    return model


def dense_ode(x):
    x = layers.Dense(8)(layers.Flatten()(x))
    layer = StableODELayer(
        LeakyTanh(0.2), norm="inf", delta_bar=0.0, solver=Euler(4)
    )
    return layer(x)


def convolutional_ode(x):
    x = layers.Conv2D(4, 3, strides=2, activation="relu")(x)
    x = layers.MaxPooling2D(padding="same")(layers.BatchNormalization()(x))
    return StableODELayer(solver=SSPRungeKutta3(3))(layers.Flatten()(x))


def residual(x):
    x = layers.Conv2D(4, 2, strides=2)(x)
    y = layers.Conv2D(4, 3, padding="same", activation="gelu")(x)
    x = layers.Concatenate()([layers.Add()([x, y]), y])
    return layers.GlobalAveragePooling2D()(x)


@pytest.fixture(
    scope="module",
    params=[(dense_ode, 2), (convolutional_ode, 3), (residual, 1)],
)
def trained(request):
    architecture, classes = request.param
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    model = keras.Model(image, layers.Dense(classes)(architecture(image)))
    return with_readout(model, *data())


def test_no_attack_gets_below_the_certified_accuracy(trained):
    images, labels = data()
    classes, radii = certified_radii(trained, images, norm="inf")
    assert np.mean(classes == labels) > 0.8 and np.median(radii) > 0.0
    epsilons = [float(np.quantile(radii, q)) for q in (0.2, 0.5, 0.8)] + [0.3]
    curve = certified_accuracy(trained, images, labels, epsilons, norm="inf")
    assert curve.holds_for.startswith("∞-norm, ")
    strongest = WorstCase([FGSM(), PGD(steps=20, restarts=1, loss="cw")])

    def two_logits(x):
        logits = trained(x)
        if logits.shape[1] == 1:
            logits = tf.concat([tf.zeros_like(logits), logits], 1)
        return logits

    result = strongest(two_logits, images, labels, epsilons)
    assert np.all(result.right.mean(axis=1) >= curve.accuracies)
    held = (radii[None] > np.array(epsilons)[:, None]) & (classes == labels)
    assert np.all(result.right[held])
    # One call for all radii says what one for each says, and the bisection.
    np.testing.assert_allclose(curve.accuracies, held.mean(1), atol=0.03)


def test_exported_models_answer_the_radius_too(trained, tmp_path):
    images, _ = data()
    save_classifier(trained, tmp_path)
    exported = load_classifier(tmp_path)
    answers = exported.certify(images)
    classes, radii = certified_radii(trained, images, norm="inf")
    np.testing.assert_array_equal(answers["label"], classes)
    np.testing.assert_allclose(
        answers["certified_radius_inf"], radii, rtol=5 * (STEP - 1), atol=1e-6
    )
    alone = exported.certify(images[:3])["certified_radius_inf"]
    np.testing.assert_array_equal(alone, answers["certified_radius_inf"][:3])


def test_an_export_names_the_layer_that_carries_no_box(tmp_path):
    image = keras.Input((4,))
    hidden = DeepODELayer((4,), name="deep")(image)
    model = keras.Model(image, layers.Dense(2)(hidden))
    with pytest.warns(UserWarning, match="certified_radius_inf: .*deep"):
        save_classifier(model, tmp_path)
    answers = load_classifier(tmp_path).certify(np.zeros((1, 4)))
    assert "certified_radius_inf" not in answers


def linear(weights, dtype="float64"):
    model = keras.Sequential(
        [
            keras.Input((len(weights),), dtype=dtype),
            layers.Dense(weights.shape[1], use_bias=False, dtype=dtype),
        ]
    )
    model.set_weights([weights])
    return model


def test_radii_of_linear_classifiers_are_exact():
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(5, 4))
    x = generator.uniform(size=(50, 5))
    model = linear(weights)
    labels, radii = certified_radii(model, x, norm="inf", bounds=None)
    apart = weights[:, :, None] - weights[:, None, :]
    own = apart[:, labels].transpose(1, 0, 2)
    margins = np.einsum("nd,ndk->nk", x, own)
    norms = np.abs(own).sum(1)
    exact = np.min(np.where(norms, margins / np.where(norms, norms, 1), 9), 1)
    np.testing.assert_array_equal(labels, (x @ weights).argmax(1))
    assert np.all(radii <= exact)
    np.testing.assert_allclose(radii, exact, rtol=2 * (STEP**2 - 1))
    # With bounds: the worst image of the box is one of its corners.
    labels, radii = certified_radii(model, x, norm="inf")
    for i, radius in enumerate(radii):
        for factor, holds in ((1.0, True), (STEP**2, False)):
            reach = min(radius, 2.0) * factor
            low, high = np.maximum(x[i] - reach, 0), np.minimum(x[i] + reach, 1)
            corner = np.where(own[i] > 0, low[:, None], high[:, None])
            worst = np.einsum("dk,dk->k", corner, own[i])
            worst = np.delete(worst, labels[i]).min()
            assert (worst > 0) == holds or not np.isfinite(radius)
    assert np.all(np.isfinite(radii) | (radii > 1.0))


def test_brute_force_in_the_plane_finds_nothing_inside():
    x = np.random.default_rng(0).uniform(size=(200, 2)).astype(np.float32)
    y = (x[:, 1] > 0.5 + 0.25 * np.sin(6.0 * x[:, 0])).astype(int)
    keras.utils.set_random_seed(3)
    image = keras.Input((2,))
    normal = keras.initializers.RandomNormal(stddev=1.0, seed=1)
    hidden = layers.Dense(
        12, "tanh", kernel_initializer=normal, bias_initializer=normal
    )
    ode = StableODELayer(solver=Euler(5), norm="inf", delta_bar=0.0)
    model = keras.Model(image, layers.Dense(2)(ode(hidden(image))))
    with_readout(model, x, y, ridge=0.03)
    labels, radii = certified_radii(model, x, norm="inf")
    ticks = np.linspace(0.0, 1.0, 201, dtype=np.float32)
    grid = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
    classes = model(grid).numpy().argmax(1)
    apart = np.abs(grid[None] - x[:, None]).max(-1)
    true = np.where(classes != labels[:, None], apart, np.inf).min(1)
    assert np.mean(labels == y) > 0.7 and np.all(radii < true)
    assert np.median(radii / true) > 0.2


def test_rounding_errors_of_the_network_are_inside():
    """Margins in float64 that float32 turns round are not certified."""
    weights = np.ones((1001, 2))
    weights[:, 1] = np.random.default_rng(0).permutation(
        np.repeat([1.0 + 1e-7, 1.0 - 1e-7], [501, 500])
    )
    x = np.ones((20, 1001), np.float32)
    said = {}
    for dtype in ("float32", "float64"):
        model = linear(weights, dtype)
        said[dtype] = certified_accuracy(
            model, x.astype(dtype), np.ones(20, int), [0.0], norm="inf"
        )
        assert dtype in said[dtype].holds_for
    assert said["float64"].accuracies == [1.0]
    assert said["float32"].accuracies == [0.0]


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_computed_margins_are_not_below_their_bounds(scale):
    keras.utils.set_random_seed(0)
    image = keras.Input((6,))
    state = layers.Dense(8, "relu", bias_initializer="normal")(image)
    state = StableODELayer(bias_initializer="normal")(state)
    model = keras.Model(image, layers.Dense(3)(state))
    bounds = certifier(model, norm="inf", bounds=None)
    assert bounds.holds_for == "∞-norm, float32 arithmetic as computed"
    x = scale * np.random.default_rng(0).normal(size=(200, 6))
    x = x.astype(np.float32)
    logits = model(x).numpy().astype(np.float64)
    classes = logits.argmax(1)
    point = tf.constant(x, tf.float64)
    box = Box(point, tf.zeros_like(point), 2.0**-24)
    lower = bounds.margins(box, tf.constant(classes)).numpy()
    computed = logits.max(1, keepdims=True) - logits
    assert np.all(lower <= computed)
    assert np.all(lower >= computed - 1e-3 * scale)


def test_a_data_set_says_what_arrays_say():
    model = linear(np.random.default_rng(0).normal(size=(4, 3)), "float32")
    x = np.random.default_rng(1).uniform(size=(10, 4)).astype(np.float32)
    y = np.arange(10) % 3
    stream = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    for norm in ("2", "inf"):
        options = {"radii": [0.0, 0.05], "norm": norm}
        expected = certified_accuracy(model, x, y, **options)
        found = certified_accuracy(model, stream, None, **options)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(
            certified_radii(model, stream, norm=norm),
            certified_radii(model, x, norm=norm, batch_size=3),
        )
    with pytest.raises(ValueError, match="`labels` must be None"):
        certified_accuracy(model, stream, y, [0.1])


def test_a_constant_network_has_infinite_radii():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    model.set_weights([np.zeros((4, 3)), np.arange(3.0)])
    labels, radii = certified_radii(model, np.full((2, 4), 0.5), norm="inf")
    assert labels.tolist() == [2, 2] and np.all(np.isinf(radii))
    model.set_weights([np.zeros((4, 3)), np.zeros(3)])
    assert certified_radii(model, np.ones((1, 4)), norm="inf")[1] == [0.0]
    assert certified_radii(model, np.ones((0, 4)), norm="inf")[1].shape == (0,)


def test_weights_that_are_set_later_count():
    model = linear(np.eye(2))
    bounds = certifier(model, norm="inf", bounds=None)
    logits = tf.constant([[1.0, 0.0]])
    before = bounds(np.array([[1.0, 0.0]]), logits).numpy()
    model.set_weights([10.0 * np.eye(2)])
    np.testing.assert_allclose(before, 0.5, rtol=2 * (STEP**2 - 1))
    np.testing.assert_allclose(
        bounds(np.array([[0.1, 0.0]]), logits).numpy(), before / 10, rtol=1e-3
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"norm": "3"}, "`norm` must be '2' or 'inf'"),
        ({"norm": "inf", "bounds": (1.0, 0.0)}, "`bounds` must be None or two"),
        ({"norm": "inf", "bounds": (0.0,)}, "`bounds` must be None or two"),
        ({"norm": "inf", "bounds": (0.0, 0.5)}, r"must lie in \[0, 0.5\]"),
    ],
)
def test_other_norms_and_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        certified_radii(linear(np.eye(3)), np.ones((1, 3)), **options)
