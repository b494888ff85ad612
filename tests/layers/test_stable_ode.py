import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.integrate import solve_ivp

from stable_node_tf import (
    CustomActivation,
    Euler,
    LeakyTanh,
    RungeKutta4,
    SkewSymmetric,
    SmoothLeakyReLU,
    StableODELayer,
    certified_log_norm,
    worst_case_log_norm,
)
from stable_node_tf.callbacks import StabilityMonitor
from stable_node_tf.constraints import apply_constraints


@keras.saving.register_keras_serializable(package="test_layers")
def half_tanh(x):
    return 0.5 * x + 0.5 * tf.tanh(x)


def classifier(size=4, **kwargs):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(size)])
    model.add(StableODELayer(name="ode", **kwargs))
    model.add(keras.layers.Dense(2))
    return model


def data(rows=64):
    generator = np.random.default_rng(0)
    features = generator.standard_normal((rows, 6)).astype("float32")
    return features, (features[:, 0] > 0).astype("int32")


def fit(model, optimizer="adam", epochs=2, callbacks=(), **kwargs):
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **kwargs,
    )
    return model.fit(
        *data(), batch_size=16, epochs=epochs, verbose=0, callbacks=callbacks
    )


def reached(layer):
    return certified_log_norm(
        keras.ops.convert_to_numpy(layer.kernel).astype("float64"),
        layer.alpha,
        keras.ops.convert_to_numpy(layer.certificate),
    )


class CertifiedAtEveryStep(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.steps = 0

    def on_train_batch_end(self, batch, logs=None):
        layer = self.model.get_layer("ode")
        assert reached(layer) <= layer.delta_bar
        self.steps += 1


@pytest.mark.parametrize("delta_bar", [-0.5, 0.0, 0.7])
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_starts_feasible(delta_bar, alpha):
    layer = StableODELayer(LeakyTanh(alpha), delta_bar)
    layer.build((None, 12))
    assert reached(layer) <= delta_bar
    layer.assert_constraints()
    assert layer.stability().delta_upper <= delta_bar


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(0.05),
        lambda: keras.optimizers.SGD(0.5),
        lambda: keras.optimizers.AdamW(0.05, weight_decay=0.1),
        lambda: keras.optimizers.Adam(0.05, gradient_accumulation_steps=2),
    ],
)
def test_certified_after_every_step(optimizer):
    watcher = CertifiedAtEveryStep()
    fit(classifier(delta_bar=0.1), optimizer(), callbacks=[watcher])
    assert watcher.steps == 8


@pytest.mark.parametrize(
    ("jit_compile", "solver"), [(True, "rk4"), (False, "euler")]
)
def test_compiled_training(jit_compile, solver):
    model = classifier(delta_bar=0.0, solver=solver)
    before = model.get_layer("ode").kernel.numpy()
    history = fit(
        model,
        keras.optimizers.Adam(0.02),
        epochs=3,
        callbacks=[StabilityMonitor()],
        jit_compile=jit_compile,
    )
    layer = model.get_layer("ode")
    assert reached(layer) <= 0.0
    assert max(history.history["delta_upper"]) <= 0.0
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert np.abs(layer.kernel.numpy() - before).max() > 1e-4
    assert np.abs(layer.bias.numpy()).max() > 1e-4


def test_average_of_weights_is_feasible_too():
    model = classifier(delta_bar=0.0)
    optimizer = keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5)
    fit(model, optimizer, callbacks=[StabilityMonitor()])
    assert reached(model.get_layer("ode")) <= 0.0


