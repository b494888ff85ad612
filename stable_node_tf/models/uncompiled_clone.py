"""Clones of models that leave behind how the models were compiled."""

from collections.abc import Callable

import keras


def uncompiled_clone(
    model: keras.Model,
    clone_function: Callable[[keras.layers.Layer], keras.layers.Layer],
) -> keras.Model:
    """Returns `keras.models.clone_model`, nested models too, not compiled.

    Keras compiles the clone like the model, and fails where a loss or a metric
    is a function that is not registered.

    Args:
      model: functional or sequential; it stays as it is.
      clone_function: makes a layer of the clone from one of the model.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(loss=lambda y, z: (y - z) ** 2)
    >>> clone = uncompiled_clone(
    ...     model, lambda layer: type(layer).from_config(layer.get_config())
    ... )
    >>> clone.compiled, model.compiled
    (False, True)
    """
    compiled = [
        layer
        for layer in model._flatten_layers()
        if getattr(layer, "compiled", False)
    ]
    try:
        for part in compiled:
            part.compiled = False
        return keras.models.clone_model(
            model, clone_function=clone_function, recursive=True
        )
    finally:
        for part in compiled:
            part.compiled = True
