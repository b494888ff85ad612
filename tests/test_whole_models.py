"""Models are certified and exported as they compute, or refused by name."""

import contextlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import Euler, LeakyTanh, StableODELayer
from stable_node_tf.certification.certifier import (
    certified_accuracy,
    certified_radii,
)
from stable_node_tf.saved_model import load_classifier, save_classifier

SHAPE = (2, 2, 1)


def images(count=6):
    generator = np.random.default_rng(0)
    return generator.uniform(size=(count, *SHAPE)).astype(np.float32)


def hidden(name="hidden"):
    return keras.layers.Dense(5, name=name, bias_initializer="normal")


def head(units=3, activation=None, **options):
    return keras.layers.Dense(
        units, activation, name="head", bias_initializer="normal", **options
    )


def functional(*layers, image=None):
    """A functional model of layers, or of functions, one after the other."""
    image = keras.Input(SHAPE, name="image") if image is None else image
    x = keras.layers.Flatten()(image)
    for layer in layers:
        x = layer(x)
    return keras.Model(image, x)


def written_out(logits):
    powers = tf.exp(logits)
    return powers / tf.reduce_sum(powers, -1, keepdims=True)


def in_training(layer):
    return lambda x: layer(x, training=True)


def in_containers(pack):
    image = keras.Input(SHAPE, name="image")
    logits = head()(hidden()(keras.layers.Flatten()(image)))
    return keras.Model(pack("image", image), pack("logits", logits))


def with_two(*, inputs=1, outputs=1):
    given = [keras.Input(SHAPE, name=f"image_{i}") for i in range(inputs)]
    flat = [keras.layers.Flatten()(image) for image in given]
    x = flat[0] if inputs == 1 else keras.layers.Concatenate()(flat)
    made = [keras.layers.Dense(3, name=f"head_{i}")(x) for i in range(outputs)]
    return keras.Model(given, made)


def nested(*, dtype="float32", within=lambda inner: inner):
    entry = keras.Input((4,), dtype=dtype, name="entry")
    inner = keras.Model(
        entry, hidden()(keras.layers.Dropout(0.5)(entry)), name="inner"
    )
    return functional(within(inner), head())


def replaced(layer, name="call"):
    """The layer, which computes three times what it did."""
    method = getattr(layer, name)
    setattr(layer, name, lambda *a, **k: 3.0 * method(*a, **k))
    return layer


def ode(solver=None, activation="leaky_tanh"):
    layer = StableODELayer(activation, solver=solver or Euler(2), name="ode")
    return functional(layer, head())


@keras.saving.register_keras_serializable(package="tests")
class Tripled(Euler):
    def _step(self, *arguments):
        state, count = super()._step(*arguments)
        return 3.0 * state, count


@keras.saving.register_keras_serializable(package="tests")
class OwnCall(keras.Model):
    def call(self, inputs, training=None):
        return 3.0 * super().call(inputs, training=training)


@keras.saving.register_keras_serializable(package="tests")
class OwnInputs(keras.Model):
    def _standardize_inputs(self, inputs):
        return [3.0 * x for x in super()._standardize_inputs(inputs)]


def of_type(kind):
    model = functional(hidden(), head())
    return kind(model.inputs, model.outputs)


def wrapped(inner):
    image = keras.Input(SHAPE, name="image")
    return keras.Model(image, inner(image))


def replaced_solver():
    solver = Euler(2)
    vars(solver)["_step"] = lambda *arguments: (arguments[-1], 1)
    return ode(solver)


def replaced_activation():
    activation = LeakyTanh(0.1)
    vars(activation)["value_and_slope"] = lambda x: (3 * x, tf.ones_like(x))
    return ode(activation=activation)


