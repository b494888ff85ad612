"""Tests of the explicit schemes on problems with exact solutions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from stable_node_tf import StableODELayer, solvers
from stable_node_tf.solvers import (
    ButcherTableau,
    DormandPrince5,
    Euler,
    ExplicitRungeKutta,
    ImplicitMidpoint,
    KuttaThreeEighths,
    RungeKutta4,
    SSPRungeKutta3,
    integrate,
)
from stable_node_tf.solvers.euler import EULER
from stable_node_tf.solvers.runge_kutta import computes_tableau

ode = tfp.math.ode

ORDERS = {
    Euler: 1,
    SSPRungeKutta3: 3,
    RungeKutta4: 4,
    KuttaThreeEighths: 4,
    DormandPrince5: 5,
}


def layer_fn(time, state, kernel, bias):
    del time
    return tf.tanh(tf.matmul(state, kernel, transpose_b=True) + bias)


def logistic_fn(time, state):
    del time
    return state * (1 - state)


def forced_fn(time, state):
    return tf.cos(time) * state


EXACT = {
    "logistic": (
        logistic_fn,
        lambda t, u: u / (u + (1 - u) * np.exp(-t)),
    ),
    "forced": (forced_fn, lambda t, u: u * np.exp(np.sin(t))),
    "rotation": (
        lambda t, u: tf.stack([u[:, 1], -u[:, 0]], axis=1),
        lambda t, u: (
            u @ np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
        ),
    ),
}


@pytest.mark.parametrize("problem_name", EXACT)
@pytest.mark.parametrize(("cls", "order"), ORDERS.items())
def test_fixed_grids_converge_at_their_order(cls, order, problem_name):
    ode_fn, solution = EXACT[problem_name]
    state = np.array([[0.2, 0.7]])
    errors = [
        np.abs(
            integrate(cls(n), ode_fn, state, 1.5) - solution(1.5, state)
        ).max()
        for n in (16, 32)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("cls", ORDERS)
def test_other_rows_change_no_bit_of_a_row(cls):
    rng = np.random.default_rng(1)
    kernel = tf.constant(rng.standard_normal((16, 16)) / 4, tf.float32)
    constants = {"kernel": kernel, "bias": kernel[0]}
    rows = rng.standard_normal((32, 16)).astype(np.float32)
    others = 1e3 * rng.standard_normal((32, 16)).astype(np.float32)
    others[5], others[9, 0], others[10] = rows[5], np.nan, np.inf
    solve = tf.function(
        lambda u: integrate(cls(8), layer_fn, u, 1.0, constants)
    )
    np.testing.assert_array_equal(solve(rows)[5], solve(others)[5])


@pytest.mark.parametrize("num_steps", [7, 120])
def test_batches_of_any_size_give_the_same_rows(num_steps):
    state = np.linspace(-2, 2, 48, dtype=np.float32).reshape(12, 4)
    solve = tf.function(
        lambda u: integrate(Euler(num_steps), logistic_fn, u, 1.0),
        input_signature=[tf.TensorSpec((None, 4))],
    )
    whole = solve(state).numpy()
    assert solve(state[:0]).shape == (0, 4)
    for i in range(12):
        np.testing.assert_array_equal(whole[i : i + 1], solve(state[i : i + 1]))


@pytest.mark.parametrize("cls", ORDERS)
def test_solution_times(cls):
    solver = cls(3)
    state = tf.constant([[0.2, 0.7]], tf.float64)
    results = solver.solve(logistic_fn, 0.0, state, [0.5, 2.0])
    np.testing.assert_allclose(results.times, [0.5, 2.0])
    first = solver.solve(logistic_fn, 0.0, state, [0.5]).states[0]
    second = solver.solve(logistic_fn, 0.5, first, [2.0]).states[0]
    np.testing.assert_allclose(results.states, [first, second], rtol=1e-12)
    evaluations = results.diagnostics.num_ode_fn_evaluations
    assert evaluations == 6 * solver.num_stages
    assert results.diagnostics.success


def test_times_must_be_numbers():
    with pytest.raises(ValueError, match="`solution_times` of Euler"):
        Euler(4).solve(logistic_fn, 0.0, tf.ones(1), ode.ChosenBySolver(2.0))


def test_nested_states():
    state = {"a": tf.ones(2), "b": (2 * tf.ones((1, 3)),)}
    results = RungeKutta4(4).solve(
        lambda t, u: tf.nest.map_structure(lambda x: -x, u), 0.0, state, [1.0]
    )
    np.testing.assert_allclose(results.states["a"][0], np.exp(-1), rtol=1e-4)
    np.testing.assert_allclose(
        results.states["b"][0][0], 2 * np.exp(-1), rtol=1e-4
    )


@pytest.mark.parametrize("cls", ORDERS)
def test_bad_step_counts_are_refused(cls):
    for num_steps in (0, -3):
        with pytest.raises(ValueError, match="num_steps"):
            cls(num_steps)
    for num_steps in (2.5, True, "20", None):
        with pytest.raises(TypeError, match="num_steps"):
            cls(num_steps)


def test_python_times_are_not_rounded_to_float32():
    state = np.array([[1.0]])
    end = integrate(DormandPrince5(200), lambda t, u: u, state, 0.1)
    np.testing.assert_allclose(end, np.exp([[0.1]]), rtol=1e-14)
    results = DormandPrince5(50).solve(
        lambda t, u: u, 0.1, tf.constant(state), [0.3]
    )
    np.testing.assert_allclose(results.states[0], np.exp([[0.2]]), rtol=1e-13)


@keras.saving.register_keras_serializable(package="tests")
class Heun(ExplicitRungeKutta):
    """All that a scheme of one's own takes."""

    name = "heun"
    tableau = ButcherTableau(
        nodes=(0.0, 1.0), coefficients=((), (1.0,)), weights=(0.5, 0.5)
    )


