"""Functions of a model, compiled once for all calls.

Compiling takes a second or so, an attack on a few images milliseconds. So
what has been compiled for a model is kept as long as the model lives.
"""

import threading
import types
import warnings
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_KEPT = 16  # functions of a model; shapes of images may be many

# By the identity of the model or, for a method, of its object.
_functions: dict[int, dict[Hashable, "Compiled"]] = {}
_lock = threading.Lock()


class Compiled:
    """A compiled function of a model, which it does not keep alive."""

    def __init__(
        self,
        reference: Callable[[], Any],
        function: Callable[..., Any],
        settings: tuple[Hashable, ...],
        signature: tuple[tf.TensorSpec, ...],
        jit_compile: bool,
    ) -> None:
        self._signature = signature
        self._repeatable: bool | None = None
        self._function = tf.function(
            lambda *tensors: function(reference(), *settings, *tensors),
            input_signature=signature,
            autograph=False,
            jit_compile=jit_compile or None,
        )

    def __call__(self, *tensors: Any) -> Any:
        """Calls the function with tensors or arrays that fit its signature."""
        return self._function(
            *(
                tf.convert_to_tensor(tensor, spec.dtype)
                for tensor, spec in zip(tensors, self._signature, strict=True)
            )
        )

    def warn_of_chance(self, logits: np.ndarray, *tensors: Any) -> None:
        """Warns of a model that answers the same images differently each time.

        The first time it asks the model once more, and remembers the outcome.

        Args:
            logits: what the function, which returns logits first, answered.
            *tensors: what it was called with.
        """
        if self._repeatable is None:
            change = np.abs(self(*tensors)[0].numpy() - logits).max()
            self._repeatable = bool(change <= 1e-3 * np.abs(logits).max())
        if not self._repeatable:
            warnings.warn(
                "model answers the same images differently each time, as with "
                "dropout in training mode: whether an attack succeeds is a "
                "matter of chance, and its gradients are those of one draw.",
                stacklevel=3,
            )


def compiled(
    model: Callable[[Any], Any],
    function: Callable[..., Any],
    *settings: Hashable,
    signature: Sequence[tf.TensorSpec],
    jit_compile: bool = False,
) -> Compiled:
    """Compiles `function(model, *settings, *tensors)`, or finds it compiled.

    What is compiled is kept until the model is deleted. Weights may change in
    between; after any other change compile the model again or make a new one,
    as for `predict` of Keras. Functions of a model to which there are no weak
    references are compiled in each call. Threads may share a model.

    Args:
        model: maps images to logits; the caller keeps it alive.
        function: takes the model, the settings and tensors; a function of a
            module, since together with the settings it identifies what is
            computed.
        *settings: what is not a tensor.
        signature: describes the tensors.
        jit_compile: whether XLA compiles the function.

    Example:
        >>> def shifted(model, shift, x):
        ...     return model(x) + shift
        >>> model = lambda x: 2.0 * x
        >>> spec = tf.TensorSpec([None], tf.float32)
        >>> compiled(model, shifted, 1.0, signature=[spec])([3.0]).numpy()
        array([7.], dtype=float32)
    """
    what = (function, settings, tuple(signature), jit_compile)
    owner: Any = model
    method = None
    if isinstance(model, types.MethodType):
        owner, method = model.__self__, model.__func__
    with _lock:
        try:
            reference: Any = (weakref.WeakMethod if method else weakref.ref)(
                model
            )
            if id(owner) not in _functions:
                end = weakref.finalize(owner, _functions.pop, id(owner), None)
                end.atexit = False
            known = _functions.setdefault(id(owner), {})
        except TypeError:  # no weak references: nothing is kept
            return Compiled(lambda: model, *what)
        # Keras makes a new configuration in each `compile`.
        compilation = getattr(owner, "_compile_config", None)
        since = None if compilation is None else weakref.ref(compilation)
        key = (*what, method, since)
        made = known.pop(key, None) or Compiled(reference, *what)
        known[key] = made  # the latest used last
        while len(known) > _KEPT:
            del known[next(iter(known))]
    return made
