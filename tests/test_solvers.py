"""Tests of the solvers on problems with exact solutions."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from stable_node_tf import solvers
from stable_node_tf.solvers import Euler, RungeKutta4, get, integrate, serialize

ode = tfp.math.ode

TIGHT = {"rtol": 1e-11, "atol": 1e-12, "max_num_steps": 5000}
TIGHT_SOLVERS = {
    "euler": Euler(5),
    "rk4": RungeKutta4(3),
    "dormand_prince": ode.DormandPrince(**TIGHT),
    "bdf": ode.BDF(
        **TIGHT, make_adjoint_solver_fn=lambda: ode.DormandPrince(**TIGHT)
    ),
}


def layer_fn(time, state, kernel, bias):
    del time
    return tf.tanh(tf.matmul(state, kernel, transpose_b=True) + bias)


def linear_fn(time, state, kernel):
    del time
    return tf.matmul(state, kernel, transpose_b=True)


def logistic_fn(time, state):
    del time
    return state * (1 - state)


def forced_fn(time, state):
    return tf.cos(time) * state


@keras.saving.register_keras_serializable(package="tests")
class Registered(Euler):
    pass


class Unregistered(Euler):
    pass


@pytest.fixture(name="problem")
def _problem():
    rng = np.random.default_rng(0)
    state = tf.constant(rng.standard_normal((3, 4)))
    constants = {
        "kernel": tf.constant(rng.standard_normal((4, 4)) / 2),
        "bias": tf.constant(rng.standard_normal(4) / 10),
    }
    return state, constants


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
@pytest.mark.parametrize(("cls", "order"), [(Euler, 1), (RungeKutta4, 4)])
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


@pytest.mark.parametrize("name", ["dormand_prince", "bdf"])
def test_adaptive_solvers_meet_the_exact_solution(name):
    ode_fn, solution = EXACT["logistic"]
    state = np.array([[0.2, 0.7]])
    end = tf.function(lambda u: integrate(get(name), ode_fn, u, 1.5))(state)
    np.testing.assert_allclose(end, solution(1.5, state), atol=1e-4)


def test_bdf_takes_a_stiff_problem():
    kernel = tf.constant([[-1e4, 0.0], [0.0, -1.0]])
    state = tf.ones((1, 2))
    end = integrate(get("bdf"), linear_fn, state, 1.0, {"kernel": kernel})
    np.testing.assert_allclose(end, [[0.0, np.exp(-1)]], atol=1e-4)


@pytest.mark.parametrize("solver", [Euler(20), RungeKutta4(8)])
def test_other_rows_change_no_bit_of_a_row(solver):
    rng = np.random.default_rng(1)
    kernel = tf.constant(rng.standard_normal((16, 16)) / 4, tf.float32)
    constants = {"kernel": kernel, "bias": kernel[0]}
    rows = rng.standard_normal((32, 16)).astype(np.float32)
    others = 1e3 * rng.standard_normal((32, 16)).astype(np.float32)
    others[5], others[9, 0], others[10] = rows[5], np.nan, np.inf
    solve = tf.function(
        lambda u: integrate(solver, layer_fn, u, 1.0, constants)
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


def test_unrolled_and_looped_grids_agree(problem, monkeypatch):
    state, constants = problem

    def value_and_gradients():
        return gradients(RungeKutta4(6), state, constants)

    unrolled = value_and_gradients()
    monkeypatch.setattr(solvers, "_MAX_UNROLLED_STAGES", 0)
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


@pytest.mark.parametrize("solver", [Euler(3), RungeKutta4(3)])
def test_solution_times(solver):
    state = tf.constant([[0.2, 0.7]], tf.float64)
    results = solver.solve(logistic_fn, 0.0, state, [0.5, 2.0])
    np.testing.assert_allclose(results.times, [0.5, 2.0])
    first = solver.solve(logistic_fn, 0.0, state, [0.5]).states[0]
    second = solver.solve(logistic_fn, 0.5, first, [2.0]).states[0]
    np.testing.assert_allclose(results.states, [first, second], rtol=1e-12)
    stages = len(solver.tableau.weights)
    assert results.diagnostics.num_ode_fn_evaluations == 6 * stages
    assert results.diagnostics.success


def test_times_chosen_by_solver_are_the_grid():
    state = tf.constant([[0.2, 0.7]])
    chosen = Euler(4).solve(logistic_fn, 0.0, state, ode.ChosenBySolver(2.0))
    np.testing.assert_allclose(chosen.times, [0.0, 0.5, 1.0, 1.5, 2.0])
    assert chosen.states.shape == (5, 1, 2)
    np.testing.assert_array_equal(chosen.states[0], state)
    np.testing.assert_allclose(
        chosen.states[-1], integrate(Euler(4), logistic_fn, state, 2.0)
    )


def test_nested_states():
    state = {"a": tf.ones(2), "b": (2 * tf.ones((1, 3)),)}
    results = RungeKutta4(4).solve(
        lambda t, u: tf.nest.map_structure(lambda x: -x, u), 0.0, state, [1.0]
    )
    np.testing.assert_allclose(results.states["a"][0], np.exp(-1), rtol=1e-4)
    np.testing.assert_allclose(
        results.states["b"][0][0], 2 * np.exp(-1), rtol=1e-4
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


@pytest.mark.parametrize("name", ["euler", "rk4", "dormand_prince", "bdf"])
def test_serialised_solvers_come_back(name):
    solver = get(name)
    config = serialize(solver)
    restored = get(json.loads(json.dumps(config)))
    assert type(restored) is type(solver)
    assert serialize(restored) == config


@pytest.mark.parametrize(
    "solver",
    [
        Euler(7),
        RungeKutta4(9),
        ode.DormandPrince(rtol=np.float32(1e-3), safety_factor=0.8),
        ode.BDF(max_order=3, evaluate_jacobian_lazily=True),
        ode.DormandPrince(make_adjoint_solver_fn=lambda: Euler(11)),
        Registered(5),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_serialised_solvers_keep_their_arguments(solver):
    config = serialize(solver)
    restored = get(json.loads(json.dumps(config)))
    assert type(restored) is type(solver)
    assert serialize(restored) == config
    plain = (bool, int, float)
    assert {
        k: v for k, v in vars(restored).items() if isinstance(v, plain)
    } == pytest.approx(
        {
            k: v
            for k, v in vars(solver).items()
            if np.isscalar(v) and k != "_name"
        }
    )


def test_serialised_adjoint_solvers_come_back():
    solver = ode.DormandPrince(make_adjoint_solver_fn=lambda: Euler(11))
    adjoint = get(serialize(solver))._make_adjoint_solver_fn()
    assert isinstance(adjoint, Euler)
    assert adjoint.num_steps == 11


def test_solvers_that_cannot_be_saved_are_refused():
    with pytest.raises(ValueError, match="register_keras_serializable"):
        serialize(Unregistered(5))
    with pytest.raises(ValueError, match="rtol="):
        serialize(ode.DormandPrince(rtol=tf.constant(1e-3)))
    with pytest.raises(TypeError, match="solver"):
        serialize("euler")


def test_get_refuses_the_unknown():
    with pytest.raises(ValueError, match="'euler', 'rk4', 'dormand_prince'"):
        get("dopri5")
    with pytest.raises(TypeError, match="solver"):
        get(3)
    other = keras.saving.serialize_keras_object(keras.optimizers.SGD())
    with pytest.raises(TypeError, match="solver"):
        get(other)
    solver = Unregistered(2)
    assert get(solver) is solver


@pytest.mark.parametrize("cls", [Euler, RungeKutta4])
def test_bad_step_counts_are_refused(cls):
    for num_steps in (0, -3):
        with pytest.raises(ValueError, match="num_steps"):
            cls(num_steps)
    for num_steps in (2.5, True, "20", None):
        with pytest.raises(TypeError, match="num_steps"):
            cls(num_steps)


def test_bad_arguments_are_refused():
    state = tf.ones((1, 2))
    for time in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="terminal_time"):
            integrate(Euler(2), logistic_fn, state, time)
    with pytest.raises(TypeError, match="floating"):
        integrate(Euler(2), logistic_fn, tf.ones((1, 2), tf.int32))
    with pytest.raises(ValueError, match="shape of the state"):
        integrate(Euler(2), lambda t, u: u[:, :1], state)
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
