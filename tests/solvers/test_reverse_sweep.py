"""Tests of the reverse sweep against automatic differentiation."""

import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import (
    CustomActivation,
    LeakyTanh,
    SmoothLeakyReLU,
    StableODELayer,
)
from stable_node_tf.solvers import (
    DormandPrince5,
    Euler,
    KuttaThreeEighths,
    LayerField,
    RungeKutta4,
    SSPRungeKutta3,
    fixed_grid,
    integrate,
)

ACTIVATIONS = [
    LeakyTanh(0.2),
    SmoothLeakyReLU(0.1),
    CustomActivation(lambda x: 0.7 * x + tf.sin(x) / 5, 0.5),
]


def problem(dtype="float64"):
    rng = np.random.default_rng(0)
    state = tf.constant(rng.standard_normal((3, 4)), dtype)
    constants = {
        "kernel": tf.constant(rng.standard_normal((4, 4)), dtype),
        "bias": tf.constant(rng.standard_normal(4), dtype),
    }
    return state, constants


def plainly(field):
    """The same function, but nothing that `integrate` would recognize."""
    return lambda time, state, **constants: field(time, state, **constants)


def gradients(solver, ode_fn, state, constants):
    """First and second derivatives of a scalar."""
    arguments = (state, constants)
    with tf.GradientTape() as outer:
        outer.watch(arguments)
        with tf.GradientTape() as inner:
            inner.watch(arguments)
            end = integrate(solver, ode_fn, state, 0.7, constants)
            total = tf.reduce_sum(tf.sin(end))
        first = inner.gradient(total, arguments)
        probe = tf.add_n(
            [tf.reduce_sum(tf.cos(g) * g) for g in tf.nest.flatten(first)]
        )
    return end, first, outer.gradient(probe, arguments)


def assert_close(actual, expected, rtol):
    for a, b in zip(
        tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol, rtol * np.abs(b).max())


