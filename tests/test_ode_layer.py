"""Tests of what all ODE layers have in common."""

import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import (
    DeepODELayer,
    LeakyTanh,
    PiecewiseODELayer,
    StableODELayer,
)
from stable_node_tf.solvers import PerSampleDormandPrince

LAYERS = {
    "one layer": StableODELayer,
    "deep": lambda **options: DeepODELayer((5,), damping=0.5, **options),
    "pieces": lambda **options: PiecewiseODELayer(StableODELayer(**options), 2),
}
STATES = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
each_layer = pytest.mark.parametrize("kind", LAYERS)


@each_layer
def test_statistics(kind):
    layer = LAYERS[kind](solver=PerSampleDormandPrince(1e-6, 1e-7))
    scaled = layer(STATES * [[0.1], [1.0], [100.0]])
    statistics = layer.solver_statistics(scaled)
    pieces = 2 if kind == "pieces" else 1
    assert (statistics.accepted.numpy() >= pieces).all()
    assert (statistics.status.numpy() == 0).all()
    steps = statistics.accepted + statistics.rejected
    np.testing.assert_array_equal(
        statistics.num_ode_fn_evaluations, 2 * pieces + 6 * steps
    )
    assert (statistics.last_step.numpy() <= 1.0 / pieces).all()
    for values in statistics:
        assert values.shape == (3,)
    others = layer.solver_statistics(tf.repeat(scaled[1:2], 3, axis=0))
    np.testing.assert_array_equal(others.accepted[1], statistics.accepted[1])


@each_layer
def test_statistics_need_a_step_control_of_each_row(kind):
    with pytest.raises(ValueError, match="PerSampleDormandPrince"):
        LAYERS[kind](solver="euler").solver_statistics(STATES)
    with pytest.raises(ValueError, match="no weights yet"):
        LAYERS[kind](solver="dormand_prince_per_sample").solver_statistics(
            STATES
        )


@each_layer
def test_input_that_is_not_finite(kind):
    """NaN on a grid, in that row only; an error where it would not end."""
    states = STATES.copy()
    states[1, 2] = np.nan
    layer = LAYERS[kind](solver="euler")
    end = layer(states).numpy()
    assert np.isnan(end[1]).any()
    np.testing.assert_array_equal(end[[0, 2]], layer(STATES).numpy()[[0, 2]])
    for solver in ("dormand_prince_per_sample", "dormand_prince"):
        layer = LAYERS[kind](solver=solver)
        solve = tf.function(layer)
        with pytest.raises(tf.errors.InvalidArgumentError, match="finite"):
            solve(states)
    layer = LAYERS[kind](solver="dormand_prince_per_sample")
    layer.build(states.shape)
    with pytest.raises(tf.errors.InvalidArgumentError, match="finite"):
        layer.solver_statistics(states)


@each_layer
@pytest.mark.parametrize(
    ("solver", "error", "message"),
    [
        ("dopri5", ValueError, "`solver` must be one of 'euler'.*'dopri5'"),
        (20, TypeError, "`solver` must be one of 'euler'.*20"),
        (
            {"class_name": "stable_node_tf>Euler", "config": {"num_steps": 0}},
            ValueError,
            "`solver`.*`num_steps` must be at least 1. Received: num_steps=0",
        ),
        (
            {
                "class_name": "stable_node_tf>Euler",
                "config": {"num_steps": True},
            },
            ValueError,
            "`solver`.*`num_steps` must be an integer.*num_steps=True",
        ),
    ],
)
def test_solvers_that_are_none(kind, solver, error, message):
    with pytest.raises(error, match=message):
        LAYERS[kind](solver=solver)


@each_layer
def test_input_of_another_shape(kind):
    layer = LAYERS[kind]()
    with pytest.raises(ValueError, match="ndim=2"):
        layer(np.ones((2, 3, 4), "float32"))
    layer(STATES)
    with pytest.raises(ValueError, match="shape"):
        layer(np.ones((2, 3), "float32"))


@each_layer
def test_trajectories_refuse_what_they_cannot_follow(kind):
    layer = LAYERS[kind](solver=PerSampleDormandPrince())
    with pytest.raises(ValueError, match="no weights yet"):
        layer.trajectory(STATES, [0.9])
    assert not any(inner.built for inner in layer._flatten_layers())
    layer(STATES)
    for state in (
        STATES[0],
        STATES[:, :2],
        STATES[None],
        STATES.astype(complex),
        STATES.astype(str),
        STATES > 0.0,
    ):
        for method in (
            lambda u: layer.trajectory(u, [0.0, 0.9]),
            layer.solver_statistics,
        ):
            with pytest.raises(
                ValueError, match=r"`inputs` must be real.* Received: inputs of"
            ):
                method(state)
    for times in (0.5, None, [[0.5]], ["0.5"], [None], "half"):
        with pytest.raises(TypeError, match="`times` must be"):
            layer.trajectory(STATES, times)
    for times in ([], np.zeros(0), [-0.5], [np.nan], [np.inf]):
        with pytest.raises(ValueError, match="`times` must be"):
            layer.trajectory(STATES, times)
    assert layer.trajectory([[1, 2, 3, 4]], (0, 0.5)).shape == (2, 1, 4)


@pytest.mark.parametrize(
    "layer", [StableODELayer(), LAYERS["deep"]()], ids=["one layer", "deep"]
)
def test_what_is_set_is_checked(layer):
    layer.solver = "bdf"
    assert not layer.supports_jit
    layer.solver = "rk4"
    assert layer.supports_jit
    layer.activation = "leaky_tanh"
    fresh = type(layer).from_config(layer.get_config())
    for either in (layer, fresh):
        either.build((None, 4))
        assert either.lipschitz_bound().holds_for == "RungeKutta4 with 20 steps"
        assert isinstance(either.activation, LeakyTanh)
    with pytest.raises(ValueError, match="`solver` must be one of"):
        layer.solver = "rk7"
    with pytest.raises(TypeError, match="`activation` must be"):
        layer.activation = tf.nn.relu
    assert isinstance(layer.activation, LeakyTanh)


@each_layer
def test_a_constraint_stays_one_of_the_activation(kind):
    layer = LAYERS[kind](delta_bar=0.0, activation=LeakyTanh(0.3))
    layer(STATES)
    one = getattr(layer, "pieces", [layer])[-1]
    one.activation = LeakyTanh(0.5)
    layer.assert_constraints()
    with pytest.raises(ValueError, match=r"slopes in \[0.5, 1\].* alpha=0.1"):
        one.activation = "leaky_tanh"
    assert one.alpha == 0.5
