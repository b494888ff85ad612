"""Functions of a model, compiled once for all calls.

Compiling takes a second or so, an attack on a few images milliseconds. So
what has been compiled for a model is kept as long as the model lives, and
while its Python state stays what it was when it was traced.
"""

import collections
import threading
import types
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import tensorflow as tf

from stable_node_tf.attacks.outcome import Classifier
from stable_node_tf.attacks.python_state import Snapshot, same, snapshot

_KEPT = 16  # functions of a model; shapes of images may be many


class Compiled:
    """A compiled function of a model, which it keeps alive.

    Attributes:
        traces: what is known about the traces of this model's functions.
    """

    def __init__(
        self, model: Classifier, function: Any, signature: Any, traces: "Traces"
    ) -> None:
        """Wraps what `compiled` has found or made; use `compiled` instead."""
        self.traces = traces
        self._model = model
        self._function = function
        self._signature = signature

    def __call__(self, *tensors: Any) -> Any:
        """Calls the function with tensors or arrays that fit its signature."""
        return self._function(
            *(
                tf.convert_to_tensor(tensor, spec.dtype)
                for tensor, spec in zip(tensors, self._signature, strict=True)
            )
        )


class Traces:
    """What the functions of one model have in common.

    Attributes:
        reference: returns the model, which it does not keep alive if there are
            weak references to it.
        repeatable: whether the model answers the same images alike each time;
            None if that is not known yet.
        functions: by what identifies them, the latest used last.
    """

    def __init__(self, reference: Callable[[], Classifier | None]) -> None:
        self.reference = reference
        self.repeatable: bool | None = None
        self.functions: collections.OrderedDict[Hashable, Any] = (
            collections.OrderedDict()
        )
        self._state: Snapshot | None = None

    def hold_for(self, model: Classifier) -> bool:
        """Whether this is the model, in the state in which it was traced."""
        # Each access makes a new bound method: equal, but not the same.
        is_method = isinstance(model, types.MethodType)
        ours = self.reference()
        if not (ours == model if is_method else ours is model):
            return False
        return self._state is None or same(self._state, snapshot(model))

    def note(self, before: Snapshot, after: Snapshot) -> None:
        """Notes the state before and after a trace.

        Tracing itself may change the state, of a model that counts how often
        it is called for example; that does not make the trace out of date.
        """
        unchanged = self._state is None or same(self._state, before)
        self._state = after if unchanged else []  # no snapshot is empty


# By the identity of the model or, for a method, of its object and function.
_traces: dict[Hashable, Traces] = {}
_ends: dict[Hashable, weakref.ref] = {}
_lock = threading.RLock()


def compiled(
    model: Classifier,
    function: Callable[..., Any],
    *settings: Hashable,
    signature: Sequence[tf.TensorSpec],
    jit_compile: bool = False,
) -> Compiled:
    """Compiles `function(model, *settings, *tensors)`, or finds it compiled.

    What is compiled is kept until the model is deleted, and found again while
    the model's Python state is the same, see
    `stable_node_tf.attacks.python_state`; weights may change. Functions of a
    model to which there are no weak references are compiled in each call.
    Threads may share a model.

    Args:
        model: see `stable_node_tf.attacks.fgsm`.
        function: takes the model, the settings and tensors; a function of a
            module, since together with the settings it identifies what is
            computed.
        *settings: what is not a tensor.
        signature: of the tensors.
        jit_compile: whether XLA compiles the function.

    Returns:
        The compiled function of the tensors.

    Example:
        >>> def shifted(model, shift, x):
        ...     return model(x) + shift
        >>> model = lambda x: 2.0 * x
        >>> spec = tf.TensorSpec([None], tf.float32)
        >>> compiled(model, shifted, 1.0, signature=[spec])([3.0]).numpy()
        array([7.], dtype=float32)
    """
    signature = tuple(signature)
    key = (function, settings, signature, jit_compile)
    with _lock:
        traces = _traces_of(model)
        if key not in traces.functions:
            traces.functions[key] = _compile(traces, *key)
        made = traces.functions[key]
        traces.functions.move_to_end(key)
        while len(traces.functions) > _KEPT:
            traces.functions.popitem(last=False)
    return Compiled(model, made, signature, traces)


def _traces_of(model: Classifier) -> Traces:
    owner: Any = model
    place: Hashable = id(model)
    try:
        if isinstance(model, types.MethodType):
            owner = model.__self__
            place = id(owner), id(model.__func__)
            reference: Any = weakref.WeakMethod(model)
        else:
            reference = weakref.ref(model)
        end = weakref.ref(owner, lambda _: _forget(place))
    except TypeError:
        return Traces(lambda: model)
    known = _traces.get(place)
    if known is None or not known.hold_for(model):
        _forget(place)
        known = _traces[place] = Traces(reference)
        _ends[place] = end
    return known


def _forget(place: Hashable) -> None:
    _ends.pop(place, None)
    if (traces := _traces.pop(place, None)) is not None:
        traces.functions.clear()  # which refer to `traces`: freed at once


def _compile(
    traces: Traces,
    function: Callable[..., Any],
    settings: tuple[Hashable, ...],
    signature: tuple[tf.TensorSpec, ...],
    jit_compile: bool,
) -> Any:
    @tf.function(
        input_signature=signature,
        autograph=False,
        jit_compile=jit_compile or None,
    )
    def traced(*tensors: Any) -> Any:
        model = traces.reference()
        before = snapshot(model)
        answer = function(model, *settings, *tensors)
        traces.note(before, snapshot(model))
        return answer

    return traced
