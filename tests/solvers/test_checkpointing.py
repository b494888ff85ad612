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


def derivatives(solver, ode_fn):
    """First and second ones of a scalar."""
    rng = np.random.default_rng(0)
    state = tf.constant(rng.standard_normal((3, 4)))
    constants = {
        "kernel": tf.constant(rng.standard_normal((4, 4))),
        "bias": tf.constant(rng.standard_normal(4)),
    }
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


@pytest.mark.parametrize("ode_fn", [FIELD, plain_field], ids=["field", "fn"])
@pytest.mark.parametrize(
    ("cls", "jit_compile"),
    [
        (Euler, False),
        (Euler, True),
        (RungeKutta4, False),
    ],
)
def test_same_derivatives(cls, ode_fn, jit_compile):
    check_same_derivatives(cls, ode_fn, jit_compile, num_steps=7)  # 3 + 3 + 1


def test_same_derivatives_of_an_implicit_solver():
    check_same_derivatives(ImplicitMidpoint, FIELD, False, num_steps=3)  # 2 + 1


def check_same_derivatives(cls, ode_fn, jit_compile, num_steps):
    expected = tf.function(derivatives)(cls(num_steps), ode_fn)
    actual = tf.function(derivatives, jit_compile=jit_compile)(
        cls(num_steps, checkpointed=True), ode_fn
    )
    for a, b in zip(
        tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


PEAK = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import sys
from pathlib import Path
import tensorflow as tf
from stable_node_tf import LeakyTanh
from stable_node_tf.solvers import Euler, LayerField, integrate

num_steps, checkpointed = int(sys.argv[1]), sys.argv[2] == "True"
field = LayerField(LeakyTanh(0.2))
solver = Euler(num_steps, checkpointed)

@tf.function
def gradient(u, kernel):
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        constants = {"kernel": kernel, "bias": kernel[0]}
        end = integrate(solver, field, u, 1.0, constants)
    return tape.gradient(end, kernel)

def peak():  # in KiB; ru_maxrss would be inherited from the parent
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])

kernel = tf.eye(64)
gradient(tf.ones((1, 64)), kernel)
before = peak()
gradient(tf.ones((4096, 64)), kernel)
print(peak() - before)
"""


def test_memory_grows_like_the_root_of_the_number_of_steps():
    """One state has 1 MiB; 400 steps keep 800 MiB, 20 segments about 80."""

    def peak(checkpointed):
        finished = subprocess.run(
            [sys.executable, "-c", PEAK, "400", str(checkpointed)],
            check=True,
            capture_output=True,
            text=True,
        )
        return int(finished.stdout) / 1024

    assert peak(False) > 600
    assert peak(True) < 200
