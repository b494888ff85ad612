"""Tests of TFP's solvers with a cap on their steps."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from stable_node_tf.solvers import get, integrate

ode = tfp.math.ode


def linear_fn(time, state, kernel):
    del time
    return tf.matmul(state, kernel, transpose_b=True)


def logistic_fn(time, state):
    del time
    return state * (1 - state)


@pytest.mark.parametrize("name", ["dormand_prince", "bdf"])
def test_adaptive_solvers_meet_the_exact_solution(name):
    state = np.array([[0.2, 0.7]])
    solve = tf.function(lambda u: integrate(get(name), logistic_fn, u, 1.5))
    exact = state / (state + (1 - state) * np.exp(-1.5))
    np.testing.assert_allclose(solve(state), exact, atol=1e-4)


def test_bdf_takes_a_stiff_problem():
    kernel = tf.constant([[-1e4, 0.0], [0.0, -1.0]])
    state = tf.ones((1, 2))
    end = integrate(get("bdf"), linear_fn, state, 1.0, {"kernel": kernel})
    np.testing.assert_allclose(end, [[0.0, np.exp(-1)]], atol=1e-4)


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("culprit", ["state", "constant"])
@pytest.mark.parametrize("name", ["dormand_prince", "bdf"])
def test_adaptive_solvers_refuse_nan(name, culprit, eager):
    state, kernel = np.ones((2, 2)), -np.eye(2)
    (state if culprit == "state" else kernel)[1, 1] = np.nan

    def solve():
        return integrate(get(name), linear_fn, state, 1.0, {"kernel": kernel})

    with pytest.raises(tf.errors.InvalidArgumentError, match="must be finite"):
        (solve if eager else tf.function(solve))()


def test_under_xla_rows_with_nan_give_nan_and_the_others_their_answer():
    state = tf.constant([[1.0, 2.0], [np.nan, 4.0]])
    solve = tf.function(
        lambda u: integrate(
            get("dormand_prince"), linear_fn, u, 1.0, {"kernel": -tf.eye(2)}
        ),
        jit_compile=True,
    )
    end = solve(state).numpy()
    np.testing.assert_allclose(end[0], np.exp(-1) * state[0], rtol=1e-4)
    assert np.isnan(end[1]).all()


@pytest.mark.parametrize("cls", [ode.DormandPrince, ode.BDF])
def test_the_step_cap_says_what_to_do(cls):
    solver = cls(rtol=1e-6, first_step_size=1e-3, max_num_steps=3)
    solve = tf.function(
        lambda: integrate(solver, logistic_fn, tf.fill((1, 2), 0.3), 1.0)
    )
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match="max_num_steps=3 steps.*Raise max_num_steps.*fixed grid",
    ):
        solve()


def test_the_step_cap_holds_under_xla():
    solver = ode.DormandPrince(first_step_size=1e-3, max_num_steps=3)
    solve = tf.function(
        lambda u: integrate(solver, logistic_fn, u, 1.0), jit_compile=True
    )
    assert np.isnan(solve(tf.fill((1, 2), 0.3))).all()


def test_a_cap_that_suffices_is_not_an_error():
    solver = ode.DormandPrince(first_step_size=0.1, rtol=0.1, max_num_steps=2)
    end = integrate(solver, logistic_fn, tf.fill((1, 2), 0.5), 1.0)
    np.testing.assert_allclose(end, 1 / (1 + np.exp(-1)), rtol=1e-3)


def test_solvers_without_a_cap_get_one():
    solver = ode.DormandPrince(first_step_size=1e-9, max_step_size_factor=1.0)
    solve = tf.function(
        lambda: integrate(solver, logistic_fn, tf.fill((1, 2), 0.3), 1.0)
    )
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="max_num_steps=1000"
    ):
        solve()
