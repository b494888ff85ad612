"""No computed answer to a point of a box is outside the box of a layer."""

import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import (
    CustomActivation,
    DeepODELayer,
    Euler,
    LeakyTanh,
    PiecewiseODELayer,
    SmoothLeakyReLU,
    StableODELayer,
)
from stable_node_tf.certification import register_activation
from stable_node_tf.certification.boxes import Box
from stable_node_tf.certification.rules import box_after
from stable_node_tf.solvers import SSPRungeKutta3

layers, functions = keras.layers, keras.activations
UNIT = 2.0**-24
NORMAL = {
    "kernel_initializer": "normal",
    "bias_initializer": "normal",
}


def random_box(shape, seed=0, scale=1.0, width=1.0):
    """Ends of a box in float32, some of its ranges empty or tiny."""
    generator = np.random.default_rng(seed)
    lower = scale * generator.normal(size=(1, *shape)).astype(np.float32)
    widths = width * generator.choice([0.0, 1e-3, 0.3, 2.0], size=lower.shape)
    return lower, (lower + widths).astype(np.float32)


def points(lower, upper, count=1500, seed=1):
    """Points inside, and as many corners."""
    generator = np.random.default_rng(seed)
    share = generator.uniform(size=(count, *lower.shape[1:]))
    inside = lower + share * (upper.astype(np.float64) - lower)
    inside = np.clip(inside.astype(np.float32), lower, upper)
    corners = np.where(share > 0.5, upper, lower)
    return np.concatenate([inside, corners])


def box_of(*ends):
    lower, upper = (tf.constant(end, tf.float64) for end in ends)
    return Box.between(lower, upper, UNIT)


def compiled(layer, *boxes):
    """Ends and unit of the box after a layer, from a graph."""

    @tf.function(autograph=False)
    def ends(tensors):
        box = box_after(layer, [Box(*pair, UNIT) for pair in tensors])
        return *box.ends, tf.constant(box.unit, tf.float64)

    given = [box_of(*pair)[:2] for pair in boxes]
    return [tensor.numpy() for tensor in ends(given)]


def check(layer, *boxes, function=None):
    """Compares answers in float32 with the box; returns how much they fill."""
    given = [tf.constant(points(*ends)) for ends in boxes]
    if function is None:
        answers = layer(given if len(given) > 1 else given[0]).numpy()
    else:
        answers = function(*given).numpy()
    assert answers.dtype == np.float32
    lower, upper, unit = compiled(layer, *boxes)
    # Rounding errors are not in boxes of real arithmetic.
    room = 0.0 if unit else 1e-6 * np.abs(answers).max()
    assert unit in (0.0, UNIT)
    assert np.all(lower - room <= answers) and np.all(answers <= upper + room)
    spread = answers.max(0, keepdims=True) - answers.min(0, keepdims=True)
    wide = upper - lower > 1e-3
    shares = spread[wide] / (upper - lower)[wide]
    return np.median(shares) if wide.any() else 1.0


OPERATIONS = [
    keras.ops.add,
    keras.ops.subtract,
    keras.ops.maximum,
    keras.ops.minimum,
    lambda x, y: keras.ops.concatenate([x, y], axis=-1),
    keras.ops.relu,
    lambda x: keras.ops.leaky_relu(x, 0.3),
    lambda x: keras.ops.gelu(x, approximate=True),
    lambda x: keras.ops.flip(x, 1),
    lambda x: keras.ops.reshape(x, (-1, 4, 3)),
    lambda x: keras.ops.repeat(x, 2, axis=1),
]


@pytest.mark.parametrize("function", OPERATIONS)
def test_operations(function):
    count = len(inspect.signature(function).parameters)
    count = 1 if function is keras.ops.relu else min(count, 2)
    symbols = [keras.KerasTensor((None, 3, 4)) for _ in range(count)]
    operation = function(*symbols)._keras_history.operation
    given = [random_box((3, 4), seed) for seed in range(count)]
    assert check(operation, *given, function=function) > 0.15


def test_operations_with_numbers_are_refused():
    operation = keras.ops.add(keras.KerasTensor((None, 2)), 1.0)
    operation = operation._keras_history.operation
    with pytest.raises(ValueError, match="other arguments than tensors"):
        box_after(operation, [box_of(*random_box((2,)))], x2=1.0)


