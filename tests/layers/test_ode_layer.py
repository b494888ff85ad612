"""Tests of what all ODE layers have in common."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import (
    DeepODELayer,
    Euler,
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


@each_layer
@pytest.mark.parametrize(
    ("solver", "error", "message"),
    [
        ("dopri5", ValueError, "`solver` must be one of .*'euler'.*'dopri5'"),
        (20, TypeError, "`solver` must be one of .*'euler'.*20"),
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
        with pytest.raises(
            ValueError, match=r"`inputs` must be real.* Received: inputs of"
        ):
            layer.trajectory(state, [0.0, 0.9])
    for times in (0.5, None, [[0.5]], ["0.5"], [None], "half"):
        with pytest.raises(TypeError, match="`times` must be"):
            layer.trajectory(STATES, times)
    for times in ([], np.zeros(0), [-0.5], [np.nan], [np.inf]):
        with pytest.raises(ValueError, match="`times` must be"):
            layer.trajectory(STATES, times)
    assert layer.trajectory([[1, 2, 3, 4]], (0, 0.5)).shape == (2, 1, 4)


@each_layer
def test_what_xla_cannot_compile_is_said(kind):
    assert not LAYERS[kind](solver="bdf").supports_jit
    assert LAYERS[kind](solver="rk4").supports_jit


@each_layer
def test_arguments_of_the_solver_and_of_the_activation(kind):
    for arguments, message in (
        (
            {"solver": "rk4", "num_steps": 10},
            r"`num_steps` .* give solver=RungeKutta4\(num_steps=10\)",
        ),
        (
            {"solver": "dormand_prince", "rtol": 1e-3},
            r"give solver=DormandPrince\(rtol=0.001\)",
        ),
        (
            {"solver": "dormand_prince", "num_steps": 10},
            "`num_steps` is not an arg.* solver DormandPrince or",
        ),
        ({"alpha": 0.3}, r"give activation=SmoothLeakyReLU\(alpha=0.3\)"),
    ):
        with pytest.raises(TypeError, match=message):
            LAYERS[kind](**arguments)


@keras.saving.register_keras_serializable(package="test_ode_layer")
class Tripled(Euler):
    """Computes something else than its parent."""

    def solve(self, *args, **kwargs):
        results = super().solve(*args, **kwargs)
        return results._replace(states=3.0 * results.states)


@each_layer
@pytest.mark.parametrize("bound", [False, True])
def test_a_subclass_of_a_solver_has_the_bound_of_the_flow(kind, bound):
    options = {"delta_bar": 0.1} if bound else {}
    layer = LAYERS[kind](solver=Tripled(2), **options)
    plain = LAYERS[kind](solver=Euler(2), **options)
    layer.build((None, 4))
    plain.build((None, 4))
    plain.set_weights(layer.get_weights())
    assert np.linalg.norm(layer(STATES)) > 2 * np.linalg.norm(plain(STATES))
    assert "exact flow" in layer.stability().holds_for
    assert layer.lipschitz_bound().step is None


def test_discrete_needs_euler_itself():
    with pytest.raises(ValueError, match="no subclass.*Tripled"):
        StableODELayer(delta_bar=0.0, discrete=True, solver=Tripled(2))


@each_layer
def test_instances_with_replaced_methods_have_no_bounds(kind):
    """Where they got past `__setattr__`."""
    layer = LAYERS[kind]()
    layer.build((None, 4))
    piece = getattr(layer, "pieces", [layer])[-1]
    for part, name in (
        (layer, "call"),
        (piece, "_solve"),
        (piece.activation, "value_and_slope"),
        (piece.solver, "solve"),
    ):
        vars(part)[name] = lambda *_: 3.0
        for bounds in (layer.stability, layer.lipschitz_bound):
            with pytest.raises(ValueError, match=f"a replaced {name}"):
                bounds()
        del vars(part)[name]
    assert layer.stability().lipschitz_bound > 0.0


@each_layer
def test_a_subclass_with_another_call_needs_bounds_of_its_own(kind):
    parent = type(LAYERS[kind]())

    class Thrice(parent):
        def call(self, inputs):
            return 3.0 * super().call(inputs)

    class Bounded(Thrice):
        def lipschitz_bound(self, delta=None):
            del delta
            return super().lipschitz_bound()._replace(value=1e9)

    config = LAYERS[kind]().get_config()
    layer = Thrice.from_config(config)
    layer.build((None, 4))
    with pytest.raises(ValueError, match=f"{parent.__name__} .* own `call`"):
        layer.lipschitz_bound()
    assert layer.delta_bounds()[0] <= layer.delta_bounds()[1]
    bounded = Bounded.from_config(config)
    bounded.build((None, 4))
    assert bounded.lipschitz_bound().value == 1e9


class Subclassed(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, inputs):
        return self.layer(inputs)


@each_layer
def test_complex_inputs_are_refused(kind):
    states = STATES + 1j
    chain = [keras.Input((4,)), keras.layers.Dense(4), LAYERS[kind]()]
    for call in (
        LAYERS[kind](),
        tf.function(LAYERS[kind]()),
        lambda u: Subclassed(LAYERS[kind]()).predict(u, verbose=0),
        lambda u: LAYERS[kind]()(keras.Input((4,), dtype=u.dtype.name)),
        # Keras has dropped the imaginary part before any layer is called.
        lambda u: keras.Sequential(chain).predict(u, verbose=0),
        lambda u: keras.Sequential([LAYERS[kind]()]).predict(u, verbose=0),
    ):
        with pytest.raises(ValueError, match="`inputs` must be real"):
            call(states)
    assert LAYERS[kind]()(np.ones((2, 4), "int32")).dtype == "float32"


@each_layer
def test_weights_of_the_other_kind_name_the_way(kind, tmp_path):
    bound = {"delta_bar": 0.1}
    models = [
        keras.Sequential([keras.Input((4,)), LAYERS[kind](**options)])
        for options in ({}, bound)
    ]
    path = tmp_path / "model.weights.h5"
    for one, other in (models, models[::-1]):
        with pytest.raises(ValueError, match="stable_node_tf.stabilize"):
            other.layers[0].set_weights(one.layers[0].get_weights())
        one.save_weights(path)
        with pytest.raises(ValueError, match="stable_node_tf.stabilize"):
            other.load_weights(path)
        one.load_weights(path)
        one.layers[0].set_weights(one.layers[0].get_weights())