@pytest.mark.parametrize(
    "policy", ["float64", "mixed_bfloat16", "mixed_float16"]
)
def test_dtypes(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = classifier(delta_bar=0.0)
        fit(model)
    finally:
        keras.config.set_dtype_policy("float32")
    layer = model.get_layer("ode")
    assert reached(layer) <= 0.0
    assert layer.kernel.dtype == (
        "float64" if policy == "float64" else "float32"
    )
    expected = policy.removeprefix("mixed_")
    assert layer(np.ones((2, 4))).dtype == expected


def test_subclassed_model():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = keras.layers.Dense(4)
            self.ode = StableODELayer(delta_bar=0.0, name="ode")
            self.last = keras.layers.Dense(2)

        def call(self, inputs):
            return self.last(self.ode(self.first(inputs)))

    model = Model()
    fit(model)
    assert reached(model.ode) <= 0.0


def test_two_layers_have_their_own_bounds():
    inputs = keras.Input((6,))
    one = StableODELayer(delta_bar=0.0, name="one")
    other = StableODELayer(delta_bar=-1.0, name="other")
    model = keras.Model(inputs, keras.layers.Dense(2)(other(one(inputs))))
    history = fit(model, callbacks=[StabilityMonitor()])
    assert reached(one) <= 0.0 and reached(other) <= -1.0
    assert "other/delta_upper" in history.history


@pytest.mark.parametrize(
    "activation",
    [SmoothLeakyReLU(0.2), LeakyTanh(0.3), CustomActivation(half_tanh, 0.5)],
)
@pytest.mark.parametrize("solver", ["dormand_prince", Euler(3), RungeKutta4(5)])
def test_config_round_trip(activation, solver):
    layer = StableODELayer(activation, 0.3, 2.0, solver, SkewSymmetric(1.0, 0))
    copy = StableODELayer.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    inputs = np.ones((2, 3), "float32")
    layer(inputs)
    copy(inputs)
    copy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(layer(inputs), copy(inputs))


def test_saved_model_file_keeps_certificate_and_constraint(tmp_path):
    model = classifier(delta_bar=0.0)
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    features, _ = data()
    np.testing.assert_array_equal(
        model.predict(features, verbose=0), loaded.predict(features, verbose=0)
    )
    assert reached(loaded.get_layer("ode")) <= 0.0
    fit(loaded, keras.optimizers.Adam(0.1))
    assert reached(loaded.get_layer("ode")) <= 0.0


def test_solves_the_equation():
    layer = StableODELayer(
        LeakyTanh(0.1), solver=RungeKutta4(50), dtype="float64"
    )
    state = np.array([[0.5, -1.0, 2.0]])
    layer.build(state.shape)
    layer.bias.assign([0.1, 0.2, 0.3])
    kernel, bias = layer.kernel.numpy(), layer.bias.numpy()

    def field(time, u):
        z = kernel @ u + bias
        return 0.1 * z + 0.9 * np.tanh(z)

    times = [0.0, 0.3, 1.0]
    reference = solve_ivp(
        field, (0, 1), state[0], t_eval=times, rtol=1e-11, atol=1e-12
    ).y.T
    np.testing.assert_allclose(layer(state)[0], reference[-1], atol=1e-8)
    trajectory = layer.trajectory(state, times)[:, 0]
    np.testing.assert_allclose(trajectory, reference, atol=1e-8)


def test_report_says_what_the_bound_is_for():
    keras.utils.set_random_seed(0)
    euler = StableODELayer(delta_bar=0.0, solver="euler")
    euler.build((None, 5))
    assert "Euler with 20 steps" in euler.stability().holds_for
    assert euler.stability().lipschitz_bound > 1.0
    discrete = StableODELayer(delta_bar=0.0, solver="rk4")
    discrete.build((None, 5))
    assert "RungeKutta4 with 20 steps" in discrete.stability().holds_for
    assert 1.0 < discrete.stability().lipschitz_bound < 2.0
    implicit = StableODELayer(delta_bar=0.0, solver="implicit_midpoint")
    implicit.build((None, 5))
    assert "solved exactly" in implicit.stability().holds_for
    assert implicit.stability().lipschitz_bound <= 1.0 + 1e-9
    exact = StableODELayer(delta_bar=0.0, solver="dormand_prince")
    exact.build((None, 5))
    report = exact.stability()
    assert "exact flow" in report.holds_for
    assert report.lipschitz_bound <= 1.0000001
    bracket = worst_case_log_norm(exact.kernel.numpy(), 0.1)
    assert report.delta_lower == bracket.lower


@pytest.mark.parametrize("delta_bar", [-0.5, 0.0, 0.7])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_discrete_bound_is_one_of_what_runs(delta_bar, alpha):
    """exp(δ̄T) bounds the Euler block too, from the start and in training."""
    model = classifier(
        activation=LeakyTanh(alpha),
        delta_bar=delta_bar,
        solver=Euler(2),
        discrete=True,
        kernel_initializer=SkewSymmetric(1.0, seed=0, damping=2.5),
    )
    layer = model.get_layer("ode")
    for epochs in (0, 2):
        if epochs:
            fit(model, keras.optimizers.Adam(0.05), epochs=epochs)
        layer.assert_constraints()
        report = layer.stability()
        assert report.lipschitz_bound <= np.exp(delta_bar) * (1 + 1e-9)
        assert report.delta_upper <= delta_bar
        steps = np.eye(4) + layer.kernel.numpy() / 2
        assert np.linalg.norm(steps, 2) <= np.sqrt(1 + delta_bar)


def test_discrete_violation_is_noticed():
    layer = StableODELayer(
        delta_bar=0.0, solver=Euler(1), discrete=True, name="mine"
    )
    layer.build((None, 3))
    layer.kernel.assign(-3.0 * np.eye(3))  # stable as a flow, not as a step
    with pytest.raises(ValueError, match="'mine'.*delta_bar=0.0"):
        layer.assert_constraints()
    assert layer.stability().lipschitz_bound == pytest.approx(2.0, rel=1e-5)
    layer.kernel.assign(layer.kernel.constraint(layer.kernel))
    layer.assert_constraints()


def test_euler_report_bounds_the_layer():
    layer = StableODELayer(LeakyTanh(0.1), kernel_initializer="he_normal")
    generator = np.random.default_rng(0)
    states = generator.standard_normal((500, 8)).astype("float32")
    moved = states + 1e-2 * generator.standard_normal(states.shape)
    growth = np.linalg.norm(layer(states) - layer(moved), axis=1)
    growth /= np.linalg.norm(states - moved, axis=1)
    assert growth.max() <= layer.stability().lipschitz_bound


def test_weights_set_by_hand_are_noticed():
    layer = StableODELayer(delta_bar=0.0, name="mine")
    layer.build((None, 3))
    layer.kernel.assign(np.eye(3))
    with pytest.raises(ValueError, match="'mine'.*delta_bar=0.0"):
        layer.assert_constraints()
    apply_constraints(layer.weights)
    layer.assert_constraints()


def test_unit_that_starts_cut_off_can_learn():
    """The nearest certified matrix may have a row and a column of zeros."""
    kernel = np.diag([3.0, -1.0, -0.5, -0.2])
    start = keras.initializers.Constant(kernel)
    layer = StableODELayer(delta_bar=0.0, kernel_initializer=start)
    layer.build((None, 4))
    step = np.zeros((4, 4), "float32")
    step[0, 0] = step[0, 1] = -0.1
    constrain = tf.function(lambda moved: layer.kernel.constraint(moved))
    for _ in range(40):
        layer.kernel.assign(constrain(layer.kernel.value + step))
        layer.assert_constraints()
    assert reached(layer) <= 0.0
    assert layer.kernel.numpy()[0, 0] < -0.01


def test_half_precision_variables_are_refused():
    layer = StableODELayer(delta_bar=0.0, dtype="float16")
    with pytest.raises(ValueError, match="float32.*dtype='float16'"):
        layer.build((None, 3))


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"delta_bar": np.nan}, ValueError, "delta_bar"),
        ({"delta_bar": "0"}, TypeError, "delta_bar"),
        ({"terminal_time": 0.0}, ValueError, "terminal_time"),
        ({"solver": "magic"}, ValueError, "solver"),
        ({"activation": "relu"}, ValueError, "activation"),
        ({"solver": "rk4", "discrete": True}, ValueError, "discrete"),
    ],
)
def test_refuses(kwargs, error, message):
    with pytest.raises(error, match=message):
        StableODELayer(**kwargs)


def test_refuses_shapes():
    with pytest.raises(ValueError, match="ndim=3"):
        StableODELayer()(np.ones((2, 3, 4), "float32"))
    with pytest.raises(ValueError, match="last dimension"):
        StableODELayer().build((None, None))
    with pytest.raises(ValueError, match="no weights yet"):
        StableODELayer(name="early").stability()
