"""Graphs that every model of a process shares.

Keras traces a training step twice, and once more for each model. What a step
does with tensors of the same shapes and the same settings need not be traced
again each time.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from stable_node_tf.stability.clipping.singular_values import compiled_by_xla


def call_traced(
    function: Callable[..., Any], *tensors: Any, **settings: Any
) -> Any:
    """Returns `function(*tensors, **settings)`, within a graph by one call.

    The function must be one at the top of a module, and its settings hashable.
    It is traced once for each shape, dtype and setting, with and without XLA,
    for which functions may do different things. Eagerly, where a trace would
    cost more than it saves, the operations run one by one.

    >>> int(call_traced(tf.pow, tf.constant(3), y=2))
    9
    """
    if tf.executing_eagerly():
        return function(*tensors, **settings)
    traced = _traced(function, tuple(settings.items()), compiled_by_xla())
    return traced(*tensors)


@functools.lru_cache(maxsize=64)
def _traced(
    function: Callable[..., Any],
    settings: tuple[tuple[str, Any], ...],
    by_xla: bool,
) -> Any:
    del by_xla
    return tf.function(
        functools.partial(function, **dict(settings)), autograph=False
    )