LINEAR = {
    "plain": lambda: functional(hidden(), head()),
    "one logit": lambda: functional(hidden(), head(1)),
    "one logit, no bias": lambda: functional(head(1, use_bias=False)),
    "dictionaries": lambda: in_containers(lambda name, x: {name: x}),
    "lists": lambda: in_containers(lambda _, x: [x]),
    "nested": nested,
    "nested row": lambda: functional(
        keras.Sequential([keras.Input((4,)), hidden(), head()])
    ),
    "nested twice": lambda: functional(
        keras.Sequential(
            [keras.Input((4,)), keras.Sequential([keras.Input((4,)), hidden()])]
        ),
        head(1),
    ),
    "fixed batch": lambda: functional(
        hidden(), head(), image=keras.Input(SHAPE, batch_size=6, name="image")
    ),
    "training=False": lambda: functional(
        lambda x: keras.layers.Dropout(0.5)(x, training=False), head()
    ),
}
# The model, whom the certifier refuses, and whom the export: None if it takes
# the model.
OTHERS = {
    "softmax": (
        lambda: functional(head(3, "softmax")),
        "'head' of type Dense with activation softmax",
        "'head' of type Dense, with softmax",
    ),
    "sigmoid": (
        lambda: functional(head(1, "sigmoid")),
        "'head' of type Dense with activation sigmoid",
        "'head' of type Dense, with sigmoid",
    ),
    "softmax layer": (
        lambda: functional(head(), keras.layers.Softmax(name="end")),
        "'end' of type Softmax",
        "'end' of type Softmax",
    ),
    "softmax activation, reshaped": (
        lambda: functional(
            head(),
            keras.layers.Activation("softmax", name="end"),
            keras.layers.Reshape((3,)),
        ),
        "'end' of type Activation with activation softmax",
        "'end' of type Activation, with softmax",
    ),
    "softmax operation": (
        lambda: functional(head(), keras.ops.softmax),
        "operation 'softmax.*' of type Softmax",
        "operation 'softmax.*' of type Softmax",
    ),
    "softmax inside": (
        lambda: functional(
            keras.Sequential([keras.Input((4,)), head(3, "softmax")])
        ),
        "'head'",
        "'head'",
    ),
    "softmax unseen": (
        lambda: functional(
            head(), keras.layers.Lambda(tf.nn.softmax, name="unseen")
        ),
        "'unseen' of type Lambda",
        "operation Softmax, at the end",
    ),
    "softmax written out": (
        lambda: functional(
            head(), keras.layers.Lambda(written_out, name="unseen")
        ),
        "'unseen' of type Lambda",
        "numbers that sum to 1.000",
    ),
    "sigmoid unseen": (
        lambda: functional(
            head(1), keras.layers.Lambda(tf.sigmoid, name="unseen")
        ),
        "'unseen' of type Lambda",
        "operation Sigmoid, at the end",
    ),
    "squared": (
        lambda: functional(lambda x: x * x, head()),
        "Keras operation 'multiply.*' of type Multiply",
        None,
    ),
    "summed up": (
        lambda: functional(lambda x: keras.ops.cumsum(x, 1), head()),
        "Keras operation 'cumsum.*' of type Cumsum",
        None,
    ),
    "operation exp": (
        lambda: functional(hidden(), keras.ops.exp, head()),
        "Keras operation 'exp.*' of type Exp",
        None,
    ),
    "added": (
        lambda: functional(lambda x: keras.layers.Add(name="sum")([x, x])),
        "end with a Dense layer.*'sum' of type Add",
        None,
    ),
    "two inputs": (
        lambda: with_two(inputs=2),
        "2 inputs .'image_0', 'image_1'",
        "2 inputs .'image_0', 'image_1'",
    ),
    "two outputs": (
        lambda: with_two(outputs=2),
        "2 outputs .'head_0', 'head_1'",
        "2 outputs .'head_0', 'head_1'",
    ),
    **{
        f"{type(layer).__name__} in training": (
            lambda layer=layer: functional(in_training(layer), head()),
            f"type {type(layer).__name__}, called with training=True",
            f"type {type(layer).__name__}, called with training=True",
        )
        for layer in (
            keras.layers.Dropout(0.5),
            keras.layers.GaussianNoise(0.5),
            keras.layers.BatchNormalization(),
        )
    },
    "nested in training": (
        lambda: nested(within=in_training),
        "'inner' of type Functional, called with training=True",
        "'inner' of type Functional, called with training=True",
    ),
    "nested that rounds": (
        lambda: nested(dtype="int32"),
        "'entry' of type InputLayer, which casts to int32",
        None,
    ),
    "replaced call": (
        lambda: functional(replaced(hidden()), head()),
        "'hidden' of type Dense, whose `call` was replaced",
        None,
    ),
    "replaced call of Flatten": (
        lambda: functional(replaced(keras.layers.Flatten(name="flat")), head()),
        "'flat' of type Flatten, whose `call` was replaced",
        None,
    ),
    "replaced call of a nested model": (
        lambda: nested(within=replaced),
        "'inner' of type Functional",
        None,
    ),
    "replaced call of the model": (
        lambda: replaced(functional(head())),
        "a replaced `call`",
        None,
    ),
    "call of its own": (
        lambda: of_type(OwnCall),
        "type OwnCall, which has a `call` of its own",
        None,
    ),
    "inputs of its own": (
        lambda: of_type(OwnInputs),
        "type OwnInputs, which has a `_standardize_inputs` of its own",
        None,
    ),
    "nested call of its own": (
        lambda: wrapped(of_type(OwnCall)),
        "of type OwnCall",
        None,
    ),
    "subclass of Euler": (
        lambda: ode(Tripled(2)),
        "solver of layer 'ode'",
        None,
    ),
    "replaced step": (
        replaced_solver,
        "layer 'ode'.* class Euler .*a replaced _step",
        None,
    ),
    "replaced activation": (
        replaced_activation,
        "layer 'ode'.* class LeakyTanh .*a replaced value_and_slope",
        None,
    ),
}
# A file keeps neither what was replaced nor, unasked, a function's code.
IN_MEMORY_ONLY = [
    name
    for name in OTHERS
    if any(word in name for word in ("replaced", "unseen", "written"))
]


