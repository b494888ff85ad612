"""Tests of the implicit midpoint rule."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_node_tf import LeakyTanh, nearest_stable
from stable_node_tf.solvers import (
    ImplicitMidpoint,
    LayerField,
    RungeKutta4,
    integrate,
)


def problem(scale=1.0):
    rng = np.random.default_rng(0)
    state = tf.constant(rng.standard_normal((3, 4)))
    constants = {
        "kernel": tf.constant(scale * rng.standard_normal((4, 4))),
        "bias": tf.constant(rng.standard_normal(4)),
    }
    return state, constants


FIELD = LayerField(LeakyTanh(0.2))
LINEAR = LayerField(LeakyTanh(1.0))


def plain_field(time, state, kernel, bias):
    return FIELD(time, state, kernel, bias)


def test_order_two():
    def ode_fn(time, state):
        return tf.cos(time) * state

    state = np.array([[0.2, 0.7]])
    errors = [
        np.abs(
            integrate(ImplicitMidpoint(n), ode_fn, state, 1.5)
            - state * np.exp(np.sin(1.5))
        ).max()
        for n in (10, 20)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_step_is_the_rational_function_of_the_matrix(jit_compile):
    state, constants = problem(10.0)
    kernel = constants["kernel"].numpy()
    eye = np.eye(4)
    growth = np.linalg.solve(eye - kernel / 2, eye + kernel / 2)
    solve = tf.function(
        lambda u: integrate(
            ImplicitMidpoint(1),
            lambda t, u, kernel: tf.matmul(u, kernel, transpose_b=True),
            u,
            1.0,
            {"kernel": kernel},
        ),
        jit_compile=jit_compile,
    )
    np.testing.assert_allclose(solve(state), state.numpy() @ growth.T, 1e-10)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), stiffness=st.floats(0.1, 1e3))
def test_contractive_flows_stay_contractive_at_any_step(seed, stiffness):
    """Linear ones: μ₂(A) <= 0."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((3, 3))
    kernel = -stiffness * (root @ root.T + 0.1 * np.eye(3))
    constants = {"kernel": kernel, "bias": np.zeros(3)}
    pair = rng.standard_normal((2, 3))
    end = _integrate(LINEAR, constants, pair)
    assert np.linalg.norm(end[0] - end[1]) <= (
        np.linalg.norm(pair[0] - pair[1]) * (1 + 1e-10)
    )
    if stiffness > 100:
        explicit = integrate(RungeKutta4(1), LINEAR, pair, 1.0, constants)
        assert np.linalg.norm(explicit[0] - explicit[1]) > 10


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 1e3))
def test_nonlinear_contractive_flows_as_well(seed, scale):
    """u' = σ(b - c u), every entry on its own."""
    rng = np.random.default_rng(seed)
    constants = {"kernel": -scale * np.eye(3), "bias": rng.standard_normal(3)}
    pair = 3 * rng.standard_normal((2, 3))
    end = _integrate(FIELD, constants, pair)
    assert np.linalg.norm(end[0] - end[1]) <= (
        np.linalg.norm(pair[0] - pair[1]) * (1 + 1e-10)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [30.0, 300.0, 3000.0])
def test_long_steps_are_damped(scale, dtype):
    """δ(A) <= 0: the equation of the step has one solution, h|A| = `scale`."""
    rng = np.random.default_rng(3)
    kernel = nearest_stable(rng.standard_normal((8, 8)), 0.0, 0.2).matrix
    constants = {
        "kernel": scale * kernel / np.linalg.norm(kernel, 2),
        "bias": rng.standard_normal(8),
    }
    state = tf.constant(rng.standard_normal((20, 8)), dtype)
    constants = {k: tf.constant(v, dtype) for k, v in constants.items()}
    end = _solve(FIELD, *constants.values(), state)
    step = FIELD(0.0, (state + end) / 2, **constants)
    largest = np.abs(end - state).max()
    unit = np.finfo(dtype).eps
    assert np.abs(end - state - step).max() < 1e3 * scale * unit * largest


@tf.function(reduce_retracing=True)
def _solve(field, kernel, bias, pair):
    constants = {"kernel": kernel, "bias": bias}
    return integrate(ImplicitMidpoint(1), field, pair, 1.0, constants)


