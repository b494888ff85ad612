"""Tests of making trained models stable, and free again."""

import keras
import numpy as np
import pytest

from stable_node_tf import (
    DeepODELayer,
    Euler,
    PiecewiseODELayer,
    StabilityMonitor,
    StableODELayer,
    nearest_stable,
    stabilize,
)
from stable_node_tf.layers.ode_layer import ODELayer

X = np.random.default_rng(0).standard_normal((16, 4)).astype("float32")
# Gains such that δ is above 1.
LARGE = {"kernel_initializer": keras.initializers.RandomNormal(0.0, 1.5, 3)}


def nested():
    inputs = keras.Input((4,), name="state")
    inner = keras.Sequential(
        [
            keras.Input((4,)),
            PiecewiseODELayer(
                DeepODELayer((3,), damping=0.5, **LARGE), 2, name="pieces"
            ),
        ],
        name="inner",
    )
    state = StableODELayer(**LARGE, name="ode")(inner(inputs))
    state = keras.layers.Reshape((2, 2))(state / 2.0)
    state = keras.layers.TimeDistributed(
        StableODELayer(**LARGE, name="each"), name="wrapper"
    )(state)
    state = keras.layers.BatchNormalization()(keras.layers.Flatten()(state))
    frozen = keras.layers.Dense(3, name="logits", trainable=False)
    return keras.Model(inputs, frozen(state), name="nested")


def sequential(dtype="float32"):
    model = keras.Sequential(
        [
            keras.layers.Dense(4, name="encoder", dtype=dtype),
            StableODELayer(solver=Euler(5), **LARGE, name="ode", dtype=dtype),
        ],
        name="chain",
    )
    model(X)
    return model


def odes(model):
    return [x for x in model._flatten_layers() if isinstance(x, ODELayer)]


def same(one, other):
    return all(
        np.array_equal(a, b)
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True)
    )


@pytest.fixture(scope="module")
def pair():
    """A free model and the stable one that was made of it."""
    keras.utils.set_random_seed(0)
    model = nested()
    return model, *stabilize(model, 0.0)


def test_all_layers_satisfy_the_bound(pair):
    model, stable, report = pair
    assert len(odes(stable)) == len(odes(model)) == 4
    for layer in odes(stable):
        assert layer.delta_bar == 0.0
        layer.assert_constraints()
    for layer in odes(model):
        assert layer.delta_bar is None
    assert [row.name for row in report.layers] == [
        "pieces_piece_0",
        "pieces_piece_1",
        "ode",
        "each",
    ]
    for row in report.layers:
        assert row.delta_before[0] > 0.0 >= row.delta_after[1]
        assert row.lipschitz_after < row.lipschitz_before
        assert row.distance > 0.0


def test_names_and_other_weights_stay(pair):
    model, stable, _ = pair
    assert stable.name == "nested"
    assert [x.name for x in stable.layers] == [x.name for x in model.layers]
    assert same(stable.layers[-1], model.layers[-1])
    assert same(stable.layers[-2], model.layers[-2])
    assert not stable.layers[-1].trainable


def test_the_kernel_is_the_nearest(pair):
    model, stable, report = pair
    layer = model.get_layer("ode")
    nearest = nearest_stable(layer.kernel.numpy(), 0.0, layer.alpha)
    [row] = [row for row in report.layers if row.name == "ode"]
    assert row.distance == pytest.approx(nearest.distance, rel=1e-3)
    moved = stable.get_layer("ode").kernel.numpy() - layer.kernel.numpy()
    assert row.distance == pytest.approx(np.linalg.norm(moved), rel=1e-6)


def test_the_report_is_a_table(pair):
    *_, report = pair
    lines = str(report).splitlines()
    assert len(lines) == 5
    assert lines[0].split()[:3] == ["layer", "δ", "before"]
    assert "Euler with 20 steps" in lines[3]


