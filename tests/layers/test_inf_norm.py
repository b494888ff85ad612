"""StableODELayer in the ∞-norm, and its certificates in the 2-norm."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import (
    Euler,
    LeakyTanh,
    LogNormConstraint,
    PiecewiseODELayer,
    StabilityMonitor,
    StableODELayer,
    solvers,
    stabilize,
    worst_case_log_norm,
)
from stable_node_tf.certification.certifier import certifier
from stable_node_tf.certification.rules import layer_lipschitz
from stable_node_tf.layers.solver_bounds import (
    inf_solver_lipschitz,
    solver_lipschitz,
)
from stable_node_tf.stability.inf_log_norm import inf_euler_log_norm

ALPHA = 0.2
WITH_BOUND = [
    solvers.Euler,
    solvers.SSPRungeKutta3,
    solvers.RungeKutta4,
    solvers.ImplicitMidpoint,
]
LARGE = {"kernel_initializer": keras.initializers.RandomNormal(0.0, 1.5, 3)}


def reached(layer, step=0.0):
    kernel = keras.ops.convert_to_numpy(layer.kernel).astype("float64")
    return inf_euler_log_norm(kernel, layer.alpha, step)[1]


def classifier(layer, size=4):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(size)])
    model.add(layer)
    model.add(keras.layers.Dense(2))
    return model


@pytest.mark.parametrize("solver_class", WITH_BOUND)
@pytest.mark.parametrize("shift", [-1.0, 0.0, 4.0, 30.0])
@pytest.mark.parametrize("num_steps", [4, 30])
def test_no_two_solutions_violate_the_bound(solver_class, shift, num_steps):
    generator = np.random.default_rng(3)
    matrix = generator.standard_normal((5, 5)) - shift * np.eye(5)
    bias = 0.1 * generator.standard_normal(5)
    solver = solver_class(num_steps)
    delta = worst_case_log_norm(matrix, ALPHA, norm="inf").upper
    bound = inf_solver_lipschitz(solver, matrix, ALPHA, 1.0, delta)
    start = generator.standard_normal((64, 5))
    nearby = start + 1e-3 * np.sign(generator.standard_normal((64, 5)))
    end = solvers.integrate(
        solver,
        solvers.LayerField(LeakyTanh(ALPHA)),
        tf.constant(np.concatenate([start, nearby])),
        1.0,
        {"kernel": matrix, "bias": bias},
    ).numpy()
    stretch = np.abs(end[:64] - end[64:]).max(1)
    stretch /= np.abs(start - nearby).max(1)
    assert stretch.max() <= bound.value * (1 + 1e-9)
    assert bound.norm == "inf"
    assert f"{solver_class.__name__} with {num_steps} steps" in bound.holds_for


@pytest.mark.parametrize("solver_class", WITH_BOUND)
def test_bounds_tend_to_that_of_the_flow(solver_class):
    generator = np.random.default_rng(4)
    matrix = generator.standard_normal((5, 5)) - np.eye(5)
    delta = worst_case_log_norm(matrix, ALPHA, norm="inf").upper
    coarse, fine = (
        inf_solver_lipschitz(solver_class(n), matrix, ALPHA, 1.0, delta).value
        / np.exp(delta)
        - 1.0
        for n in (40, 4000)
    )
    assert abs(fine) < 0.02 * abs(coarse) + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_a_step_of_euler_needs_no_second_order_term(seed):
    generator = np.random.default_rng(seed)
    matrix = generator.standard_normal((6, 6)) - 2.0 * np.eye(6)
    step = 1.0 / np.abs(np.diagonal(matrix)).max()
    delta = worst_case_log_norm(matrix, ALPHA, norm="inf").upper
    bound = inf_solver_lipschitz(Euler(1), matrix, ALPHA, step, delta)
    assert bound.value == pytest.approx(1.0 + step * delta, abs=1e-13)
    for _ in range(50):
        D = generator.uniform(ALPHA, 1.0, (6, 1))
        norm = np.linalg.norm(np.eye(6) + step * D * matrix, np.inf)
        assert norm <= bound.value + 1e-14


@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_bfloat16"])
@pytest.mark.parametrize("discrete, jit", [(False, True), (True, False)])
def test_training_stays_inside(dtype, discrete, jit):
    layer = StableODELayer(
        LeakyTanh(0.3),
        delta_bar=-0.1,
        solver=Euler(4),
        discrete=discrete,
        norm="inf",
        dtype=dtype,
        name="ode",
    )
    model = classifier(layer)
    step = 0.25 if discrete else 0.0
    assert reached(layer, step) <= -0.1
    model.compile(
        keras.optimizers.Adam(0.05),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit,
    )
    features = np.random.default_rng(0).standard_normal((64, 6))
    before = layer.kernel.numpy()
    history = model.fit(
        features.astype("float32"),
        (features[:, 0] > 0).astype("int32"),
        batch_size=16,
        epochs=3,
        verbose=0,
        callbacks=[StabilityMonitor()],
    ).history
    assert reached(layer, step) <= -0.1
    assert max(history["delta_upper"]) <= -0.1
    assert min(history["perturbation"]) > 0.0
    assert history["loss"][-1] < history["loss"][0]
    assert np.abs(layer.kernel.numpy() - before).max() > 1e-3
    report = layer.stability()
    assert report.holds_for == ("Euler with 4 steps, ∞-norm, real arithmetic")
    assert report.delta_lower <= report.delta_upper <= -0.1
    if discrete:
        assert report.lipschitz_bound <= np.exp(-0.1)


def test_average_of_weights_is_inside_too():
    layer = StableODELayer(delta_bar=0.0, norm="inf")
    model = classifier(layer)
    model.compile(keras.optimizers.SGD(1.0, use_ema=True), "mse")
    x = np.random.default_rng(0).standard_normal((32, 6)).astype("float32")
    callbacks = [StabilityMonitor()]
    model.fit(x, x[:, :2], epochs=2, verbose=0, callbacks=callbacks)
    assert reached(layer) <= 0.0


def test_saved_with_its_norm(tmp_path):
    pieces = PiecewiseODELayer(
        StableODELayer(delta_bar=0.0, norm=np.inf, **LARGE), 2, name="ode"
    )
    model = classifier(pieces)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path).get_layer("ode")
    assert [piece.norm for piece in loaded.pieces] == ["inf", "inf"]
    assert isinstance(loaded.pieces[0].kernel.constraint, LogNormConstraint)
    assert loaded.pieces[0].kernel.constraint.norm == "inf"
    for mine, other in zip(loaded.weights, pieces.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy())
    loaded.assert_constraints()
    assert loaded.lipschitz_bound().norm == "inf"
    assert "∞-norm" in loaded.stability().holds_for
    kernel = loaded.pieces[1].kernel
    kernel.assign(kernel + 1e-3 * np.eye(4, dtype="float32"))
    with pytest.raises(ValueError, match="δ <= delta_bar=0.0"):
        loaded.assert_constraints()


def test_certified_radii_rest_on_the_2_norm():
    layer = StableODELayer(delta_bar=0.0, norm="inf", name="ode", **LARGE)
    model = classifier(layer, size=8)
    kernel = layer.kernel.numpy().astype("float64")
    delta = worst_case_log_norm(kernel, layer.alpha).upper
    euclidean = solver_lipschitz(
        layer.solver, kernel, layer.alpha, 1.0, delta
    ).value
    # For this kernel the ∞-norm would promise too much.
    assert layer.lipschitz_bound().value < euclidean
    assert layer_lipschitz(layer) == pytest.approx(euclidean, rel=1e-6)
    assert layer.lipschitz_bound(norm="2").norm == "2"
    ends = [model.layers[0].kernel.numpy(), model.layers[-1].kernel.numpy()]
    expected = euclidean * np.linalg.norm(ends[0], 2)
    expected *= np.linalg.norm(ends[1][:, 0] - ends[1][:, 1])
    pairs = certifier(model).pair_lipschitz
    assert pairs[0, 1] == pytest.approx(expected, rel=1e-5)


def test_either_layer_bounds_the_other_norm():
    layer = StableODELayer(delta_bar=0.0)
    layer.build((None, 5))
    bound = layer.lipschitz_bound(norm="inf")
    assert bound.norm == "inf"
    assert bound.value > layer.lipschitz_bound().value
    with pytest.raises(TypeError):
        layer.stability(norm="inf")


@pytest.mark.parametrize("discrete", [False, True])
def test_stabilize_keeps_the_norm_of_the_layer(discrete):
    free = StableODELayer(norm="inf", solver=Euler(3), name="ode", **LARGE)
    model = classifier(free)
    stable, report = stabilize(model, 0.1, discrete=discrete)
    layer = stable.get_layer("ode")
    assert layer.norm == "inf"
    assert reached(layer, discrete / 3) <= 0.1
    assert report.layers[0].distance > 0.1
    assert report.layers[0].holds_for == "Euler with 3 steps, ∞-norm"
    again = stabilize(stable, 0.1, discrete=discrete).model.get_layer("ode")
    np.testing.assert_array_equal(again.kernel.numpy(), layer.kernel.numpy())
    back = stabilize(stable, None).model.get_layer("ode")
    assert back.norm == "inf" and back.delta_bar is None
    np.testing.assert_array_equal(back.kernel.numpy(), layer.kernel.numpy())