def _integrate(field, constants, pair):
    tensors = map(tf.constant, (*constants.values(), pair))
    return _solve(field, *tensors).numpy()


def first(ode_fn, solver, state, constants):
    arguments = (state, constants)
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        end = integrate(solver, ode_fn, state, 1.3, constants)
        total = tf.reduce_sum(tf.sin(end))
    return total, tape.gradient(total, arguments)


def probe(ode_fn, solver, state, constants):
    _, gradients = first(ode_fn, solver, state, constants)
    return tf.add_n(
        [tf.reduce_sum(tf.cos(g) * g) for g in tf.nest.flatten(gradients)]
    )


@pytest.mark.parametrize(
    ("ode_fn", "order"), [(FIELD, 1), (plain_field, 2)], ids=["field", "fn"]
)
def test_derivatives_by_finite_differences(ode_fn, order):
    """Second ones with a Jacobian by hand: see test_second_derivatives."""
    arguments = problem()
    solver = ImplicitMidpoint(3)
    rng = np.random.default_rng(2)
    shift = tf.nest.map_structure(
        lambda v: tf.constant(rng.standard_normal(v.shape)), arguments
    )

    @tf.function
    def value_and_slopes(state, constants):
        if order == 1:
            return first(ode_fn, solver, state, constants)
        with tf.GradientTape() as tape:
            tape.watch((state, constants))
            value = probe(ode_fn, solver, state, constants)
        return value, tape.gradient(value, (state, constants))

    ahead, behind = (
        value_and_slopes(
            *tf.nest.map_structure(
                lambda v, s, h=h: v + h * s, arguments, shift
            )
        )[0]
        for h in (1e-5, -1e-5)
    )
    slopes = value_and_slopes(*arguments)[1]
    directional = sum(
        tf.reduce_sum(g * s)
        for g, s in zip(
            tf.nest.flatten(slopes), tf.nest.flatten(shift), strict=True
        )
    )
    np.testing.assert_allclose(directional, (ahead - behind) / 2e-5, rtol=1e-6)


def test_other_rows_change_no_bit_of_a_row():
    state, constants = problem()
    solve = tf.function(
        lambda u: integrate(ImplicitMidpoint(5), FIELD, u, 1.0, constants)
    )
    others = np.array([[1e3, 0.0, -50.0, 1.0], state[1], [np.nan] * 4])
    end = solve(others).numpy()
    np.testing.assert_array_equal(solve(state)[1], end[1])
    assert np.isnan(end[2]).all() and np.isfinite(end[:2]).all()


def test_evaluations_are_counted():
    state, constants = problem()
    counts = []

    def counted(time, u):
        counts.append(1)
        return FIELD(time, u, **constants)

    results = ImplicitMidpoint(3).solve(
        counted,
        0.0,
        state,
        [1.0],
        jacobian_fn=lambda time, u: FIELD.jacobian(time, u, **constants),
    )
    evaluations = results.diagnostics.num_ode_fn_evaluations
    assert int(evaluations) == len(counts)


def test_rows_without_a_solution_are_an_error_and_nan_under_xla():
    """y = u + y²/2 has no real solution for u > 1/2."""

    def solve(u):
        return integrate(
            ImplicitMidpoint(1), lambda t, u: tf.where(u > 5.0, np.nan, u**2), u
        )

    good, unsolvable, nan = [0.4], [1.5], [9.0]
    for bad in (unsolvable, nan):
        with pytest.raises(
            tf.errors.InvalidArgumentError,
            match="Newton's method.*num_steps.*steps of size",
        ):
            solve(tf.constant([good, bad]))
    end = tf.function(solve, jit_compile=True)(
        tf.constant([good, unsolvable, nan])
    )
    middle = 1 - 0.2**0.5  # the smaller root of y = 0.4 + y²/2
    np.testing.assert_allclose(
        end, [[2 * middle - 0.4], [np.nan], [np.nan]], rtol=1e-5
    )


def test_states_that_are_no_matrix_are_refused():
    with pytest.raises(ValueError, match=r"\(batch, d\)"):
        ImplicitMidpoint(2).solve(lambda t, u: -u, 0.0, tf.ones(3), [1.0])
