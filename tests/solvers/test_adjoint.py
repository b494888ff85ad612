"""Tests of the adjoint method."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from stable_node_tf.solvers import get, integrate
from stable_node_tf.solvers.adjoint import Flow
from stable_node_tf.solvers.capped import capped

ode = tfp.math.ode
TIGHT = ode.DormandPrince(rtol=1e-10, atol=1e-12, first_step_size=0.1)


def square_fn(time, state):
    del time
    return -(state**2)


def test_derivatives_of_every_order():
    """u(1) = u / (1 + u), whose n-th derivative is ∓ n! / (1 + u)^(n + 1)."""
    flow = Flow(capped(TIGHT), square_fn)

    @tf.function
    def derivatives(u):
        with tf.GradientTape() as third:
            third.watch(u)
            with tf.GradientTape() as second:
                second.watch(u)
                with tf.GradientTape() as first:
                    first.watch(u)
                    end = flow(0.0, 1.0, u, {})
                slope = first.gradient(end, u)
            curvature = second.gradient(slope, u)
        return end, slope, curvature, third.gradient(curvature, u)

    u = np.array([[0.5], [2.0]])
    expected = (u / (1 + u), (1 + u) ** -2, -2 / (1 + u) ** 3, 6 / (1 + u) ** 4)
    for a, b in zip(derivatives(tf.constant(u)), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_the_end_is_at_least_as_exact_as_that_of_tfp():
    state = tf.constant([[0.5], [2.0]], tf.float64)
    exact = state / (1 + state)
    of_tfp = TIGHT.solve(square_fn, 0.0, state, [1.0]).states[0]
    error, error_of_tfp = (
        np.abs(end - exact).max()
        for end in (integrate(TIGHT, square_fn, state), of_tfp)
    )
    assert error <= min(error_of_tfp, 1e-9)


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function])
def test_variables_that_the_field_reads_have_derivatives(wrap):
    rate = tf.Variable(0.5, dtype=tf.float64)
    state = tf.constant([[1.0]], tf.float64)

    @wrap
    def derivatives():
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                end = integrate(TIGHT, lambda t, u: -rate * u, state)
            slope = inner.gradient(end, rate)
        return slope, outer.gradient(slope, rate)

    np.testing.assert_allclose(
        derivatives(), [-np.exp(-0.5), np.exp(-0.5)], rtol=1e-7
    )


def test_states_of_which_no_size_is_known():
    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.float64)])
    def slope(u):
        with tf.GradientTape() as tape:
            tape.watch(u)
            end = integrate(TIGHT, square_fn, u)
        return tape.gradient(end, u)

    np.testing.assert_allclose(slope([[1.0, 3.0]]), [[0.25, 0.0625]], rtol=1e-7)


@dataclasses.dataclass(frozen=True)
class Counting:
    """A field that counts how often it is traced."""

    self_contained: ClassVar[bool] = True
    traces: ClassVar[int] = 0

    def __call__(self, time, state, rate):
        type(self).traces += 1
        return -rate * state


@pytest.mark.parametrize(
    "name", ["dormand_prince", "dormand_prince_per_sample"]
)
def test_a_graph_with_several_solves_traces_one(name):
    solver = get(name)

    @tf.function
    def slope(u, count):
        rate = {"rate": tf.constant(1.0)}
        with tf.GradientTape() as tape:
            tape.watch(u)
            end = u
            for _ in range(count):
                end = integrate(solver, Counting(), end, 1.0, rate)
        return tape.gradient(end, u)

    counts = []
    for count in (1, 3):
        np.testing.assert_allclose(
            slope(tf.ones((16, 2)), count),
            np.full((16, 2), np.exp(-count)),
            rtol=1e-3,
        )
        counts.append(Counting.traces)
    assert 0 < counts[0] == counts[1]
    Counting.traces = 0


def test_batch_jacobian():
    rng = np.random.default_rng(0)
    rate = {"rate": tf.constant(2.0)}
    state = tf.constant(rng.standard_normal((2, 2)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(state)
        end = integrate("dormand_prince", Counting(), state, 1.0, rate)
    np.testing.assert_allclose(
        tape.batch_jacobian(end, state),
        np.exp(-2) * np.stack([np.eye(2)] * 2),
        atol=1e-5,
    )
