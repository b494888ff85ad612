"""Tests of the activations and of their slope bounds."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_node_tf import StableODELayer, activations
from stable_node_tf.activations import (
    CustomActivation,
    LeakyTanh,
    SmoothLeakyReLU,
)

ALPHAS = st.floats(1e-3, 1.0)
POINTS = np.concatenate(
    [np.linspace(-6, 6, 2401), [-1e300, -1e6, -50.0, 50.0, 1e6, 1e300]]
)


@keras.saving.register_keras_serializable(package="tests")
def wavy(x):
    return 0.6 * x + 0.2 * tf.sin(x)


def value_and_slope(activation, x):
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = activation(x)
    return y.numpy(), tape.gradient(y, x).numpy()


@settings(max_examples=25, deadline=None)
@given(alpha=ALPHAS)
@pytest.mark.parametrize("cls", [LeakyTanh, SmoothLeakyReLU])
def test_slopes_fill_the_interval_from_alpha_to_one(cls, alpha):
    _, slopes = value_and_slope(cls(alpha), POINTS)
    assert slopes.min() == pytest.approx(alpha, rel=1e-9)
    assert slopes.min() >= alpha * (1 - 1e-9)
    assert slopes.max() == pytest.approx(1.0, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(alpha=ALPHAS)
@pytest.mark.parametrize("cls", [LeakyTanh, SmoothLeakyReLU])
def test_slopes_agree_with_finite_differences(cls, alpha):
    x = np.linspace(-6, 6, 2401)
    step = 1e-6
    activation = cls(alpha)
    quotients = (activation(x + step) - activation(x - step)) / (2 * step)
    _, slopes = value_and_slope(activation, x)
    np.testing.assert_allclose(slopes, quotients, atol=2e-6)


@settings(max_examples=25, deadline=None)
@given(alpha=ALPHAS)
def test_smooth_leaky_relu_is_the_published_function(alpha):
    z = np.arccosh(1 / np.sqrt(alpha))
    x = POINTS
    expected = np.select(
        [x >= 0, x >= -z], [x, np.tanh(x)], alpha * x + (alpha * z - np.tanh(z))
    )
    np.testing.assert_allclose(
        SmoothLeakyReLU(alpha)(x), expected, rtol=1e-12, atol=1e-12
    )


def test_leaky_tanh_is_the_published_function():
    x = np.linspace(-6, 6, 101)
    np.testing.assert_allclose(
        LeakyTanh(0.3)(x), 0.3 * x + 0.7 * np.tanh(x), rtol=1e-14
    )


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.5])
def test_smooth_leaky_relu_has_the_right_gradient_at_its_joints(alpha):
    z = float(np.arctanh(np.sqrt(1 - alpha)))
    _, slopes = value_and_slope(SmoothLeakyReLU(alpha), np.array([-z, 0.0]))
    np.testing.assert_allclose(slopes, [alpha, 1.0], rtol=1e-12)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("cls", [LeakyTanh, SmoothLeakyReLU])
def test_every_dtype_eager_or_compiled(cls, dtype, jit_compile):
    activation = cls(0.1)
    x = np.linspace(-5, 5, 41)
    low = tf.cast(x, dtype)
    compiled = tf.function(activation, jit_compile=jit_compile)
    y = compiled(low)
    assert y.dtype == low.dtype
    tolerance = 0.01 if dtype == "float32" else 0.05
    np.testing.assert_allclose(
        tf.cast(y, tf.float64), activation(x), atol=tolerance
    )


@pytest.mark.parametrize("cls", [LeakyTanh, SmoothLeakyReLU])
def test_nan_and_infinity_pass_through(cls):
    y = cls(0.1)(tf.constant([np.nan, np.inf, -np.inf])).numpy()
    np.testing.assert_array_equal(y, [np.nan, np.inf, -np.inf])


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.5, np.nan, np.inf])
@pytest.mark.parametrize("cls", [LeakyTanh, SmoothLeakyReLU])
def test_alpha_outside_its_interval_is_refused(cls, alpha):
    with pytest.raises(ValueError, match="alpha"):
        cls(alpha)


@pytest.mark.parametrize("alpha", [True, "0.1", None, [0.1]])
@pytest.mark.parametrize("cls", [LeakyTanh, SmoothLeakyReLU])
def test_alpha_that_is_no_number_is_refused(cls, alpha):
    with pytest.raises(TypeError, match="alpha"):
        cls(alpha)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (tf.tanh, r"slope .* at x=-?1e\+06"),
        (tf.nn.relu, "slope 0 at x=-"),
        (lambda x: 1.01 * x, "slope 1.01 at"),
        (lambda x: -x, "slope -1 at"),
        (tf.sqrt, "slope nan at x=-"),
        (lambda x: x - 1e-12 * tf.sqrt(x * x), "slope nan at x=0"),
        (lambda x: x + tf.cast(x > 3e-4, x.dtype), "slope 2001 at x=0.0002"),
        (lambda x: x + 1e-3 * tf.tanh(1e3 * (x - 2)), "at x=2"),
        (tf.nn.softmax, "elementwise"),
        (tf.reduce_sum, "elementwise"),
        (lambda x: x - 0.4 * tf.reduce_mean(x[: len(x) // 2]), "elementwise"),
        (tf.round, "differentiable"),
        (lambda x: tf.cast(x, tf.float32), "dtype"),
        (lambda x: x * tf.constant(0.5), "float64 .*says: cannot compute Mul"),
    ],
)
def test_wrong_slope_bounds_are_refused(function, message):
    with pytest.raises(ValueError, match=message):
        CustomActivation(function, alpha=0.05)


def test_functions_at_the_edge_of_their_bounds_are_accepted():
    assert CustomActivation(tf.identity, alpha=1.0).alpha == 1.0
    assert CustomActivation(lambda x: 0.25 * x, alpha=0.25).alpha == 0.25
    assert CustomActivation(LeakyTanh(0.2), alpha=0.2).alpha == 0.2
    assert CustomActivation(SmoothLeakyReLU(0.2), alpha=0.2).alpha == 0.2


def test_custom_activation_needs_a_callable():
    with pytest.raises(TypeError, match="callable"):
        CustomActivation("tanh", alpha=0.1)


@pytest.mark.parametrize(
    "activation",
    [
        LeakyTanh(0.25),
        SmoothLeakyReLU(0.75),
        CustomActivation(wavy, 0.4),
        CustomActivation(LeakyTanh(0.5), 0.5),
    ],
    ids=lambda activation: type(activation).__name__,
)
def test_round_trip_through_json(activation):
    config = keras.saving.serialize_keras_object(activation)
    restored = activations.get(json.loads(json.dumps(config)))
    assert type(restored) is type(activation)
    assert restored.alpha == activation.alpha
    x = tf.linspace(-5.0, 5.0, 21)
    np.testing.assert_array_equal(restored(x), activation(x))


@pytest.mark.parametrize("function", [lambda x: x, tf.identity])
def test_unregistered_functions_cannot_be_saved(function):
    activation = CustomActivation(function, alpha=0.5)
    with pytest.raises(ValueError, match="register_keras_serializable"):
        activation.get_config()


def test_get_knows_names_and_passes_objects_through():
    assert isinstance(activations.get("leaky_tanh"), LeakyTanh)
    assert isinstance(activations.get("smooth_leaky_relu"), SmoothLeakyReLU)
    activation = LeakyTanh(0.3)
    assert activations.get(activation) is activation


@keras.saving.register_keras_serializable(package="tests")
class Softer(activations.Activation):
    """A stranger's class, without a slope by hand."""

    name = "softer"

    def __call__(self, x):
        return ((1 + self.alpha) * x + (1 - self.alpha) * tf.sin(x)) / 2