LAYERS = [
    (layers.Dense(3, **NORMAL), (5,)),
    (layers.Dense(3, "relu", **NORMAL), (2, 4)),
    (layers.Dense(3, "gelu", use_bias=False), (4,)),
    (layers.Dense(3, LeakyTanh(0.2), **NORMAL), (4,)),
    (layers.Dense(3, layers.LeakyReLU(0.3), **NORMAL), (4,)),
    (layers.Conv1D(3, 3, padding="causal", **NORMAL), (6, 2)),
    (layers.Conv1D(4, 2, groups=2, strides=2, **NORMAL), (6, 2)),
    (layers.Conv2D(3, 3, padding="same", activation="relu"), (4, 5, 2)),
    (layers.Conv2D(2, 2, strides=2, **NORMAL), (4, 6, 1)),
    (layers.Conv2D(2, 2, dilation_rate=2, **NORMAL), (4, 6, 1)),
    (layers.Conv3D(2, 2, **NORMAL), (3, 3, 2, 1)),
    (layers.Conv1DTranspose(2, 3, strides=2, **NORMAL), (4, 3)),
    (layers.Conv2DTranspose(2, 2, **NORMAL), (3, 3, 2)),
    (layers.DepthwiseConv1D(2, depth_multiplier=2), (5, 2)),
    (layers.DepthwiseConv2D(2, bias_initializer="normal"), (4, 4, 2)),
    (layers.SeparableConv1D(3, 2, bias_initializer="normal"), (5, 2)),
    (layers.SeparableConv2D(3, 2, activation="silu"), (4, 4, 2)),
    (layers.AveragePooling1D(2), (6, 2)),
    (layers.AveragePooling2D(3, 2, padding="same"), (5, 5, 1)),
    (layers.GlobalAveragePooling2D(), (3, 3, 2)),
    (layers.MaxPooling1D(3, 1), (6, 2)),
    (layers.MaxPooling2D(2, padding="same"), (5, 5, 2)),
    (layers.GlobalMaxPooling1D(), (6, 2)),
    (layers.Rescaling(-0.3, 0.7), (4, 2)),
    (layers.Rescaling([0.5, -2.0], [0.5, 3.0]), (4, 2)),
    (layers.Normalization(mean=[3.0, 1.0], variance=[0.2, 9.0]), (4, 2)),
    (layers.Normalization(mean=3.0, variance=0.3, invert=True), (4, 2)),
    (layers.Flatten(), (3, 2)),
    (layers.Reshape((2, 3)), (3, 2)),
    (layers.Permute((2, 1)), (3, 2)),
    (layers.Dropout(0.5), (4,)),
    (layers.GaussianNoise(0.5), (4,)),
    (layers.Cropping1D(1), (4, 2)),
    (layers.ZeroPadding2D(1), (2, 2, 1)),
    (layers.RepeatVector(3), (4,)),
    (layers.UpSampling2D(2), (2, 2, 1)),
    (layers.ReLU(negative_slope=0.3, max_value=1.0), (9,)),
    (layers.LeakyReLU(0.3), (9,)),
    (layers.ELU(), (9,)),
    (layers.PReLU(keras.initializers.RandomUniform(-2.0, 2.0)), (9,)),
]


@pytest.mark.parametrize("layer, shape", LAYERS)
def test_no_answer_is_outside(layer, shape):
    filled = check(layer, random_box(shape))
    # Random points and corners of many numbers come nowhere near all corners.
    assert filled > 0.15
    for seed, scale, width in ((1, 100.0, 1.0), (2, 1.0, 0.0)):
        check(layer, random_box(shape, seed, scale, width))


def test_batch_normalization_as_at_inference():
    generator = np.random.default_rng(0)
    for options in ({}, {"scale": False}, {"center": False}, {"axis": 1}):
        layer = layers.BatchNormalization(**options)
        layer.build((None, 3, 3))
        layer.set_weights([generator.uniform(size=3) for _ in layer.weights])
        assert check(layer, random_box((3, 3))) > 0.9


@pytest.mark.parametrize(
    "merge",
    [
        layers.Add(),
        layers.Average(),
        layers.Subtract(),
        layers.Concatenate(),
        layers.Maximum(),
        layers.Minimum(),
    ],
)
def test_merged_tensors(merge):
    shape = (3, 2)
    assert check(merge, random_box(shape), random_box(shape, seed=2)) > 0.3


