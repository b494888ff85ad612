"""Tests of `integrate`: gradients, dtypes, XLA and arguments."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from stable_node_tf import LeakyTanh
from stable_node_tf.solvers import (
    NAMES,
    DormandPrince5,
    Euler,
    ImplicitMidpoint,
    LayerField,
    PerSampleDormandPrince,
    RungeKutta4,
    fixed_grid,
    get,
    integrate,
)

ode = tfp.math.ode

TIGHT = {"rtol": 1e-11, "atol": 1e-12, "max_num_steps": 5000}
TIGHT_SOLVERS = {
    "euler": Euler(5),
    "rk5": DormandPrince5(2),
    "implicit_midpoint": ImplicitMidpoint(3),
    "dormand_prince": ode.DormandPrince(**TIGHT),
    "bdf": ode.BDF(
        **TIGHT, make_adjoint_solver_fn=lambda: ode.DormandPrince(**TIGHT)
    ),
}


def layer_fn(time, state, kernel, bias):
    del time
    return tf.tanh(tf.matmul(state, kernel, transpose_b=True) + bias)


def logistic_fn(time, state):
    del time
    return state * (1 - state)


@pytest.fixture(name="problem")
def _problem():
    rng = np.random.default_rng(0)
    state = tf.constant(rng.standard_normal((3, 4)))
    constants = {
        "kernel": tf.constant(rng.standard_normal((4, 4)) / 2),
        "bias": tf.constant(rng.standard_normal(4) / 10),
    }
    return state, constants


def test_unrolled_and_looped_grids_agree(problem, monkeypatch):
    state, constants = problem

    def value_and_gradients():
        return gradients(RungeKutta4(6), state, constants)

    unrolled = value_and_gradients()
    monkeypatch.setattr(fixed_grid, "MAX_UNROLLED_STAGES", 0)
    looped = tf.function(value_and_gradients)()
    tf.nest.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
        unrolled,
        looped,
    )


def gradients(solver, state, constants):
    with tf.GradientTape() as tape:
        tape.watch((state, constants))
        end = integrate(solver, layer_fn, state, 1.0, constants)
        loss = tf.reduce_sum(tf.sin(end))
    return loss, tape.gradient(loss, (state, constants))


@pytest.mark.parametrize("name", TIGHT_SOLVERS)
def test_gradients_agree_with_finite_differences(name, problem):
    state, constants = problem
    solver = TIGHT_SOLVERS[name]
    solve = tf.function(lambda u, c: gradients(solver, u, c))
    _, slopes = solve(state, constants)
    rng = np.random.default_rng(2)
    step = 1e-4
    for _ in range(2):
        shift = tf.nest.map_structure(
            lambda v: tf.constant(rng.standard_normal(v.shape)), problem
        )
        ahead, behind = (
            solve(
                *tf.nest.map_structure(
                    lambda v, s, h=h: v + h * s, problem, shift
                )
            )[0]
            for h in (step, -step)
        )
        expected = (ahead - behind) / (2 * step)
        directional = sum(
            tf.reduce_sum(g * s)
            for g, s in zip(
                tf.nest.flatten(slopes), tf.nest.flatten(shift), strict=True
            )
        )
        np.testing.assert_allclose(directional, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["euler", "dormand_prince"])
def test_compiled_by_xla_with_unknown_batch(name, problem):
    state, constants = problem
    spec = tf.TensorSpec((None, 4), tf.float64)
    compiled = tf.function(
        lambda u: gradients(get(name), u, constants),
        input_signature=[spec],
        jit_compile=True,
    )
    tf.nest.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        compiled(state),
        gradients(get(name), state, constants),
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", ["rk4", "dormand_prince"])
def test_low_precision_states_are_integrated_in_float32(name, dtype, problem):
    state, constants = problem
    low = tf.cast(state, dtype)
    exact = integrate(
        get("rk4"), layer_fn, tf.cast(low, tf.float64), 1.0, constants
    )
    end = integrate(get(name), layer_fn, low, 1.0, constants)
    assert end.dtype == low.dtype
    assert end.shape == low.shape
    if dtype == "float32":
        np.testing.assert_allclose(end, exact, atol=1e-5)
    else:
        rounded = tf.cast(tf.cast(exact, dtype), tf.float32).numpy()
        unit = {"float16": 2**-10, "bfloat16": 2**-7}[dtype]
        np.testing.assert_allclose(
            tf.cast(end, tf.float32), rounded, rtol=unit, atol=1e-4
        )


def test_a_fixed_grid_can_be_the_adjoint_solver_of_tfp(problem):
    state, constants = problem
    mixed = ode.DormandPrince(
        **TIGHT, make_adjoint_solver_fn=lambda: RungeKutta4(40)
    )
    _, expected = gradients(RungeKutta4(40), state, constants)
    _, actual = tf.function(lambda: gradients(mixed, state, constants))()
    tf.nest.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        actual,
        expected,
    )


def test_bad_arguments_are_refused():
    state = tf.ones((1, 2))
    for time in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="terminal_time"):
            integrate(Euler(2), logistic_fn, state, time)
    with pytest.raises(ValueError, match="must be a scalar.*shape .2,"):
        integrate(Euler(2), logistic_fn, state, [1.0, 2.0])
    with pytest.raises(TypeError, match="floating"):
        integrate(Euler(2), logistic_fn, tf.ones((1, 2), tf.int32))
    unknown = tf.TensorSpec(None)
    with pytest.raises(ValueError, match="known length"):
        tf.function(
            lambda t: Euler(2).solve(logistic_fn, 0.0, state, t).states,
            input_signature=[unknown],
        ).get_concrete_function()
    with pytest.raises(ValueError, match="width d"):
        tf.function(
            lambda u: integrate(get("bdf"), logistic_fn, u),
            input_signature=[tf.TensorSpec((None, None))],
        ).get_concrete_function()


def test_input_gradients_of_direct_and_adjoint_kinds_agree(problem):
    """All are gradients of nearly the same flow, so attacks see the same."""
    state, constants = problem
    field = LayerField(LeakyTanh(0.2))
    direct, adjoint, per_sample = (
        tf.function(
            lambda s=solver: input_gradient(s, field, state, constants)
        )()
        for solver in (
            RungeKutta4(100),
            TIGHT_SOLVERS["dormand_prince"],
            PerSampleDormandPrince(1e-9, 1e-10),
        )
    )
    np.testing.assert_allclose(adjoint, direct, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(per_sample, direct, rtol=1e-6, atol=1e-8)


def input_gradient(solver, ode_fn, state, constants):
    with tf.GradientTape() as tape:
        tape.watch(state)
        end = integrate(solver, ode_fn, state, 1.0, constants)
        total = tf.reduce_sum(tf.sin(end))
    return tape.gradient(total, state)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "derivative, received",
    [
        (lambda t, u: u[:, :1], r"a float32 of shape \(\d, 1\)"),
        (lambda t, u: tf.ones((3, 2)), r"a float32 of shape \(3, 2\)"),
        (lambda t, u: tf.cast(u, tf.float64), "a float64"),
        (lambda t, u: {"u": u}, r"\{'u': 'a float32"),
        (lambda t, u: (u, u), r"\('a float32"),
        (lambda t, u: None, "None"),
        (lambda t, u: "u", "'u' for a state"),
    ],
)
def test_derivatives_that_do_not_fit_are_refused(name, derivative, received):
    with pytest.raises(
        ValueError, match=f"structure, shape and dtype.* Received: .*{received}"
    ):
        integrate(get(name), derivative, tf.ones((2, 2)))


@pytest.mark.parametrize("name", ["rk4", "dormand_prince_per_sample"])
def test_derivatives_may_be_lists_and_arrays(name):
    for zero in ([[0.0, 0.0]], np.zeros((1, 2), "float32")):
        end = integrate(get(name), lambda t, u, k=zero: k, tf.ones((1, 2)))
        np.testing.assert_array_equal(end, tf.ones((1, 2)))


@pytest.mark.parametrize("solver", [Euler(2), get("dormand_prince_per_sample")])
def test_states_and_times_that_do_not_fit_are_refused(solver):
    def solve(state, times):
        return solver.solve(lambda t, u: -u, 0.0, state, times).states

    with pytest.raises(TypeError, match="`initial_state` must be floating"):
        solve([[1, 2]], [1.0])
    with pytest.raises(ValueError, match="at least 1. Received: .*shape .0,"):
        solve([[1.0]], tf.zeros(0))


def test_rows_of_their_own_do_not_go_back_in_time():
    solver = get("dormand_prince_per_sample")

    def solve(times):
        return solver.solve(lambda t, u: -u, 0.0, [[1.0]], times).states

    for times in ([1.0, 0.5], [-1.0], [np.nan]):
        with pytest.raises(ValueError, match="must be increasing"):
            solve(times)
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.function(solve)(tf.constant([1.0, 0.5]))