def as_loaded(model, directory):
    model.save(directory / "model.keras")
    return keras.saving.load_model(directory / "model.keras")


def made_and_loaded(name, directory):
    """A model of `OTHERS`, and what a file makes of it if that keeps it."""
    model = OTHERS[name][0]()
    if name in IN_MEMORY_ONLY:
        return [model]
    return [model, as_loaded(model, directory)]


def as_affine(model):
    """W and b of x -> xW + b, from the model's weights alone."""
    kernels = [w.numpy() for w in model.weights if w.name == "kernel"]
    biases = [w.numpy() for w in model.weights if w.name == "bias"]
    W, b = np.eye(4), np.zeros(4)
    for i, kernel in enumerate(kernels):
        W, b = W @ kernel, b @ kernel
        if i < len(biases):
            b = b + biases[i]
    return W, b


def exact(W, b, x):
    """Classes and distances to the nearest boundary of a linear classifier."""
    if W.shape[1] == 1:
        W, b = np.pad(W, ((0, 0), (1, 0))), np.pad(b, (1, 0))
    logits = x.reshape(len(x), -1) @ W + b
    rows, classes = np.arange(len(x)), logits.argmax(1)
    apart = np.linalg.norm(W[:, classes][:, :, None] - W[:, None], axis=0)
    leads = logits[rows, classes][:, None] - logits
    leads[rows, classes] = np.inf
    apart[rows, classes] = 1.0
    return logits, classes, (leads / apart).min(1)


@contextlib.contextmanager
def warning_of_a_certificate(*, expected):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said = [str(warned.message) for warned in caught]
    assert any("no signature certify" in text for text in said) == expected


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_models_have_exact_radii(name, saved, tmp_path):
    keras.utils.set_random_seed(1)
    model = LINEAR[name]()
    if saved:
        model = as_loaded(model, tmp_path)
    x = images()
    _, classes, distances = exact(*as_affine(model), x)
    labels, radii = certified_radii(model, x)
    np.testing.assert_array_equal(labels, classes)
    # The bound of a product of layers is that of the product of their norms.
    single = len([w for w in model.weights if w.name == "kernel"]) == 1
    assert np.all(radii < distances)
    assert np.all(radii > (0.999 if single else 0.3) * distances)
    curve = certified_accuracy(model, x, classes, [0.0, radii.max()])
    assert curve.clean_accuracy == 1.0
    assert curve.accuracies.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    "name", ["one logit", "dictionaries", "lists", "nested twice"]
)
def test_exports_of_linear_models(name, tmp_path):
    keras.utils.set_random_seed(1)
    model, x = LINEAR[name](), images()
    with warning_of_a_certificate(expected=False):
        exported = load_classifier(save_classifier(model, tmp_path))
    logits, classes, distances = exact(*as_affine(model), x)
    answers = exported.certify(x)
    powers = np.exp(logits)
    np.testing.assert_array_equal(answers["label"], classes)
    np.testing.assert_allclose(
        answers["probabilities"],
        powers / powers.sum(1, keepdims=True),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        answers["logits"], logits[:, -model.outputs[0].shape[-1] :], rtol=1e-4
    )
    radii = certified_radii(model, x)[1]
    assert np.all(answers["certified_radius"] < distances)
    np.testing.assert_allclose(answers["certified_radius"], radii, rtol=1e-4)


@pytest.mark.parametrize("name", OTHERS)
def test_the_certifier_names_whom_it_refuses(name, tmp_path):
    _, culprit, _ = OTHERS[name]
    for model in made_and_loaded(name, tmp_path):
        with pytest.raises(ValueError, match=culprit):
            certified_radii(model, images())
        with pytest.raises(ValueError, match=culprit):
            certified_accuracy(model, images(), [0] * 6, [0.1])


@pytest.mark.parametrize("name", [n for n in OTHERS if OTHERS[n][2]])
def test_the_export_names_whom_it_refuses(name, tmp_path):
    _, _, culprit = OTHERS[name]
    for model in made_and_loaded(name, tmp_path):
        with pytest.raises(ValueError, match=culprit):
            save_classifier(model, tmp_path / "exported")


# One of each way in which the certifier comes to refuse.
EXPORTED = [
    *("squared", "added", "nested that rounds", "subclass of Euler"),
    *("replaced call", "replaced call of a nested model"),
    *(
        "replaced call of the model",
        "call of its own",
        "nested call of its own",
    ),
]


@pytest.mark.parametrize("name", EXPORTED)
def test_the_export_takes_other_models_without_a_certificate(name, tmp_path):
    model, x = OTHERS[name][0](), 3 * images()
    with warning_of_a_certificate(expected=True):
        exported = load_classifier(save_classifier(model, tmp_path))
    np.testing.assert_allclose(exported(x), model(x), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="signature certify"):
        exported.certify(x)