@pytest.mark.parametrize(
    "function",
    [
        *(
            getattr(functions, name)
            for name in (
                "linear relu relu6 leaky_relu elu celu selu tanh sigmoid "
                "log_sigmoid softplus softsign tanh_shrink soft_shrink "
                "squareplus sparse_plus sparse_sigmoid gelu silu hard_sigmoid "
                "hard_silu hard_tanh mish"
            ).split()
        ),
        functools.partial(functions.relu, negative_slope=-2.0),
        functools.partial(functions.leaky_relu, negative_slope=-0.5),
        functools.partial(functions.elu, alpha=-1.5),
        SmoothLeakyReLU(0.3),
        LeakyTanh(0.2),
        CustomActivation(lambda x: 0.7 * x + tf.sin(x) / 5, alpha=0.5),
    ],
)
def test_ranges_of_activations_are_exact(function):
    """Ranges near all turns, from many points and both ends."""
    layer = layers.Activation(function, dtype="float64")
    generator = np.random.default_rng(0)
    middle = generator.uniform(-4.0, 4.0, 200)
    half = 10.0 ** generator.uniform(-3.0, 1.0, 200)
    lower, upper = middle - half, middle + half
    box = box_after(layer, [Box.between(*map(tf.constant, (lower, upper)))])
    grid = np.linspace(lower, upper, 2001)
    answers = np.asarray(layer(grid))
    low, high = (end.numpy() for end in box.ends)
    assert box.center.dtype == tf.float64
    assert np.all(low <= answers) and np.all(answers <= high)
    room = 1e-12 + 2e-3 * half
    assert np.all(answers.min(0) <= low + room)
    assert np.all(answers.max(0) >= high - room)


def ode(dim=6, spread=1.0, **options):
    layer = StableODELayer(
        kernel_initializer=keras.initializers.RandomNormal(
            stddev=spread, seed=0
        ),
        bias_initializer=keras.initializers.RandomNormal(stddev=1.0, seed=1),
        **options,
    )
    layer.build((None, dim))
    return layer


ODES = {
    "euler": {"solver": Euler(4)},
    "long steps": {"solver": Euler(2), "terminal_time": 5.0},
    "leaky tanh": {"solver": Euler(5), "activation": LeakyTanh(0.2)},
    "stable": {"solver": Euler(7), "norm": "inf", "delta_bar": 0.0},
    "line": {"solver": Euler(3), "activation": SmoothLeakyReLU(1.0)},
}


@pytest.mark.parametrize("name", ODES)
def test_no_solution_leaves_the_box(name):
    layer = ode(spread=0.4, **ODES[name])
    filled = [check(layer, random_box((6,), s, w)) for s, w in ((0, 1), (1, 4))]
    assert min(filled) > 0.1
    assert check(layer, random_box((6,), 2, 3.0, 0.0)) == 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"solver": SSPRungeKutta3(3)},
        {
            "solver": Euler(3),
            "activation": CustomActivation(tf.identity, alpha=0.9),
        },
    ],
)
def test_in_real_arithmetic(options):
    layer = ode(spread=0.4, dtype="float64", **options)
    lower, upper = random_box((6,))
    box = box_after(layer, [box_of(lower, upper)])
    assert box.unit == 0.0
    answers = layer(points(lower, upper).astype(np.float64)).numpy()
    assert np.all(np.abs(answers - box.center) <= box.radius)


def test_one_short_step_is_as_tight_as_its_derivative():
    """Small boxes: |I + hDA| ρ, entry by entry."""
    layer = ode(solver=Euler(1), terminal_time=0.3, dtype="float64")
    generator = np.random.default_rng(0)
    center = generator.normal(size=(1, 6))
    radius = 1e-6 * generator.uniform(size=(1, 6))
    box = box_after(layer, [Box(tf.constant(center), tf.constant(radius))])
    A, b = layer.kernel.numpy(), layer.bias.numpy()
    _, slopes = layer.activation.value_and_slope(center @ A.T + b)
    step = np.eye(6) + 0.3 * slopes.numpy().T * A
    np.testing.assert_allclose(box.radius, radius @ np.abs(step).T, rtol=1e-5)
    np.testing.assert_allclose(box.center, layer(center))