class Slow(Heun):
    def _step(self, ode_fn, jacobian_fn, time, size, state):
        return super()._step(ode_fn, jacobian_fn, time, size / 2, state)


class Spare(Heun):
    """A subclass without anything of its own."""


def test_a_scheme_is_a_tableau_and_a_name():
    layer = StableODELayer(solver="heun", delta_bar=0.0)
    assert isinstance(layer.solver, Heun) and layer.solver.num_stages == 2
    assert layer(tf.ones((2, 3))).shape == (2, 3)
    assert layer.stability().holds_for.startswith("Heun with 20 steps")
    again = StableODELayer.from_config(layer.get_config())
    assert isinstance(again.solver, Heun)
    assert "heun" not in solvers.NAMES


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        *((cls(), True) for cls in (*ORDERS, Heun, Spare)),
        *((cls(), False) for cls in (Slow, ImplicitMidpoint)),
        (type("Late", (Euler,), {"num_stages": 3})(), False),
        (type("Odd", (Heun,), {"tableau": property(lambda _: EULER)})(), False),
        (ode.DormandPrince(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_plain_schemes_compute_their_tableau(solver, expected):
    assert computes_tableau(solver) == expected


@pytest.mark.parametrize(
    "tableau",
    [
        ButcherTableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.6)),
        ButcherTableau((0.0, 1.0), ((), (0.9,)), (0.5, 0.5)),
        ButcherTableau((0.0, 1.0), ((), (1.0,)), (1.0,)),
        ButcherTableau((0.0, 1.0), ((1.0,), ()), (0.5, 0.5)),
    ],
)
def test_tableaus_with_misprints_are_refused(tableau):
    with pytest.raises(ValueError, match="`tableau` must .* of Misprint"):
        type("Misprint", (ExplicitRungeKutta,), {"tableau": tableau})


def test_names_are_taken_once():
    with pytest.raises(ValueError, match="Euler2 with name='euler'"):
        type("Euler2", (Euler,), {"name": "euler"})
    again = type("Heun", (Heun,), {"name": "heun", "__module__": __name__})
    assert type(solvers.get("heun")) is again
