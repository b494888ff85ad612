"""Second derivatives of every solver: right, or refused."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from stable_node_tf import LeakyTanh
from stable_node_tf.solvers import (
    DormandPrince5,
    Euler,
    ImplicitMidpoint,
    LayerField,
    RungeKutta4,
    get,
    integrate,
)

ode = tfp.math.ode

FIELD = LayerField(LeakyTanh(0.2))
TIGHT = {"rtol": 1e-10, "atol": 1e-11, "first_step_size": 0.1}
DORMAND_PRINCE = ode.DormandPrince(**TIGHT)
# The explicit schemes share their code: see test_reverse_sweep for the others.
SOLVERS = {
    "euler": Euler(3),
    "rk4, checkpointed": RungeKutta4(3, checkpointed=True),
    "rk5": DormandPrince5(2),
    "implicit_midpoint": ImplicitMidpoint(2),
    "implicit_midpoint, checkpointed": ImplicitMidpoint(2, checkpointed=True),
    "dormand_prince": DORMAND_PRINCE,
}


def plain_field(time, state, kernel, bias):
    return FIELD(time, state, kernel, bias)


def problem():
    rng = np.random.default_rng(0)
    state = tf.constant(rng.standard_normal((2, 2)))
    kernel = tf.constant(rng.standard_normal((2, 2)))
    return state, {
        "kernel": kernel,
        "bias": tf.constant([0.1, -0.2], tf.float64),
    }


def slopes(solver, ode_fn, arguments):
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        end = integrate(solver, ode_fn, arguments[0], 1.0, arguments[1])
        total = tf.reduce_sum(tf.sin(end))
    return tape.gradient(total, arguments)


def curvature(solver, ode_fn, arguments, direction):
    """The Hessian times a direction, by a tape around a tape."""
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        pairs = zip(
            tf.nest.flatten(slopes(solver, ode_fn, arguments)),
            tf.nest.flatten(direction),
            strict=True,
        )
        along = tf.add_n([tf.reduce_sum(a * b) for a, b in pairs])
    return tape.gradient(along, arguments)


def check(solver, ode_fn, wrap, rtol=1e-5):
    arguments = problem()
    rng = np.random.default_rng(1)
    direction = tf.nest.map_structure(
        lambda x: tf.constant(rng.standard_normal(x.shape)), arguments
    )
    first = tf.function(lambda *a: slopes(solver, ode_fn, a))
    step = 1e-4
    ahead, behind = (
        first(
            *tf.nest.map_structure(
                lambda x, v, h=h: x + h * v, arguments, direction
            )
        )
        for h in (step, -step)
    )
    expected = tf.nest.map_structure(
        lambda a, b: (a - b) / (2 * step), ahead, behind
    )
    actual = wrap(lambda a, v: curvature(solver, ode_fn, a, v))(
        arguments, direction
    )
    tf.nest.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol),
        actual,
        expected,
    )


@pytest.mark.parametrize("name", SOLVERS)
def test_a_tape_around_a_tape_agrees_with_finite_differences(name):
    check(SOLVERS[name], FIELD, tf.function)


@pytest.mark.parametrize(
    ("ode_fn", "wrap"),
    [(plain_field, lambda f: f), (FIELD, tf.function(jit_compile=True))],
    ids=["eager, plain", "xla, layer"],
)
def test_the_adjoint_method_in_other_modes(ode_fn, wrap):
    check(DORMAND_PRINCE, ode_fn, wrap)


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("dormand_prince_per_sample", lambda f: f),
        ("dormand_prince_per_sample", tf.function),
        ("bdf", tf.function),
    ],
)
def test_others_refuse_them(name, wrap):
    def second():
        arguments = problem()
        return curvature(get(name), FIELD, arguments, arguments)

    with pytest.raises(NotImplementedError, match="first derivatives only"):
        wrap(second)()


# All kinds but the adjoint method, which refuses.
FORWARD = ["euler", "rk4, checkpointed", "implicit_midpoint, checkpointed"]


@pytest.mark.parametrize("name", FORWARD)
def test_forward_over_reverse(name):
    arguments = problem()
    state, constants = arguments
    direction = tf.ones_like(state)
    with tf.autodiff.ForwardAccumulator(state, direction) as accumulator:
        slope, _ = slopes(SOLVERS[name], FIELD, (state, constants))
    zeros = tf.nest.map_structure(tf.zeros_like, constants)
    expected, _ = curvature(SOLVERS[name], FIELD, arguments, (direction, zeros))
    np.testing.assert_allclose(
        accumulator.jvp(slope), expected, rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function])
def test_the_adjoint_method_refuses_forward_mode(wrap):
    state, constants = problem()

    def forward():
        direction = tf.ones_like(state)
        with tf.autodiff.ForwardAccumulator(state, direction) as accumulator:
            end = integrate(DORMAND_PRINCE, FIELD, state, 1.0, constants)
        return accumulator.jvp(end)

    with pytest.raises(NotImplementedError, match="no forward-mode deriv"):
        wrap(forward)()
