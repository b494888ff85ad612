import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import CustomActivation, LeakyTanh
from stable_node_tf.certification import register_activation
from stable_node_tf.certification.activations import (
    activation_lipschitz,
    after_activation,
)
from stable_node_tf.certification.forward_rounding import EXACT_INPUT

functions = keras.activations
KNOWN = [
    functions.linear,
    functions.relu,
    functions.relu6,
    functions.leaky_relu,
    functions.elu,
    functions.celu,
    functions.selu,
    functions.tanh,
    functions.sigmoid,
    functions.log_sigmoid,
    functions.softplus,
    functions.softsign,
    functions.tanh_shrink,
    functions.soft_shrink,
    functions.squareplus,
    functions.sparse_plus,
    functions.sparse_sigmoid,
    functions.gelu,
    functions.silu,
    functions.hard_sigmoid,
    functions.hard_silu,
    functions.hard_tanh,
    functions.mish,
    functools.partial(functions.leaky_relu, negative_slope=-3.0),
    functools.partial(functions.relu, max_value=2.0, negative_slope=0.5),
    functools.partial(functions.elu, alpha=2.5),
    functools.partial(functions.gelu, approximate=True),
    functools.partial(functions.celu, alpha=3.0),
    functools.partial(functions.soft_shrink, threshold=1.5),
    LeakyTanh(0.2),
    CustomActivation(lambda x: 0.7 * x + tf.sin(x) / 5, alpha=0.5),
    keras.layers.LeakyReLU(negative_slope=2.0, dtype="float64"),
    keras.layers.ReLU(max_value=1.0, dtype="float64"),
    keras.layers.ELU(alpha=0.5, dtype="float64"),
]


def layer_with(activation):
    return keras.layers.Activation(activation, dtype="float64")


@pytest.mark.parametrize("activation", KNOWN)
def test_slopes_reach_the_constant_and_not_more(activation):
    """2 million points, 4e-5 apart; slopes change by 5e-4 at most between."""
    x = np.linspace(-40.0, 40.0, 2_000_001)
    y = np.asarray(activation(tf.constant(x)))
    steepest = np.abs(np.diff(y) / np.diff(x)).max()
    bound = activation_lipschitz(layer_with(activation))
    assert steepest <= bound * (1 + 1e-9)
    assert steepest >= 0.999 * bound or type(activation) is CustomActivation


def test_the_slope_of_mish_is_below_its_proof():
    """A step of the grid and a second derivative below 5 add 2.5e-4."""
    x = tf.linspace(tf.constant(-40.0, tf.float64), 40.0, 800_001)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = functions.mish(x)
        slopes = tape.gradient(y, x)
    curvature = np.abs(outer.gradient(slopes, x)).max()
    assert curvature < 5.0
    assert np.abs(slopes).max() + 1e-4 / 2 * 5.0 < 1.089


def test_softmax_shrinks_by_half():
    generator = np.random.default_rng(0)
    p = generator.dirichlet(np.full(4, 0.3), 2000)
    p = np.concatenate([p, [[0.5, 0.5, 0.0, 0.0]]])
    jacobians = p[:, :, None] * np.eye(4) - p[:, :, None] * p[:, None, :]
    largest = np.linalg.norm(jacobians, 2, axis=(1, 2)).max()
    assert activation_lipschitz(layer_with("softmax")) == 0.5
    assert 0.499 < largest <= 0.5 + 1e-12


@pytest.mark.parametrize(
    "activation",
    [
        functions.linear,
        functions.relu,
        functions.relu6,
        functions.leaky_relu,
        functions.hard_tanh,
        functools.partial(functions.relu, negative_slope=0.3),
        LeakyTanh(0.1),
    ],
)
def test_rounding_is_as_said(activation):
    x = np.random.default_rng(0).normal(size=100_000).astype(np.float32) * 9
    wide = x.astype(np.float64)
    error = np.asarray(activation(tf.constant(x))) - np.asarray(
        activation(tf.constant(wide))
    )
    unit = 2.0**-24
    state = after_activation(activation, EXACT_INPUT, unit)
    assert np.all(np.abs(error) <= state.error[1] * np.abs(wide))


@pytest.mark.parametrize("name", ["tanh", "gelu", "sigmoid"])
def test_rounding_of_others_is_unknown(name):
    assert after_activation(functions.get(name), EXACT_INPUT, 2**-24) is None


@pytest.mark.parametrize(
    "activation, message",
    [
        ("exponential", "type Activation with activation exponential"),
        ("glu", "glu"),
        ("threshold", "threshold"),
        (lambda x: x, "register_activation"),
        (functools.partial(functions.relu, threshold=1.0), "jumps"),
        (functools.partial(functions.soft_shrink, threshold=-0.5), "jumps"),
        (functools.partial(functions.celu, alpha=-1.0), "unbounded"),
        (
            functools.partial(
                functions.relu, threshold=1.0, negative_slope=1.0
            ),
            "jumps",
        ),
        (keras.layers.ReLU(threshold=1.0), "jumps"),
        (
            functools.partial(
                functions.relu, threshold=1.0, negative_slope=1.0
            ),
            "jumps",
        ),
        (functools.partial(functions.tanh, scale=2.0), "scale"),
    ],
)
def test_the_rest_is_refused(activation, message):
    with pytest.raises(ValueError, match=message):
        activation_lipschitz(layer_with(activation))


def test_anyone_may_register_a_function():
    def double(x):
        return 2.0 * x

    def times(x, factor):
        return factor * x

    register_activation(double, 2.0)
    register_activation(times, lambda factor: abs(factor))
    assert activation_lipschitz(layer_with(double)) == 2.0
    tripled = functools.partial(times, factor=-3.0)
    assert activation_lipschitz(layer_with(tripled)) == 3.0
    for wrong in (-1.0, np.nan):
        with pytest.raises(ValueError, match="`lipschitz` must be a number"):
            register_activation(double, wrong)
    with pytest.raises(TypeError, match="`function` must be callable"):
        register_activation("double", 1.0)
