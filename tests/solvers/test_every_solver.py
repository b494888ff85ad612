"""What holds for every kind of solver: empty batches, eager functions, …"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import LeakyTanh, StableODELayer
from stable_node_tf.solvers import (
    NAMES,
    FixedGrid,
    LayerField,
    get,
    integrate,
)
from stable_node_tf.solvers.runge_kutta import computes_tableau

FIELD = LayerField(LeakyTanh(0.5))
SOLVERS = {
    name: type(solver)(2) if isinstance(solver, FixedGrid) else solver
    for name, solver in ((name, get(name)) for name in NAMES)
}
# Explicit schemes are the same but for their tableau.
KINDS = [
    name
    for name, solver in SOLVERS.items()
    if name == "rk4" or not computes_tableau(solver)
]
# An eager step of BDF takes seconds.
ALL_BUT_BDF = [name for name in KINDS if name != "bdf"]
CONSTANTS = {"kernel": -tf.eye(2), "bias": tf.ones(2)}


def value_and_gradients(name, state):
    with tf.GradientTape() as tape:
        tape.watch((state, CONSTANTS))
        end = integrate(SOLVERS[name], FIELD, state, 1.0, CONSTANTS)
        total = tf.reduce_sum(tf.sin(end))
    return end, tape.gradient(total, (state, CONSTANTS))


EMPTY = tf.zeros((0, 2))
MODES = {
    "eager": lambda f: f,
    "unknown batch": tf.function(
        input_signature=[tf.TensorSpec((None, 2), tf.float32)]
    ),
    "xla": tf.function(jit_compile=True),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", KINDS)
def test_a_batch_may_be_empty(name, mode):
    if (name, mode) == ("bdf", "xla"):
        pytest.skip("XLA cannot compile BDF")
    solve = MODES[mode](lambda u: value_and_gradients(name, u))
    end, (state_gradient, sums) = solve(EMPTY)
    assert end.shape == state_gradient.shape == (0, 2)
    for total in sums.values():
        np.testing.assert_array_equal(total, tf.zeros_like(total))


@pytest.fixture
def eager_functions():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("name", ALL_BUT_BDF)
def test_functions_may_run_eagerly(name, eager_functions):
    model = keras.Sequential(
        [
            keras.Input((2,)),
            StableODELayer(solver=SOLVERS[name]),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    kernel = model.layers[0].kernel.numpy()
    images = np.ones((3, 2), "float32")
    history = model.fit(images, np.ones(3), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert (kernel != model.layers[0].kernel.numpy()).any()
    np.testing.assert_allclose(
        model.predict(images, verbose=0), model(images), rtol=1e-6
    )


@pytest.fixture
def check_numerics():
    tf.debugging.enable_check_numerics()
    yield
    tf.debugging.disable_check_numerics()


@pytest.mark.parametrize("name", ALL_BUT_BDF)
def test_no_number_is_infinite_or_nan_on_the_way(name, check_numerics):
    end, _ = tf.function(lambda u: value_and_gradients(name, u))(
        tf.ones((3, 2))
    )
    assert np.isfinite(end).all()