def test_training_and_saving_go_on(tmp_path):
    stable, _ = stabilize(sequential(), 0.0)
    again, report = stabilize(stable, 0.0)
    assert same(again, stable)
    assert report.layers[0].distance == 0.0
    again.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
    again.fit(X, X, verbose=0, callbacks=[StabilityMonitor()])
    assert not same(again, stable)
    again.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), again(X))
    loaded.get_layer("ode").assert_constraints()


def test_none_frees(pair):
    model, stable, _ = pair
    free, report = stabilize(stable, None)
    assert {layer.delta_bar for layer in odes(free)} == {None}
    np.testing.assert_array_equal(free(X), stable(X))
    assert {row.distance for row in report.layers} == {0.0}
    model.set_weights(free.get_weights())
    np.testing.assert_array_equal(model(X), stable(X))


@pytest.mark.parametrize(
    ("dtype", "discrete", "delta_bar"),
    [
        ("float32", False, -0.5),
        ("float32", True, 0.3),
        ("float32", True, -0.5),
        ("float64", True, -0.5),
        ("float64", False, 0.3),
        ("mixed_bfloat16", False, 0.3),
        ("mixed_bfloat16", True, 0.3),
    ],
)
def test_rounded_kernels_are_certified(dtype, discrete, delta_bar):
    keras.utils.set_random_seed(1)
    model = sequential(dtype)
    stable, report = stabilize(model, delta_bar, discrete=discrete)
    layer = stable.get_layer("ode")
    layer.assert_constraints()
    assert layer.discrete == discrete
    [row] = report.layers
    assert row.delta_after[1] <= delta_bar
    if discrete:
        assert row.lipschitz_after <= np.exp(delta_bar) * (1 + 1e-9)


def test_what_satisfies_the_bound_stays():
    model = sequential()
    stable, report = stabilize(model, 50.0)
    assert report.layers[0].distance == 0.0
    np.testing.assert_array_equal(stable(X), model(X))


def test_spectral_norms():
    model = sequential()
    stable, report = stabilize(model, 0.0, max_norms={"encoder": 0.5})
    assert [row.name for row in report.layers] == ["encoder", "ode"]
    assert report.layers[0].lipschitz_after <= 0.5 * (1 + 1e-6)
    kernel = stable.get_layer("encoder").kernel.numpy()
    assert np.linalg.norm(kernel.astype("f8"), 2) <= 0.5
    assert stable.get_layer("encoder").kernel.constraint.max_norm == 0.5
    free, _ = stabilize(stable, None, max_norms={"encoder": None})
    assert free.get_layer("encoder").kernel.constraint is None
    np.testing.assert_array_equal(free(X), stable(X))


class Unknown(keras.Model):
    def __init__(self):
        super().__init__()
        self.ode = StableODELayer()

    def call(self, inputs):
        return self.ode(inputs)


@pytest.mark.parametrize(
    ("model", "arguments", "error", "message"),
    [
        (3, {}, TypeError, "`model` must be a Keras model"),
        (Unknown(), {}, ValueError, "`call` of its own"),
        (
            keras.Sequential([StableODELayer()]),
            {},
            ValueError,
            "must have weights",
        ),
        (
            keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)]),
            {},
            ValueError,
            "a neural ODE layer",
        ),
        (
            keras.Sequential([keras.Input((4,)), DeepODELayer((3,))]),
            {"discrete": True},
            ValueError,
            "`discrete`.*'deep_ode",
        ),
        (
            keras.Sequential([keras.Input((4,)), DeepODELayer((3,))]),
            {},
            ValueError,
            "Raise `damping`",
        ),
        (
            keras.Sequential([keras.Input((4,)), StableODELayer(name="ode")]),
            {"max_norms": {"ode": 1.0}},
            ValueError,
            "`max_norms` must name dense layers.*'ode'",
        ),
        (
            keras.Sequential([keras.Input((4,)), StableODELayer(solver="rk4")]),
            {"discrete": True},
            ValueError,
            "`discrete` needs",
        ),
    ],
)
def test_what_it_refuses(model, arguments, error, message):
    with pytest.raises(error, match=message):
        stabilize(model, 0.0, **arguments)
