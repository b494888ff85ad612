import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import (
    LogNormConstraint,
    SpectralNormConstraint,
    nearest_stable,
    worst_case_log_norm,
)
from stable_node_tf.certification.rules import layer_lipschitz
from stable_node_tf.stability.log_norm import euler_log_norm


@pytest.mark.parametrize("delta_bar", [-0.3, 0.0, 0.5])
@pytest.mark.parametrize("compiled", [True, False])
def test_without_state(delta_bar, compiled):
    matrix = np.random.default_rng(0).standard_normal((10, 10)) / 3
    constraint = LogNormConstraint(delta_bar, 0.2)
    call = tf.function(constraint) if compiled else constraint
    result = call(tf.constant(matrix)).numpy()
    assert worst_case_log_norm(result, 0.2).upper <= delta_bar + 1e-5
    nearest = nearest_stable(matrix, delta_bar, 0.2).distance
    assert nearest * (1 - 1e-6) <= np.linalg.norm(result - matrix) < 2 * nearest


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_not_finite_stays_so_and_stops_nothing(number):
    matrix = tf.constant([[number, 0.0], [0.0, 1.0]])
    for constraint in (
        LogNormConstraint(0.0, 0.5),
        LogNormConstraint(0.0, 0.5, step=0.5),
        SpectralNormConstraint(1.0),
    ):
        assert not np.isfinite(constraint(matrix)).all()


def test_without_state_for_steps_of_euler():
    matrix = np.random.default_rng(0).standard_normal((10, 10))
    constraint = LogNormConstraint(0.0, 0.2, step=0.5)
    result = constraint(tf.constant(matrix)).numpy()
    assert euler_log_norm(result, 0.2, 0.5)[0] <= 1e-5
    again = constraint(tf.constant(result)).numpy()
    np.testing.assert_allclose(again, result, atol=1e-4)


def test_as_a_kernel_constraint():
    constraint = LogNormConstraint(0.0, 0.5)
    layer = keras.layers.Dense(3, kernel_constraint=constraint)
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(np.ones((8, 3)), 5 * np.ones((8, 3)), verbose=0)
    assert worst_case_log_norm(layer.kernel.numpy(), 0.5).upper <= 1e-5


@pytest.mark.parametrize("jit_compile", [False, True])
def test_as_a_constraint_of_convolutions(jit_compile):
    """Training asks for gain, and gets what the certificates allow."""

    def budget(strides=1):
        return SpectralNormConstraint(1.0, strides)

    layers = [
        keras.layers.Conv2D(3, 3, kernel_constraint=budget()),
        keras.layers.Conv2D(2, 2, 2, kernel_constraint=budget(2)),
        keras.layers.Conv2DTranspose(2, 3, kernel_constraint=budget()),
        keras.layers.DepthwiseConv2D(2, depthwise_constraint=budget()),
        keras.layers.Conv2D(2, 2, dilation_rate=2, kernel_constraint=budget()),
    ]
    if jit_compile:  # compiling all of them takes long
        layers = layers[1:3]
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((10, 10, 2)), *layers])
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
    images = np.random.default_rng(0).standard_normal((32, 10, 10, 2))
    large = 100 * np.ones((32, *model.output_shape[1:]))
    model.fit(images, large, epochs=20, batch_size=32, verbose=0)
    bounds = [layer_lipschitz(layer) for layer in layers]
    assert max(bounds) <= 1.0
    assert max(bounds) >= 0.97


@pytest.mark.parametrize("shape", [(30, 4), (4, 30), (5,), (1, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_spectral_norm(shape, dtype):
    kernel = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    result = SpectralNormConstraint(0.5)(kernel).numpy()
    matrix = kernel.reshape(-1, shape[-1]).astype("float64")
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    nearest = left * np.minimum(values, 0.5) @ right
    assert result.dtype == dtype and result.shape == shape
    flat = result.reshape(matrix.shape).astype("float64")
    assert np.linalg.norm(flat, 2) <= 0.5
    np.testing.assert_allclose(flat, nearest, atol=3e-4)
    nearest_kernel = nearest.reshape(shape)
    again = SpectralNormConstraint(0.5)(result)
    np.testing.assert_array_equal(again, result)
    under_xla = tf.function(SpectralNormConstraint(0.5), jit_compile=True)
    np.testing.assert_allclose(under_xla(kernel), nearest_kernel, atol=3e-4)


@pytest.mark.parametrize(
    "constraint",
    [
        LogNormConstraint(-0.5, 0.1),
        LogNormConstraint(0.0, 0.1, step=0.5),
        SpectralNormConstraint(2.0),
        SpectralNormConstraint(2.0, (2, 1)),
    ],
)
def test_serializes(constraint):
    config = keras.saving.serialize_keras_object(constraint)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == constraint.get_config()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: LogNormConstraint(np.inf, 0.5), ValueError, "delta_bar"),
        (lambda: LogNormConstraint(0.0, 0.0), ValueError, "alpha"),
        (lambda: LogNormConstraint(0.0, 0.5, -1.0), ValueError, "step"),
        (lambda: LogNormConstraint(-0.5, 0.1, 1.0), ValueError, "contracts"),
        (lambda: SpectralNormConstraint(0.0), ValueError, "max_norm"),
        (lambda: SpectralNormConstraint(None), TypeError, "max_norm"),
        (
            lambda: LogNormConstraint(0.0, 0.5)(tf.ones((2, 3))),
            ValueError,
            r"must be square.* Received: float32 of shape \(2, 3\)",
        ),
        (
            lambda: LogNormConstraint(0.0, 0.5)(tf.eye(2, dtype=tf.float16)),
            ValueError,
            "float32 or float64. Received: float16",
        ),
        (
            lambda: SpectralNormConstraint(1.0)(tf.eye(2, dtype=tf.bfloat16)),
            ValueError,
            "float32 or float64. Received: bfloat16",
        ),
        (lambda: SpectralNormConstraint(1.0)(1.0), ValueError, "not scalar"),
        (lambda: SpectralNormConstraint(1.0, 0), ValueError, "strides"),
        (lambda: SpectralNormConstraint(1.0, (1, 0.5)), TypeError, "strides"),
        (
            lambda: SpectralNormConstraint(1.0, (2, 1))(tf.ones((3, 2, 2))),
            ValueError,
            r"one for each axis.* Received: strides=\(2, 1\)",
        ),
        (
            lambda: SpectralNormConstraint(1e-30)(tf.eye(2)),
            ValueError,
            "at least 8.27e-25 for kernels of float32",
        ),
        (lambda: LogNormConstraint(0.0, 1e-9), ValueError, "alpha=1e-09"),
        (
            lambda: LogNormConstraint(-1e30, 0.5)(tf.eye(2)),
            ValueError,
            "float32 must have room.* delta_bar=-1e[+]30",
        ),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()
