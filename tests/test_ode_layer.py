"""Tests of what all ODE layers have in common."""

import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import DeepODELayer, PiecewiseODELayer, StableODELayer
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
