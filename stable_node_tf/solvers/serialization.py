"""Solvers from names and configurations, and back."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from tensorflow_probability.python.math import ode

from stable_node_tf.deserialization import rebuilt
from stable_node_tf.solvers.capped import CAPPED, arguments_of
from stable_node_tf.solvers.solver import BY_NAME

_TFP_CLASSES = {f"tfp.math.ode.{cls.__name__}": cls for cls in CAPPED}


def get(identifier: str | dict[str, Any] | ode.Solver) -> ode.Solver:
    """Returns the solver that `identifier` stands for.

    Args:
      identifier: "euler", "ssprk3", "rk4", "rk38", "rk5" or
        "implicit_midpoint" (20 steps); "dormand_prince", "bdf" or
        "dormand_prince_per_sample" (rtol 1e-5, atol 1e-6, at most 1000 steps,
        the last one 200; BDF's gradients by Dormand-Prince); the `name` of a
        class of your own; a `tfp.math.ode.Solver`, which passes through; or
        what `serialize` returned.

    Raises:
      ValueError: if the name, or the class in the dictionary, is not known.
      TypeError: if it is anything else.

    >>> get("euler").num_steps
    20
    """
    names = ", ".join(map(repr, sorted(BY_NAME)))
    solver: Any = identifier
    if isinstance(identifier, str):
        if identifier not in BY_NAME:
            raise ValueError(
                f"`solver` must be one of {names}, or a solver object. "
                f"Received: solver={identifier!r}"
            )
        return BY_NAME[identifier]()
    if isinstance(identifier, dict):
        is_of_tfp = identifier.get("class_name") in list(_TFP_CLASSES)
        solver = rebuilt("solver", identifier, _of_tfp if is_of_tfp else None)
    if not isinstance(solver, ode.Solver):
        raise TypeError(
            f"`solver` must be one of {names}, a tfp.math.ode.Solver, or what "
            f"`serialize` made of one. Received: solver={identifier!r}"
        )
    return solver


def serialize(solver: ode.Solver) -> dict[str, Any]:
    """Returns a dictionary that fits JSON and from which `get` rebuilds it.

    TFP's `DormandPrince` and `BDF` are described by their constructor
    arguments, an adjoint solver of their own included; all others by Keras.

    Raises:
      TypeError: if `solver` is not a solver.
      ValueError: if its class is not registered, or if an argument of one of
        TFP's solvers is not a Python number, for instance a tensor.

    >>> serialize(get("rk4"))["config"]
    {'num_steps': 20, 'checkpointed': False}
    """
    if not isinstance(solver, ode.Solver):
        raise TypeError(
            f"`solver` must be a tfp.math.ode.Solver. Received: {solver!r}"
        )
    cls = type(solver)
    if cls in CAPPED:
        arguments = arguments_of(solver)
        config = {k: _plain(k, v) for k, v in arguments.items()}
        adjoint = solver._make_adjoint_solver_fn()
        if adjoint is not solver:
            config["adjoint_solver"] = serialize(adjoint)
        return {"class_name": f"tfp.math.ode.{cls.__name__}", "config": config}
    registered = keras.saving.get_registered_object(
        keras.saving.get_registered_name(cls)
    )
    if registered is not cls or not hasattr(cls, "get_config"):
        raise ValueError(
            "To be saved, a solver class needs `get_config` and "
            "`@keras.saving.register_keras_serializable(package=...)`. "
            f"Received: solver={solver!r}"
        )
    return keras.saving.serialize_keras_object(solver)


def _of_tfp(description: Mapping[str, Any]) -> ode.Solver:
    arguments = dict(description["config"])
    adjoint = arguments.pop("adjoint_solver", None)
    if adjoint is not None:
        arguments["make_adjoint_solver_fn"] = lambda: get(adjoint)
    return _TFP_CLASSES[description["class_name"]](**arguments)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(name, entry) for entry in value]
    raise ValueError(
        "To be saved, a solver must be constructed from Python numbers. "
        f"Received: {name}={value!r}"
    )
