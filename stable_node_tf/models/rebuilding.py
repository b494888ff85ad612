"""Models made again with other settings of their neural ODEs."""

from collections.abc import Callable
from typing import Any

import keras

from stable_node_tf.layers.ode_layer import ODELayer

Change = Callable[[dict[str, Any]], dict[str, Any]]


def rebuilt_model(
    model: keras.Model,
    change: Change,
    change_other: Callable[[Any, dict[str, Any]], dict[str, Any]] | None = None,
) -> keras.Model:
    """Returns a model with the same layers by the same names, not compiled.

    Weights are initial ones. Keras alone would compile a clone like the model,
    and fail where a loss or a metric is a function that is not registered.

    Args:
      model: functional or sequential; it stays as it is.
      change: maps the configuration of a neural ODE to another one, also of
        those inside models, wrappers and `PiecewiseODELayer`.
      change_other: the same for other layers; it takes the layer too.

    >>> from stable_node_tf import StableODELayer
    >>> model = keras.Sequential([keras.Input((2,)), StableODELayer()])
    >>> model.compile(loss=lambda y, z: (y - z) ** 2)
    >>> rebuilt = rebuilt_model(model, lambda c: c | {"terminal_time": 2.0})
    >>> rebuilt.compiled, rebuilt.layers[0].terminal_time
    (False, 2.0)
    """
    layers = list(model._flatten_layers())
    if not any(isinstance(layer, ODELayer) for layer in layers):
        raise ValueError(
            "`model` must have a neural ODE layer of this package. "
            f"Received: layers {[layer.name for layer in model.layers]}"
        )

    def rebuild(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = _changed(layer.get_config(), change)
        if isinstance(layer, ODELayer):
            config = change(config)
        elif change_other is not None:
            config = change_other(layer, config)
        try:
            return type(layer).from_config(config)
        except TypeError as error:  # Keras makes one of what a layer says
            if not isinstance(error.__context__, ValueError):
                raise
            raise ValueError(
                f"Layer {layer.name!r} does not take these settings. "
                f"{error.__context__}"
            ) from error

    compiled = [layer for layer in layers if getattr(layer, "compiled", False)]
    try:
        for part in compiled:
            part.compiled = False
        return keras.models.clone_model(
            model, clone_function=rebuild, recursive=True
        )
    finally:
        for part in compiled:
            part.compiled = True


def _changed(config: Any, change: Change) -> Any:
    """A configuration, changed where it describes a neural ODE further in."""
    if isinstance(config, list | tuple):
        return type(config)(_changed(part, change) for part in config)
    if not isinstance(config, dict):
        return config
    config = {key: _changed(part, change) for key, part in config.items()}
    name = config.get("registered_name")
    cls = isinstance(name, str) and keras.saving.get_registered_object(name)
    if isinstance(cls, type) and issubclass(cls, ODELayer):
        config["config"] = change(config["config"])
    return config