@pytest.mark.parametrize(
    ("solver", "mode"),
    [
        (Euler(4), "eager"),
        (SSPRungeKutta3(3), "graph"),
        (RungeKutta4(2), "graph"),
        (KuttaThreeEighths(2), "graph"),
        (Euler(3), "xla"),
        (DormandPrince5(2), "looped"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_first_and_second_derivatives(solver, mode, monkeypatch):
    state, constants = problem()
    for activation in ACTIVATIONS if mode == "graph" else ACTIVATIONS[:1]:
        field = LayerField(activation)
        expected = gradients(solver, plainly(field), state, constants)
        if mode == "looped":
            monkeypatch.setattr(fixed_grid, "MAX_UNROLLED_STAGES", 0)
        compute = gradients
        if mode != "eager":
            compute = tf.function(gradients, jit_compile=mode == "xla")
        actual = compute(solver, field, state, constants)
        assert_close(actual, expected, 1e-9)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_single_precision_with_unknown_batch(jit_compile):
    state, constants = problem("float32")
    field = LayerField(SmoothLeakyReLU(0.1))
    sweep = tf.function(
        lambda u: gradients(RungeKutta4(3), field, u, constants)[:2],
        input_signature=[tf.TensorSpec((None, 4))],
        jit_compile=jit_compile,
    )
    expected = gradients(RungeKutta4(3), plainly(field), *problem())[:2]
    assert_close(sweep(state), expected, 1e-5)


@pytest.mark.parametrize(
    ("policy", "unit"), [("mixed_float16", 2**-11), ("mixed_bfloat16", 2**-8)]
)
def test_mixed_precision_sweeps_back_in_single_precision(policy, unit):
    """Only what enters and leaves the layer is rounded to half precision."""
    half = tf.dtypes.as_dtype(policy.removeprefix("mixed_"))
    state, constants = problem("float32")
    state, upstream = tf.cast(state, half), tf.cast(2.0 * state, half)
    mixed, single = (
        StableODELayer(LeakyTanh(0.2), solver=RungeKutta4(3), dtype=dtype)
        for dtype in (policy, "float32")
    )
    found = []
    for layer, dtype in ((mixed, half), (single, tf.float32)):
        layer.build(state.shape)
        layer.set_weights([constants["kernel"], constants["bias"]])

        @tf.function
        def sweep(u, scale, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(u)
                end = layer(u)
            sources = (u, layer.kernel.value, layer.bias.value)
            return end, tape.gradient(end, sources, output_gradients=scale)

        found.append(sweep(tf.cast(state, dtype), tf.cast(upstream, dtype)))
    (end, (to_state, *to_weights)), (plain_end, plain) = found
    assert end.dtype == half and to_state.dtype == half
    assert_close(tf.cast(end, tf.float32), plain_end, unit)
    assert_close(tf.cast(to_state, tf.float32), plain[0], unit)
    assert_close(to_weights, plain[1:], 1e-6)


def test_input_gradients_of_a_row_do_not_depend_on_the_others():
    state, constants = problem("float32")
    field = LayerField(SmoothLeakyReLU(0.1))
    sweep = tf.function(
        lambda u: gradients(Euler(20), field, u, constants)[1][0]
    )
    others = np.full_like(state, np.inf)
    others[1] = state[1]
    np.testing.assert_array_equal(sweep(state)[1], sweep(others)[1])


def test_a_step_is_traced_once(monkeypatch):
    calls = []
    evaluate = LeakyTanh.value_and_slope

    def counted(self, x):
        calls.append(x.shape)
        return evaluate(self, x)

    monkeypatch.setattr(LeakyTanh, "value_and_slope", counted)

    @tf.function(autograph=False)
    def gradient(u, A, b):
        with tf.GradientTape() as tape:
            tape.watch((u, A, b))
            end = integrate(
                RungeKutta4(9),
                LayerField(LeakyTanh(0.5)),
                u,
                constants={"kernel": A, "bias": b},
            )
        return tape.gradient(end, (u, A, b))

    gradient(tf.ones((2, 3)), tf.eye(3), tf.zeros(3))
    assert len(calls) == 4


def test_a_time_that_needs_a_gradient_gets_one():
    state, constants = problem()
    field, time = LayerField(LeakyTanh(0.2)), tf.Variable(0.7, dtype="float64")
    with tf.GradientTape() as tape:
        end = integrate(RungeKutta4(50), field, state, time, constants)
        total = tf.reduce_sum(end)
    expected = tf.reduce_sum(field(0.7, end, **constants))
    np.testing.assert_allclose(tape.gradient(total, time), expected, rtol=1e-6)


def test_training_through_a_compiled_function_called_from_outside():
    """Forward and backward pass are then two functions."""
    state, constants = problem()
    field = LayerField(LeakyTanh(0.2))
    solve = tf.function(
        lambda u, c: integrate(Euler(9), field, u, 1.0, c), jit_compile=True
    )

    def gradient(function):
        with tf.GradientTape() as tape:
            tape.watch((state, constants))
            total = tf.reduce_sum(function(state, constants) ** 2)
        return tape.gradient(total, (state, constants))

    expected = gradient(
        lambda u, c: integrate(Euler(9), plainly(field), u, 1.0, c)
    )
    assert_close(gradient(solve), expected, 1e-9)


class Counted(LeakyTanh):
    calls = 0

    def value_and_slope(self, x):
        Counted.calls += 1
        return super().value_and_slope(x)


def test_a_step_is_traced_once_for_all_solves():
    field = LayerField(Counted(0.2))
    constants = {"kernel": tf.eye(3), "bias": tf.zeros(3)}

    def solve(state):
        return integrate(Euler(5), field, state, 1.0, constants)

    ends = [tf.function(solve)(tf.ones((2, 3))).numpy() for _ in range(3)]
    assert Counted.calls == 1
    np.testing.assert_array_equal(ends[0], ends[2])
