"""Tests of the layer whose vector field has several layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.integrate import solve_ivp

from stable_node_tf import (
    DeepODELayer,
    Euler,
    LeakyTanh,
    PiecewiseODELayer,
    RungeKutta4,
    StabilityMonitor,
    product_log_norm,
)
from stable_node_tf.constraints import apply_constraints
from stable_node_tf.solvers import ImplicitMidpoint, SSPRungeKutta3

FREE = {"activation": LeakyTanh(0.2), "dtype": "float64"}


def built(size=4, seed=0, scale=1.0, **kwargs):
    layer = DeepODELayer(**{"widths": (5,), **FREE, **kwargs})
    layer.build((None, size))
    rng = np.random.default_rng(seed)
    for kernel, bias in zip(layer.kernels, layer.biases, strict=True):
        kernel.assign(scale * rng.standard_normal(kernel.shape))
        bias.assign(rng.standard_normal(bias.shape))
    if layer.delta_bar is not None:
        last = layer.kernels[-1]
        last.assign(last.constraint(last))
    return layer


def test_solves_the_equation():
    layer = built(widths=(5, 3), damping=0.7, solver=RungeKutta4(50))
    state = np.array([[0.5, -1.0, 2.0, 0.3]])
    weights = [
        (kernel.numpy(), bias.numpy())
        for kernel, bias in zip(layer.kernels, layer.biases, strict=True)
    ]

    def field(time, u):
        value = u
        for kernel, bias in weights:
            value = kernel @ value + bias
            value = 0.2 * value + 0.8 * np.tanh(value)
        return value - 0.7 * u

    times = [0.0, 0.4, 1.0]
    reference = solve_ivp(
        field, (0, 1), state[0], t_eval=times, rtol=1e-11, atol=1e-12
    ).y.T
    np.testing.assert_allclose(layer(state)[0], reference[-1], atol=1e-6)
    found = layer.trajectory(state, times)[:, 0]
    np.testing.assert_allclose(found, reference, atol=1e-6)


@pytest.mark.parametrize("solver", [RungeKutta4(3), ImplicitMidpoint(2)])
def test_gradients_by_finite_differences(solver):
    layer = built(damping=0.3, solver=solver)
    rng = np.random.default_rng(2)
    state = tf.constant(rng.standard_normal((3, 4)))
    weights = [*layer.kernels, *layer.biases]

    @tf.function
    def total(state):
        return tf.reduce_sum(tf.sin(layer(state)))

    with tf.GradientTape() as tape:
        tape.watch(state)
        value = total(state)
    gradients = tape.gradient(value, [state, *(w.value for w in weights)])
    shifts = [rng.standard_normal(g.shape) for g in gradients]
    before = [weight.numpy() for weight in weights]

    def moved(step):
        for weight, start, shift in zip(
            weights, before, shifts[1:], strict=True
        ):
            weight.assign(start + step * shift)
        return float(total(state + step * shifts[0]))

    slope = sum(np.sum(g * s) for g, s in zip(gradients, shifts, strict=True))
    expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
    assert slope == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "solver",
    [Euler(5), SSPRungeKutta3(3), RungeKutta4(3), ImplicitMidpoint(2)],
    ids=lambda solver: solver.name,
)
@pytest.mark.parametrize(
    "options", [{}, {"delta_bar": -0.2, "damping": 1.0}], ids=["free", "bound"]
)
def test_pairs_of_solutions_obey_the_bound(solver, options):
    layer = built(solver=solver, scale=0.6, **options)
    report = layer.stability()
    assert report.delta_lower <= report.delta_upper
    assert "exact flow" not in report.holds_for
    if options:
        layer.assert_constraints()
        assert report.delta_upper <= -0.2
    rng = np.random.default_rng(1)
    states = rng.standard_normal((500, 4))
    moved = states + 1e-3 * rng.standard_normal(states.shape)
    growth = np.linalg.norm(layer(states) - layer(moved), axis=1)
    growth /= np.linalg.norm(states - moved, axis=1)
    assert growth.max() <= report.lipschitz_bound


def test_the_flow_obeys_its_bound():
    layer = built(solver="dormand_prince", scale=0.7, damping=0.5)
    report = layer.stability()
    assert "exact flow" in report.holds_for
    kernels = [kernel.numpy() for kernel in layer.kernels]
    upper = product_log_norm(kernels, 0.2).upper - 0.5
    assert report.delta_upper == pytest.approx(upper)
    assert report.lipschitz_bound == pytest.approx(np.exp(upper))


class CertifiedAtEveryStep(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        layer = self.model.get_layer("ode")
        assert layer._constrained_upper(layer._kernel_values()) <= 0.5


@pytest.mark.parametrize(
    ("policy", "jit_compile"), [("float32", True), ("mixed_bfloat16", False)]
)
def test_trains_saves_and_loads(policy, jit_compile, tmp_path):
    ode = DeepODELayer(
        (6,), "leaky_tanh", 0.0, 0.5, solver=Euler(4), name="ode", dtype=policy
    )
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), ode])
    model.add(keras.layers.Dense(2))
    model.compile(
        keras.optimizers.Adam(0.05),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    features = np.random.default_rng(0).standard_normal((64, 6))
    features = features.astype("float32")
    labels = (features[:, 0] > 0).astype("int32")
    ode.assert_constraints()
    start = [kernel.numpy() for kernel in ode.kernels]
    history = model.fit(
        features,
        labels,
        epochs=3,
        batch_size=16,
        verbose=0,
        callbacks=[CertifiedAtEveryStep(), StabilityMonitor()],
    ).history
    assert history["loss"][-1] < history["loss"][0]
    assert max(history["delta_upper"]) <= 0.0
    assert max(history["perturbation"]) > 0.0
    for kernel, before in zip(ode.kernels, start, strict=True):
        assert np.abs(kernel.numpy() - before).max() > 1e-3
    assert ode.kernels[0].dtype == "float32"
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        model.predict(features, verbose=0), loaded.predict(features, verbose=0)
    )
    copy = loaded.get_layer("ode")
    assert copy.get_config() == ode.get_config()
    assert copy.stability() == ode.stability()
    np.testing.assert_array_equal(copy.certificate, ode.certificate)


def test_weights_set_by_hand_are_noticed():
    layer = built(delta_bar=0.5, name="mine")
    layer.assert_constraints()
    layer.kernels[0].assign(9.0 * np.eye(5, 4))
    with pytest.raises(ValueError, match="'mine'.*delta_bar=0.5"):
        layer.assert_constraints()
    apply_constraints(layer.weights)
    layer.assert_constraints()


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_not_finite_is_named(number):
    layer = built(delta_bar=0.5, name="mine")
    layer.kernels[1].assign(np.full((4, 5), number))
    message = "`kernel_2 of layer 'mine'` must be finite.* 20 NaN or infinite"
    for bounds in (layer.assert_constraints, layer.stability):
        with pytest.raises(ValueError, match=message):
            bounds()


@pytest.mark.parametrize(
    ("value", "jit_compile"), [(np.inf, False), (np.nan, True)]
)
def test_training_that_has_diverged_goes_on(value, jit_compile):
    """As it does with a StableODELayer."""
    layer = DeepODELayer((4,), delta_bar=0.3)
    layer.build((None, 3))
    layer.kernels[0].assign(np.full((4, 3), value, np.float32))
    last = layer.kernels[-1]
    before = last.numpy()
    constrain = tf.function(
        lambda: last.constraint(last.value), jit_compile=jit_compile
    )
    np.testing.assert_array_equal(constrain(), before)
    assert not np.any(np.isfinite(layer.kernels[0]))


def test_equal_seeds_draw_different_kernels():
    layer = DeepODELayer(
        (4, 4), kernel_initializer=keras.initializers.GlorotUniform(seed=3)
    )
    layer.build((None, 4))
    first, second, third = (kernel.numpy() for kernel in layer.kernels)
    assert np.abs(first - second).min() > 0 < np.abs(second - third).min()


def test_pieces_of_several_layers():
    layer = PiecewiseODELayer(
        DeepODELayer((3,), delta_bar=0.0, damping=0.5, solver=Euler(2)), 2
    )
    inputs = np.ones((2, 4), "float32")
    copy = PiecewiseODELayer.from_config(layer.get_config())
    copy.build((None, 4))
    layer.build((None, 4))
    copy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(layer(inputs), copy(inputs))
    assert layer.stability().delta_upper <= 1e-15
    layer.assert_constraints()


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"widths": ()}, ValueError, "widths"),
        ({"widths": (0,)}, ValueError, "widths"),
        ({"damping": -1.0}, ValueError, "damping"),
        ({"delta_bar": 0.0}, ValueError, "above -damping"),
        ({"delta_bar": -1.0, "damping": 0.5}, ValueError, "above -damping"),
        ({"terminal_time": 0.0}, ValueError, "terminal_time"),
        ({"delta_bar": "0"}, TypeError, "delta_bar"),
    ],
)
def test_refuses(kwargs, error, message):
    with pytest.raises(error, match=message):
        DeepODELayer(**{"widths": (3,), **kwargs})


def test_refuses_to_report_before_it_is_built():
    with pytest.raises(ValueError, match="no weights yet"):
        DeepODELayer((3,), name="early").stability()
