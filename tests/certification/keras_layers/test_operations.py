"""Operations of Keras in functional models, and models inside models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf.certification import certifier

layers, ops = keras.layers, keras.ops
SHAPE = (4, 4, 2)
STEPS = [np.float32(0.2), np.array([0.5, 0.4], np.float32)]


def model_of(function, dtype="float32"):
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE, dtype=dtype)
    answer = layers.Flatten(dtype=dtype)(function(image))
    return keras.Model(image, layers.Dense(2, dtype=dtype)(answer))


def steepest(model):
    generator = np.random.default_rng(0)
    images = tf.constant(generator.normal(size=(200, *SHAPE)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = model(images, training=False)
        difference = logits[:, 0] - logits[:, 1]
    slopes = tape.gradient(difference, images).numpy().reshape(200, -1)
    return np.linalg.norm(slopes, axis=1).max()


def two_inputs(x):
    first, second = keras.Input(SHAPE), keras.Input(SHAPE)
    inner = keras.Model([first, second], first - 3.0 * second)
    return inner([inner((x, -x)), x])  # shared; x + 3x - 3x


def inputs_by_name(x):
    first, second = keras.Input(SHAPE, name="z"), keras.Input(SHAPE, name="a")
    inner = keras.Model({"z": first, "a": second}, first - 3.0 * second)
    return inner({"z": x, "a": 0.0 * x})


def two_outputs(x):
    entry = keras.Input(SHAPE)
    inner = keras.Model(entry, [2.0 * entry, ops.relu(entry)])
    return inner(x)[0]


AFFINE = [  # function, and its Lipschitz constant over its bound
    (lambda x: x + x, 1.0),
    (lambda x: x - layers.Rescaling(-0.5)(x), 1.0),
    (lambda x: 2.0 * x, 1.0),
    (lambda x: x * STEPS[1], 0.8),
    (lambda x: 1.0 - x / 255.0, 1.0),
    (lambda x: (x - STEPS[1]) / STEPS[0], 1.0),
    (lambda x: -x, 1.0),
    (lambda x: x[:, 1:, ::2], 1.0),
    (lambda x: x[..., 0], 1.0),
    (lambda x: ops.flip(x, 1), 1.0),
    (lambda x: ops.reshape(x, (-1, 2, 16)), 1.0),
    (lambda x: ops.transpose(x, (0, 3, 1, 2)), 1.0),
    (lambda x: ops.squeeze(ops.expand_dims(x, 1), 1), 1.0),
    (lambda x: ops.swapaxes(x, 1, 3), 1.0),
    (lambda x: ops.moveaxis(x, 1, 3), 1.0),
    (lambda x: ops.repeat(x, 3, axis=1), 0.1),
    (lambda x: ops.pad(x, [[0, 0], [1, 1], [0, 2], [0, 0]]), 0.1),
    (lambda x: ops.pad(x, [[0, 0], [2, 2], [0, 0], [0, 0]], "symmetric"), 0.1),
    (lambda x: ops.concatenate([x, 2.0 * x], axis=-1), 0.1),
    (two_inputs, 0.1),
    (inputs_by_name, 1.0),
    (two_outputs, 1.0),
]
OTHERS = [
    abs,
    lambda x: ops.clip(x, -0.5, 0.5),
    lambda x: ops.maximum(x, 0.0),
    lambda x: ops.minimum(x, 1.5 * x),
    lambda x: ops.elu(x, 3.0),
    lambda x: ops.leaky_relu(x, -2.0),
    lambda x: ops.gelu(x, approximate=False),
    lambda x: keras.activations.relu(x, negative_slope=0.1, max_value=1.0),
    *(
        getattr(ops, name)
        for name in (
            "relu relu6 celu selu tanh sigmoid log_sigmoid softplus softsign "
            "tanh_shrink soft_shrink squareplus sparse_plus sparse_sigmoid "
            "gelu silu hard_sigmoid hard_silu hard_tanh softmax"
        ).split()
    ),
]


@pytest.mark.parametrize("function, least", AFFINE)
def test_affine_operations(function, least):
    model = model_of(function)
    bound = certifier(model).pair_lipschitz[0, 1]
    assert least * bound * (1 - 1e-5) < steepest(model) <= bound * (1 + 1e-6)


def test_other_operations():
    for function in OTHERS:
        model = model_of(function)
        bound = certifier(model).pair_lipschitz[0, 1]
        name = getattr(function, "__name__", "")
        assert 0.2 * bound < steepest(model) <= bound * (1 + 1e-6), name


def test_rounding_of_operations_is_bounded():
    def network(dtype):
        def graph(x):
            y = ops.relu(layers.Dense(16, dtype=dtype)(x[:, 1:]))
            z = layers.Dense(16, dtype=dtype)(ops.flip(x, 2)[:, 1:]) / 3.0
            x = 0.3 * (y + z) - ops.maximum(y, z)
            return ops.concatenate([x, -y], axis=-1)

        return model_of(graph, dtype)

    model, exact = network("float32"), network("float64")
    exact.set_weights(model.get_weights())
    bounds = certifier(model)
    assert bounds.holds_for == "2-norm, float32 arithmetic as computed"
    x = np.random.default_rng(0).normal(size=(300, *SHAPE)).astype(np.float32)
    error = model(x).numpy() - exact(x.astype(np.float64)).numpy()
    error = np.abs(error[:, 0] - error[:, 1])
    norms = np.linalg.norm(x.reshape(300, -1), axis=1)
    allowed = bounds.offset[0, 1] + bounds.slope[0, 1] * norms
    assert 1e-4 * allowed.max() < error.max() and np.all(error <= allowed)


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda x: x * x, "it multiplies tensors"),
        (lambda x: x / (x + 2.0), "divides by a tensor"),
        (lambda x: 1.0 / x, "true_divide.*called with x1=1.0"),
        (lambda x: ops.exp(x), "known for Keras operation.*type Exp"),
        (lambda x: ops.softmax(x, axis=0), "mix the images"),
        (lambda x: ops.concatenate([x, x]), "mix the images"),
        (lambda x: ops.flip(x), "mix the images"),
        (lambda x: ops.reshape(x, (-1, 16)), "mix the images"),
        (lambda x: x[0], "mix the images"),
        (lambda x: x[:, :1] + np.ones((4, 1, 1)), "must not repeat.*4, 1, 1"),
        (lambda x: x + x[:, :1], "of one shape"),
        (
            lambda x: ops.pad(
                x, [[0, 0], [1, 1]] + [[0, 0]] * 2, "constant", 3.0
            ),
            "called with constant_values=3.0",
        ),
    ],
)
def test_what_has_no_bound_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        certifier(model_of(function))
