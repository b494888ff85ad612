"""Objects from the configurations that Keras makes of them."""

from collections.abc import Callable
from typing import Any

import keras


def rebuilt(
    name: str,
    configuration: dict[str, Any],
    rebuild: Callable[[dict[str, Any]], Any] | None = None,
) -> Any:
    """Returns the object that a configuration describes.

    Raises a ValueError that calls it `name` if that fails, whatever the reason.
    By default `keras.saving.deserialize_keras_object` rebuilds.

    >>> rebuilt("activation", {"class_name": "stable_node_tf>LeakyTanh",
    ...                        "config": {"alpha": 0.5}}).alpha
    0.5
    """
    rebuild = rebuild or keras.saving.deserialize_keras_object
    try:
        return rebuild(configuration)
    except Exception as error:  # of whatever it trips over
        raise ValueError(
            f"`{name}` must be an object or the configuration of one that is "
            f"registered: {_reason(error)} Received: {name}={configuration!r}"
        ) from error


def _reason(error: BaseException) -> str:
    while error.__cause__:  # Keras wraps what a constructor says
        error = error.__cause__
    said = str(error).rpartition("Exception encountered: ")[-1]
    lines = said.strip().splitlines() or [type(error).__name__]
    return lines[-1] if len(lines[0]) > 300 else lines[0]