def test_a_layer_that_is_stable_in_the_norm_makes_no_box_wider():
    for solver in (Euler(1), Euler(30), SSPRungeKutta3(10)):
        layer = ode(norm="inf", delta_bar=0.0, solver=solver, terminal_time=0.2)
        box = box_of(*random_box((6,)))
        after = box_after(layer, [box])
        widest = tf.reduce_max(box.radius)
        assert tf.reduce_max(after.radius) <= widest * (1 + 1e-4)
    free = ode(spread=3.0)
    assert tf.reduce_max(box_after(free, [box]).radius) > 2.0 * widest


def test_pieces_in_time():
    layer = PiecewiseODELayer(StableODELayer(solver=Euler(3)), 2)
    assert check(layer, random_box((4,))) > 0.2


@pytest.mark.parametrize(
    "activation", [SmoothLeakyReLU(0.1), LeakyTanh(0.3), SmoothLeakyReLU(1.0)]
)
def test_slope_bounds_hold_and_are_attained(activation):
    generator = np.random.default_rng(0)
    lower = generator.uniform(-4.0, 3.0, 300)
    upper = lower + 10.0 ** generator.uniform(-3.0, 0.5, 300)
    least, most = activation.slope_bounds(*map(tf.constant, (lower, upper)))
    grid = np.linspace(lower, upper, 4001)
    slopes = activation.value_and_slope(grid)[1].numpy()
    assert np.all(slopes >= least - 1e-15) and np.all(slopes <= most + 1e-15)
    np.testing.assert_allclose(slopes.min(0), least, atol=1e-5)
    np.testing.assert_allclose(slopes.max(0), most, atol=1e-5)


class Bent(SmoothLeakyReLU):
    """Steep below 0 where the class it comes from is flat."""

    def value_and_slope(self, x):
        value, slope = super().value_and_slope(-x)
        return -value, slope

    def __call__(self, x):
        return self.value_and_slope(x)[0]


def test_a_subclass_is_not_believed_to_have_the_same_slopes():
    layer = ode(activation=Bent(0.1), solver=Euler(2), dtype="float64")
    lower, upper = random_box((6,))
    box = box_after(layer, [box_of(lower, upper)])
    answers = layer(points(lower, upper).astype(np.float64)).numpy()
    assert np.all(np.abs(answers - box.center) <= box.radius)


class Mirrored(layers.Layer):
    def call(self, inputs):
        return -inputs


@pytest.mark.parametrize(
    "layer, message",
    [
        (StableODELayer(solver="rk4", name="ode"), "'ode'.*RungeKutta4"),
        (StableODELayer(solver="dormand_prince"), "DormandPrince"),
        (StableODELayer(solver="implicit_midpoint"), "ImplicitMidpoint"),
        (
            DeepODELayer((4,), name="deep"),
            "Nothing is known in the ∞-norm about layer 'deep'",
        ),
        (layers.Softmax(name="soft"), "∞-norm about layer 'soft'"),
        (layers.Activation("softmax"), "activation softmax.*`turns`"),
        (layers.LayerNormalization(), "∞-norm about .* LayerNormalization"),
        (layers.ReLU(threshold=1.0), "jumps"),
        (Mirrored(), "Mirrored"),
    ],
)
def test_what_carries_no_box_is_refused_by_name(layer, message):
    layer.build((None, 6))
    with pytest.raises(ValueError, match=message):
        box_after(layer, [box_of(*random_box((6,)))])


def test_anyone_may_say_where_a_function_turns():
    def bump(x):
        return tf.exp(-x * x)

    register_activation(bump, 0.8577638849607069, turns=(0.0,))
    layer = layers.Activation(bump, dtype="float64")
    ends = [tf.constant([-1.0, 1.0, 2.0]), tf.constant([2.0, 1.5, 2.0])]
    box = box_after(
        layer, [Box.between(*(tf.cast(e, "float64") for e in ends))]
    )
    lower, upper = (end.numpy() for end in box.ends)
    np.testing.assert_allclose(lower, np.exp([-4.0, -2.25, -4.0]), atol=1e-12)
    np.testing.assert_allclose(upper, np.exp([0.0, -1.0, -4.0]), atol=1e-12)
