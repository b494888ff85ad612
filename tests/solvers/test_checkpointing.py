"""Tests that checkpointed grids give the same derivatives in less memory."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import LeakyTanh
from stable_node_tf.solvers import (
    Euler,
    ImplicitMidpoint,
    LayerField,
    RungeKutta4,
    integrate,
)

FIELD = LayerField(LeakyTanh(0.2))


def plain_field(time, state, kernel, bias):
    return (1 + time) * FIELD(time, state, kernel, bias)


def problem():
    rng = np.random.default_rng(0)
    return tf.constant(rng.standard_normal((3, 4))), {
        "kernel": tf.constant(rng.standard_normal((4, 4))),
        "bias": tf.constant(rng.standard_normal(4)),
    }


def derivatives(solver, ode_fn):
    """First and second ones of a scalar."""
    state, constants = arguments = problem()
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


def gradients(solver, ode_fn):
    """As `derivatives`, without the second ones."""
    state, constants = problem()
    with tf.GradientTape() as tape:
        tape.watch((state, constants))
        end = integrate(solver, ode_fn, state, 0.7, constants)
        total = tf.reduce_sum(tf.sin(end))
    return end, tape.gradient(total, (state, constants))


@pytest.mark.parametrize("ode_fn", [FIELD, plain_field], ids=["field", "fn"])
@pytest.mark.parametrize(
    ("cls", "num_steps", "jit_compile"),
    [
        (Euler, 7, True),  # 3 + 3 + 1
        (RungeKutta4, 3, False),  # 2 + 1
    ],
)
def test_same_derivatives(cls, ode_fn, num_steps, jit_compile):
    check_same(derivatives, cls, ode_fn, jit_compile, num_steps)


def test_same_gradients_of_an_implicit_solver():
    """Second derivatives are tested against finite differences elsewhere."""
    check_same(gradients, ImplicitMidpoint, FIELD, False, num_steps=3)


def check_same(function, cls, ode_fn, jit_compile, num_steps):
    expected = tf.function(function)(cls(num_steps), ode_fn)
    actual = tf.function(function, jit_compile=jit_compile)(
        cls(num_steps, checkpointed=True), ode_fn
    )
    for a, b in zip(
        tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


PEAK = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from pathlib import Path
import tensorflow as tf
from stable_node_tf import LeakyTanh
from stable_node_tf.solvers import Euler, LayerField, integrate

field = LayerField(LeakyTanh(0.2))

@tf.function
def gradient(u, kernel, checkpointed):
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        constants = {"kernel": kernel, "bias": kernel[0]}
        end = integrate(Euler(400, checkpointed), field, u, 1.0, constants)
    return tape.gradient(end, kernel)

def peak():  # in KiB; ru_maxrss would be inherited from the parent
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])

kernel = tf.eye(64)
for checkpointed in (True, False):
    gradient(tf.ones((1, 64)), kernel, checkpointed)
    before = peak()
    gradient(tf.ones((4096, 64)), kernel, checkpointed)
    print(peak() - before)
"""


@pytest.mark.slow
def test_memory_grows_like_the_root_of_the_number_of_steps():
    """One state has 1 MiB; 400 steps keep 800 MiB, 20 segments about 80."""
    finished = subprocess.run(
        [sys.executable, "-c", PEAK],
        check=True,
        capture_output=True,
        text=True,
    )
    checkpointed, plain = (int(line) / 1024 for line in finished.stdout.split())
    assert checkpointed < 200
    assert plain + checkpointed > 600  # the peak before was that of the other
