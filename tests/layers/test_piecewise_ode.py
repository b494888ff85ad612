"""Tests of the layer whose vector field is piecewise constant in time."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.integrate import solve_ivp

from stable_node_tf import (
    Euler,
    LeakyTanh,
    PiecewiseODELayer,
    RungeKutta4,
    SmoothLeakyReLU,
    StabilityMonitor,
    StableODELayer,
)
from stable_node_tf.solvers import ImplicitMidpoint


def varying(num_pieces=3, seed=0, size=4, dtype="float64", **kwargs):
    """A built layer with random weights."""
    layer = PiecewiseODELayer(
        StableODELayer(**{"activation": LeakyTanh(0.2), **kwargs}),
        num_pieces,
        dtype=dtype,
    )
    layer.build((None, size))
    rng = np.random.default_rng(seed)
    for piece in layer.pieces:
        kernel = rng.standard_normal((size, size))
        piece.kernel.assign(kernel)
        if piece.delta_bar is not None:
            piece.kernel.assign(piece.kernel.constraint(piece.kernel))
        piece.bias.assign(rng.standard_normal(size))
    return layer


def test_solves_the_equation_with_jumps_of_the_weights():
    layer = varying(terminal_time=1.5, solver=RungeKutta4(40))
    state = np.array([[0.5, -1.0, 2.0, 0.3]])
    times = [0.0, 0.2, 0.5, 0.9, 1.5]
    reference = [state[0]]
    for start, end, piece in [
        (0, 0.2, 0),
        (0.2, 0.5, 0),
        (0.5, 0.9, 1),
        (0.9, 1.0, 1),
        (1.0, 1.5, 2),
    ]:
        kernel, bias = (w.numpy() for w in layer.pieces[piece].weights[:2])

        def field(time, u, kernel=kernel, bias=bias):
            z = kernel @ u + bias
            return 0.2 * z + 0.8 * np.tanh(z)

        last = solve_ivp(
            field, (start, end), reference[-1], rtol=1e-10, atol=1e-12
        ).y[:, -1]
        reference.append(last)
    reference = np.delete(reference, 4, axis=0)  # at 1.0
    np.testing.assert_allclose(layer(state)[0], reference[-1], atol=1e-6)
    found = layer.trajectory(state, times)[:, 0]
    np.testing.assert_allclose(found, reference, atol=1e-6)


@pytest.mark.parametrize("delta_bar", [None, -0.1])
@pytest.mark.parametrize("solver", [Euler(5), ImplicitMidpoint(2)])
def test_pairs_of_solutions_obey_the_bound(delta_bar, solver):
    layer = varying(delta_bar=delta_bar, solver=solver, terminal_time=2.0)
    report = layer.stability()
    assert report.delta_lower <= report.delta_upper
    assert report.lipschitz_bound <= layer.lipschitz_bound().value * 1.0001
    assert "3 pieces" in report.holds_for
    bounds = [piece.stability() for piece in layer.pieces]
    assert report.delta_upper == pytest.approx(
        np.mean([bound.delta_upper for bound in bounds])
    )
    if delta_bar is not None:
        assert report.delta_upper <= delta_bar + 1e-9
    rng = np.random.default_rng(1)
    states = rng.standard_normal((2000, 4))
    moved = states + 1e-3 * rng.standard_normal(states.shape)
    growth = np.linalg.norm(layer(states) - layer(moved), axis=1)
    growth /= np.linalg.norm(states - moved, axis=1)
    assert growth.max() <= report.lipschitz_bound
    assert growth.max() > 0.1 * report.lipschitz_bound


def test_gradients_by_finite_differences():
    layer = varying(solver=RungeKutta4(3))
    rng = np.random.default_rng(2)
    state = tf.constant(rng.standard_normal((3, 4)))
    weights = [v for p in layer.pieces for v in (p.kernel, p.bias)]
    with tf.GradientTape() as tape:
        tape.watch(state)
        total = tf.reduce_sum(tf.sin(layer(state)))
    sources = [state, *(weight.value for weight in weights)]
    gradients = tape.gradient(total, sources)
    shifts = [rng.standard_normal(g.shape) for g in gradients]

    def moved(step):
        before = [weight.numpy() for weight in weights]
        for weight, value, shift in zip(
            weights, before, shifts[1:], strict=True
        ):
            weight.assign(value + step * shift)
        total = tf.reduce_sum(tf.sin(layer(state + step * shifts[0])))
        for weight, value in zip(weights, before, strict=True):
            weight.assign(value)
        return float(total)

    slope = sum(np.sum(g * s) for g, s in zip(gradients, shifts, strict=True))
    expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
    assert slope == pytest.approx(expected, rel=1e-6)


class CertifiedAtEveryStep(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.get_layer("ode").assert_constraints()


@pytest.mark.parametrize(
    ("policy", "jit_compile"), [("float32", True), ("mixed_bfloat16", False)]
)
def test_trains_saves_and_loads(policy, jit_compile, tmp_path):
    ode = PiecewiseODELayer(
        StableODELayer(SmoothLeakyReLU(0.1), 0.0, solver=Euler(4)),
        name="ode",
        dtype=policy,
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
    start = [piece.kernel.numpy() for piece in ode.pieces]
    history = model.fit(
        features,
        labels,
        epochs=3,
        batch_size=16,
        verbose=0,
        callbacks=[CertifiedAtEveryStep(), StabilityMonitor()],
    ).history
    assert history["loss"][-1] < history["loss"][0]
    assert max(history["ode_piece_1/delta_upper"]) <= 0.0
    for piece, kernel in zip(ode.pieces, start, strict=True):
        assert np.abs(piece.kernel.numpy() - kernel).max() > 1e-3
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        model.predict(features, verbose=0), loaded.predict(features, verbose=0)
    )
    loaded.get_layer("ode").assert_constraints()
    assert loaded.get_layer("ode").get_config() == ode.get_config()
    assert loaded.get_layer("ode").stability() == ode.stability()


def test_a_violating_piece_is_named():
    layer = varying(delta_bar=0.0)
    layer.assert_constraints()
    layer.pieces[1].kernel.assign(np.eye(4))
    with pytest.raises(ValueError, match="_piece_1'.*delta_bar=0.0"):
        layer.assert_constraints()


def test_one_piece_is_the_layer_itself():
    layer = varying(num_pieces=1, solver=Euler(3))
    plain = StableODELayer(LeakyTanh(0.2), solver=Euler(3), dtype="float64")
    plain.build((None, 4))
    plain.set_weights(layer.get_weights())
    state = np.ones((2, 4))
    np.testing.assert_array_equal(layer(state), plain(state))


def test_refuses():
    with pytest.raises(TypeError, match="layer=<Dense"):
        PiecewiseODELayer(keras.layers.Dense(3))
    with pytest.raises(TypeError, match="layer=<PiecewiseODELayer"):
        PiecewiseODELayer(PiecewiseODELayer(StableODELayer()))
    with pytest.raises(ValueError, match="num_pieces=0"):
        PiecewiseODELayer(StableODELayer(), 0)
    built = StableODELayer()
    built.build((None, 3))
    with pytest.raises(ValueError, match="must not be built"):
        PiecewiseODELayer(built)
    with pytest.raises(ValueError, match="increasing"):
        varying().trajectory(np.ones((1, 4)), [0.5, 0.2])
