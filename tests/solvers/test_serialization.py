"""Tests of solvers from names and configurations, and back."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from stable_node_tf import solvers
from stable_node_tf.solvers import (
    DormandPrince5,
    Euler,
    ImplicitMidpoint,
    KuttaThreeEighths,
    PerSampleDormandPrince,
    RungeKutta4,
    SSPRungeKutta3,
    get,
    serialize,
)

ode = tfp.math.ode

NAMES = [
    "euler",
    "ssprk3",
    "rk4",
    "rk38",
    "rk5",
    "implicit_midpoint",
    "dormand_prince",
    "dormand_prince_per_sample",
    "bdf",
]


def test_names_are_known_to_programs():
    assert sorted(solvers.NAMES) == sorted(NAMES)


@keras.saving.register_keras_serializable(package="tests")
class Registered(Euler):
    pass


class Unregistered(Euler):
    pass


@pytest.mark.parametrize("name", NAMES)
def test_serialized_solvers_come_back(name):
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
        KuttaThreeEighths(6),
        SSPRungeKutta3(2),
        DormandPrince5(3),
        ImplicitMidpoint(4, checkpointed=True),
        PerSampleDormandPrince(1e-3, 1e-4, 50),
        ode.DormandPrince(rtol=np.float32(1e-3), safety_factor=0.8),
        ode.BDF(max_order=3, evaluate_jacobian_lazily=True),
        ode.DormandPrince(make_adjoint_solver_fn=lambda: Euler(11)),
        Registered(5),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_serialized_solvers_keep_their_arguments(solver):
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


def test_serialized_adjoint_solvers_come_back():
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
    with pytest.raises(ValueError, match="'dormand_prince', .*'euler'"):
        get("dopri5")
    with pytest.raises(TypeError, match="solver"):
        get(3)
    other = keras.saving.serialize_keras_object(keras.optimizers.SGD())
    with pytest.raises(TypeError, match="solver"):
        get(other)
    solver = Unregistered(2)
    assert get(solver) is solver
