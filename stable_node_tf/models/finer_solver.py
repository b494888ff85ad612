"""Models solved more finely, to see what discretization changes."""

from typing import Any

import keras

from stable_node_tf.checks import check_count
from stable_node_tf.models.rebuilding import rebuilt_model


def with_finer_solver(model: keras.Model, factor: int = 2) -> keras.Model:
    """Rebuilds a model with finer solvers and the same weights.

    A fixed grid gets `factor` times as many steps; an adaptive solver gets
    tolerances that are `factor` times tighter, and may take `factor` times as
    many steps. What the two models differ by is discretization error.

    Args:
      model: see `stabilize`; it stays as it is.
      factor: at least 2.

    Raises:
      ValueError: if the model has no neural ODE of this package, or one whose
        solver cannot be refined.

    >>> from stable_node_tf import ode_classifier
    >>> coarse = ode_classifier(width=8)
    >>> with_finer_solver(coarse).get_layer("ode").solver.num_steps
    40
    """
    check_count(factor, "factor", 2)

    def refine(config: dict[str, Any]) -> dict[str, Any]:
        solver = config["solver"]
        return {
            **config,
            "solver": {**solver, "config": _finer(solver, factor)},
        }

    finer = rebuilt_model(model, refine)
    finer.set_weights(model.get_weights())
    return finer


def _finer(solver: dict[str, Any], factor: int) -> dict[str, Any]:
    config = dict(solver["config"])
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
    return config