class Steeper(LeakyTanh):
    def value_and_slope(self, x):
        return 2.0 * x, 2.0 * tf.ones_like(x)


class WrongSlope(LeakyTanh):
    def value_and_slope(self, x):
        return super().value_and_slope(x)[0], tf.ones_like(x)


def test_classes_of_your_own():
    assert isinstance(activations.get("softer"), Softer)
    layer = StableODELayer(activation=Softer(0.4), delta_bar=0.0)
    assert layer(tf.ones((2, 3))).shape == (2, 3)
    assert layer.stability().delta_upper <= 0.0
    layer = StableODELayer.from_config(layer.get_config())
    assert isinstance(layer.activation, Softer) and layer.alpha == 0.4
    assert not layer.activation.proven and LeakyTanh.proven
    assert "softer" not in activations.NAMES
    with pytest.raises(ValueError, match="Softer with name='leaky_tanh'"):
        type("Softer", (Softer,), {"name": "leaky_tanh"})


def test_get_measures_slopes_that_nobody_proved():
    with pytest.raises(ValueError, match=r"Steeper\(alpha=0.1\) with slope 2"):
        activations.get(Steeper(0.1))
    with pytest.raises(ValueError, match="`value_and_slope` must return"):
        activations.get(WrongSlope(0.1))
    assert not WrongSlope.proven


def test_get_refuses_the_unknown():
    other = keras.saving.serialize_keras_object(keras.optimizers.SGD())
    with pytest.raises(TypeError, match="CustomActivation"):
        activations.get(other)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("relu", "slopes go from 0 to 1: no alpha > 0"),
        ("tanh", "slopes go from 0 to 1: no alpha > 0"),
        ("sigmoid", "slopes go from 0 to 0.25: no alpha > 0"),
        ("softplus", "slopes go from 0 to 1: no alpha > 0"),
        ("gelu", r"slopes go from -0.1\d+ to 1.1\d+: they leave"),
        ("leaky_relu", "slopes go from 0.2 to 1: wrap it"),
        ("linear", "slopes go from 1 to 1: wrap it"),
        ("softmax", "activation='softmax'$"),
        ("no such", "activation='no such'$"),
        (keras.activations.relu, "slopes go from 0 to 1: no alpha > 0"),
        (tf.tanh, "slopes go from 0 to 1: no alpha > 0"),
        (lambda x: x / 2, "slopes go from 0.5 to 0.5: wrap it"),
        (keras.layers.Dense(3), "activation=<Dense"),
        (0.1, "activation=0.1$"),
        (None, "activation=None$"),
    ],
)
def test_get_says_why_not_and_what_instead(given, reason):
    error = ValueError if isinstance(given, str) else TypeError
    with pytest.raises(error, match=reason) as refusal:
        activations.get(given)
    for known in (
        *("'leaky_tanh'", "'smooth_leaky_relu'"),
        "CustomActivation(function, alpha)",
    ):
        assert known in str(refusal.value)
