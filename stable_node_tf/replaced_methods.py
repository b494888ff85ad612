"""Finds methods of one instance that are no longer those of its class."""

from typing import Any

import keras


def replaced_methods(obj: Any) -> list[str]:
    """Names the methods that instance attributes of an object shadow.

    What is proven of a class holds for an instance that computes what the class
    says. After `layer.call = f` it computes something else, and its type does
    not show it. Methods that Keras itself wraps do not count.

    >>> layer = keras.layers.Dense(2)
    >>> replaced_methods(layer)
    []
    >>> layer.call = lambda inputs: 3.0 * inputs
    >>> replaced_methods(layer)
    ['call']
    """
    return sorted(
        name
        for name, value in getattr(obj, "__dict__", {}).items()
        if callable(getattr(type(obj), name, None))
        and not _is_set_by_keras(obj, name, value)
    )


def _is_set_by_keras(obj: Any, name: str, value: Any) -> bool:
    """Whether `Layer.__new__` made the value from a method of the class.

    Perhaps from that of a parent: functional models of a class of one's own get
    another class later. The argument `loss` of `Model.compile` shadows a
    method, too.
    """
    if isinstance(obj, keras.Model) and name == "loss":
        return True
    module = getattr(value, "__globals__", {}).get("__name__")
    method = getattr(getattr(value, "__wrapped__", None), "__func__", None)
    return module == "keras.src.layers.layer" and any(
        vars(kind).get(name) is method for kind in type(obj).__mro__
    )
