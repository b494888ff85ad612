"""Notices models that answer the same images differently each time."""

import warnings
from typing import Any

import numpy as np

from stable_node_tf.attacks.compiled import Compiled


def warn_of_chance(
    function: Compiled, logits: np.ndarray, *arguments: Any
) -> None:
    """Warns of a model whose answers are a matter of chance.

    The model is asked a second time after it has been compiled, and the
    outcome remembered.

    Args:
        function: returns logits first.
        logits: what it has answered, floats (b, classes).
        *arguments: what it was asked, images and all.
    """
    if function.traces.repeatable is None:
        change = np.abs(function(*arguments)[0].numpy() - logits).max()
        function.traces.repeatable = bool(change <= 1e-3 * np.abs(logits).max())
    if not function.traces.repeatable:
        warnings.warn(
            "model answers the same images differently each time, as with "
            "dropout in training mode: whether an attack succeeds is a matter "
            "of chance, and its gradients are those of one draw.",
            stacklevel=3,
        )
