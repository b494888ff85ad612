"""What a compiled function freezes of a model: its Python state.

A compiled function reads the weights of a model anew in every call, but all
that is not a tensor only when it is traced: which layers there are, their
activations, rates and solvers, the variables that a lambda closes over. Two
snapshots tell whether any of that has changed in between.
"""

import functools
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

Snapshot = list[Any]

_VALUES = (type(None), bool, int, float, complex, str, bytes, np.generic)
_COLLECTIONS = (dict, list, tuple, set, frozenset)
_LARGEST_COLLECTION = 1000  # larger ones are data, and not looked into
_LIBRARIES = {
    *("keras", "numpy", "tensorflow", "tensorflow_probability", "tf_keras"),
    *("builtins", "functools", "threading", "weakref"),
}
# What Keras notes for itself about any layer and model; `fit` and `predict`
# change it. `_compile_config` is not among it: as `predict`, a compiled
# function is made anew after `compile`.
_BOOKKEEPING = (
    vars(keras.Model()).keys() - {"_dtype_policy", "_trainable"}
) | {
    *("history", "optimizer", "_compiled_trainable_state"),
    *("_eval_epoch_iterator", "_epoch_iterator"),
    *("stop_training", "stop_evaluating", "stop_predicting"),
}


def snapshot(model: Any) -> Snapshot:
    """Notes the Python state that a model's answers may depend on.

    Followed are attributes of objects, collections of up to 1000 entries,
    variables that functions close over, global variables that they name,
    defaults, and arguments of `functools.partial`. Not followed are modules
    and classes, and what belongs to TensorFlow, NumPy or Keras, layers
    excepted.

    Args:
        model: any object.

    Returns:
        A list of plain values and of weak references to objects, which do not
        keep the model alive, for `same`.

    Example:
        >>> scale = 2.0
        >>> model = lambda x: scale * x
        >>> before = snapshot(model)
        >>> same(before, snapshot(model))
        True
        >>> scale = 3.0
        >>> same(before, snapshot(model))
        False
    """
    noted: Snapshot = []
    seen: set[int] = set()
    pending = [model]
    while pending:
        value = pending.pop()
        if isinstance(value, _VALUES):
            noted.append(value)
        elif id(value) in seen:
            noted.append(_reference(value))
        else:
            seen.add(id(value))
            if isinstance(value, _COLLECTIONS):
                noted += [type(value), len(value)]
            else:
                noted.append(_reference(value))
            pending.extend(_parts(value))
    return noted


def same(first: Snapshot, second: Snapshot) -> bool:
    """Whether two snapshots note the same objects and equal values."""
    return len(first) == len(second) and all(
        a is b or (isinstance(a, _VALUES) and type(a) is type(b) and a == b)
        for a, b in zip(first, second, strict=True)
    )


def _reference(value: Any) -> Any:
    # Each access makes a new bound method, but of the same function.
    if isinstance(value, types.MethodType):
        value = value.__func__
    try:
        # There is one weak reference to an object, the same in each snapshot.
        return weakref.ref(value)
    except TypeError:
        return id(value) if isinstance(value, _COLLECTIONS) else value


def _parts(value: Any) -> Iterable[Any]:
    """What else is part of the state, in an order that does not change."""
    if isinstance(value, _COLLECTIONS):
        if len(value) > _LARGEST_COLLECTION:
            return ()
        if isinstance(value, dict):
            return [*value.keys(), *value.values()]
        return value
    if isinstance(value, types.MethodType):
        return value.__self__, value.__func__
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, keras.Layer):
        return [
            part
            for name, part in vars(value).items()
            if name not in _BOOKKEEPING and not name.startswith("_self_")
        ]
    if isinstance(value, types.FunctionType):
        return () if _is_of_library(value) else _parts_of_function(value)
    if isinstance(value, (type, types.ModuleType)):
        return ()
    if _is_of_library(type(value)):
        return ()
    return list(getattr(value, "__dict__", {}).values())


def _parts_of_function(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            yield None
    yield function.__defaults__
    yield function.__kwdefaults__
    yield function.__dict__
    for name in _names(function.__code__):
        yield function.__globals__.get(name)


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that a function and those defined within it look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_of_library(definition: Any) -> bool:
    module = getattr(definition, "__module__", None) or ""
    return module.partition(".")[0] in _LIBRARIES
