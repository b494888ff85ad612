"""Tests of the step control of each row."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.integrate import solve_ivp

from stable_node_tf import LeakyTanh
from stable_node_tf.solvers import (
    LayerField,
    PerSampleDormandPrince,
    RungeKutta4,
    integrate,
)

FIELD = LayerField(LeakyTanh(0.2))


def problem(dtype="float64"):
    rng = np.random.default_rng(0)
    state = tf.constant(rng.standard_normal((3, 4)), dtype)
    constants = {
        "kernel": tf.constant(rng.standard_normal((4, 4)), dtype),
        "bias": tf.constant(rng.standard_normal(4), dtype),
    }
    return state, constants


@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-9])
def test_error_follows_the_tolerance(rtol):
    state, constants = problem()
    solver = PerSampleDormandPrince(rtol, rtol / 10)
    end = tf.function(lambda: integrate(solver, FIELD, state, 2.0, constants))()
    for row, start in zip(end, state, strict=True):
        reference = solve_ivp(
            lambda t, u: FIELD(t, u[np.newaxis], **constants)[0],
            (0, 2),
            start,
            rtol=1e-12,
            atol=1e-13,
        ).y[:, -1]
        error = np.abs(row - reference).max()
        assert error <= 30 * rtol
    assert error > 0


def test_time_reaches_the_function_row_by_row():
    state = np.array([[1.0], [2.0]])
    results = tf.function(
        lambda: PerSampleDormandPrince(1e-8, 1e-9).solve(
            lambda t, u: tf.cos(t) * u, 0.5, state, [1.0, 2.0]
        )
    )()
    expected = [
        state * np.exp(np.sin(t) - np.sin(0.5)) for t in results.times.numpy()
    ]
    np.testing.assert_allclose(results.states, expected, rtol=1e-7)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_other_rows_change_no_bit_of_a_row_or_of_its_gradient(jit_compile):
    state, constants = problem("float32")

    def value_and_gradient(u):
        with tf.GradientTape() as tape:
            tape.watch(u)
            end = integrate(
                "dormand_prince_per_sample", FIELD, u, 1.0, constants
            )
        return end, tape.gradient(end, u)

    solve = tf.function(value_and_gradient, jit_compile=jit_compile)
    others = np.array([[1e3, 0.0, -50.0, 1.0], state[1], [0.0] * 4], "f4")
    for actual, expected in zip(
        solve(tf.constant(others)), solve(state), strict=True
    ):
        np.testing.assert_array_equal(actual[1], expected[1])


def test_batches_of_any_size_give_the_same_rows():
    """Unpadded, they differed by up to 1e-4 of the largest gradient."""
    sizes, largest = (1, 2, 5, 15, 17, 40), 50
    for size in (13, 64):
        rng = np.random.default_rng(size)
        state = tf.constant(rng.standard_normal((largest, size)), tf.float32)
        constants = {
            "kernel": tf.constant(
                2 * rng.standard_normal((size, size)) / size**0.5, tf.float32
            ),
            "bias": tf.constant(rng.standard_normal(size), tf.float32),
        }

        @tf.function(input_signature=[tf.TensorSpec((None, size))])
        def solve(u, constants=constants):
            with tf.GradientTape() as tape:
                tape.watch(u)
                end = integrate(
                    "dormand_prince_per_sample", FIELD, u, 1.0, constants
                )
            return end, tape.gradient(end, u)

        expected = solve(state)
        for count in sizes:
            actual = solve(state[:count])
            for a, b in zip(actual, expected, strict=True):
                np.testing.assert_array_equal(a, b[:count])


def test_statistics_add_up():
    """A stiff row takes more steps than its neighbor, and rejects some."""
    rates = tf.constant([[1.0], [400.0]])
    results = tf.function(
        lambda: PerSampleDormandPrince().solve(
            lambda t, u: -rates * (u - tf.cos(t)), 0.0, tf.ones((2, 1)), [1.0]
        )
    )()
    statistics = results.diagnostics
    accepted, rejected = statistics.accepted, statistics.rejected
    assert accepted[1] > 10 * accepted[0] and rejected[1] > 0
    np.testing.assert_array_equal(
        statistics.num_ode_fn_evaluations, 2 + 6 * (accepted + rejected)
    )
    assert (statistics.last_step.numpy() > 0).all()
    np.testing.assert_array_equal(statistics.status, [0, 0])


def gradients(solver, state, constants):
    arguments = (state, constants)
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        end = integrate(solver, FIELD, state, 1.0, constants)
        total = tf.reduce_sum(tf.sin(end))
    return total, tape.gradient(total, arguments)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_gradients(mode):
    """Those of the exact flow, within the tolerance."""
    state, constants = problem()
    solver = PerSampleDormandPrince(1e-7, 1e-8)
    compute = gradients
    if mode != "eager":
        compute = tf.function(gradients, jit_compile=mode == "xla")
    actual = compute(solver, state, constants)
    expected = tf.function(gradients)(RungeKutta4(200), state, constants)
    for a, b in zip(
        tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_second_derivatives_are_refused():
    state, constants = problem()

    @tf.function(autograph=False)
    def second():
        with tf.GradientTape() as tape:
            tape.watch(state)
            _, (slope, _) = gradients(
                PerSampleDormandPrince(), state, constants
            )
        return tape.gradient(slope, state)

    with pytest.raises(NotImplementedError, match="first derivatives only"):
        second()


def test_a_row_that_fails_is_named_nan_under_xla_and_an_error_otherwise():
    solver = PerSampleDormandPrince(max_num_steps=4)
    state = tf.constant([[1.0], [1.0], [np.nan]])
    rates = tf.constant([[1.0], [400.0], [1.0]])

    def solve(u):
        count = len(u)
        return integrate(solver, lambda t, u: -rates[:count] * u, u, 1.0)

    with pytest.raises(
        tf.errors.InvalidArgumentError, match="max_num_steps=4.*fixed grid"
    ):
        tf.function(solve)(state[:2])
    end = tf.function(solve, jit_compile=True)(state).numpy()
    np.testing.assert_allclose(end[0], np.exp(-1), rtol=1e-4)
    assert np.isnan(end[1:]).all()


def test_bad_arguments_are_refused():
    for name in ("rtol", "atol"):
        with pytest.raises(ValueError, match=name):
            PerSampleDormandPrince(**{name: 0.0})
    with pytest.raises(ValueError, match="max_num_steps"):
        PerSampleDormandPrince(max_num_steps=0)
    solver = PerSampleDormandPrince()
    with pytest.raises(ValueError, match="known length"):
        solver.solve(FIELD, 0.0, tf.ones((1, 1)), 1.0)
    with pytest.raises(ValueError, match=r"\(batch, d\)"):
        solver.solve(FIELD, 0.0, tf.ones(1), [1.0])
