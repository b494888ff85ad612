"""Models solved more finely, to see what discretization changes."""

from typing import Any

import keras

from stable_node_tf import solvers
from stable_node_tf.checks import check_count
from stable_node_tf.layers.ode_layer import ODELayer
from stable_node_tf.layers.piecewise_ode import PiecewiseODELayer
from stable_node_tf.models.uncompiled_clone import uncompiled_clone


def with_finer_solver(model: keras.Model, factor: int = 2) -> keras.Model:
    """Rebuilds a model with finer solvers and the same weights.

    A fixed grid gets `factor` times as many steps, an adaptive solver
    tolerances that are `factor` times tighter and leave to take as many more
    steps. What changes from one model to the other is discretization error.

    Args:
      model: a functional or sequential model with a `StableODELayer`, a
        `DeepODELayer` or a `PiecewiseODELayer`, also inside a model that is
        one of its layers.
      factor: at least 2.

    Returns:
      A model of its own, not compiled; the given one is left as it is.

    Raises:
      TypeError: if `factor` is not an integer.
      ValueError: if it is below 2, or the model has no such layer, or one whose
        solver cannot be refined.

    >>> from stable_node_tf import ode_classifier
    >>> coarse = ode_classifier(width=8)
    >>> with_finer_solver(coarse).get_layer("ode").solver.num_steps
    40
    """
    check_count(factor, "factor", 2)
    refined = []

    def rebuild(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, ODELayer | PiecewiseODELayer):
            refined.append(layer.name)
            return _finer_layer(layer, factor)
        return type(layer).from_config(layer.get_config())

    finer = uncompiled_clone(model, rebuild)
    if not refined:
        raise ValueError(
            "model must have a neural ODE layer of this package. "
            f"Received: layers {[layer.name for layer in model.layers]}"
        )
    finer.set_weights(model.get_weights())
    return finer


def _finer_layer(layer: Any, factor: int) -> Any:
    config = layer.get_config()
    if isinstance(layer, PiecewiseODELayer):
        whole = keras.saving.deserialize_keras_object(config["layer"])
        config["layer"] = keras.saving.serialize_keras_object(
            _finer_layer(whole, factor)
        )
    else:
        config["solver"] = _finer(layer.solver, factor)
    return type(layer).from_config(config)


def _finer(solver: Any, factor: int) -> dict[str, Any]:
    description = solvers.serialize(solver)
    config = description["config"]
    larger = {"num_steps", "max_num_steps"} & config.keys()
    smaller = {"rtol", "atol"} & config.keys()
    if not larger | smaller:
        raise ValueError(
            "the solver must have a number of steps or tolerances. "
            f"Received: solver={solver!r}"
        )
    for name in larger:
        if config[name] is not None:
            config[name] *= factor
    for name in smaller:
        config[name] /= factor
    return description
