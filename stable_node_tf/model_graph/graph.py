"""What a Keras model computes: one list of operations, nested models opened.

Whatever certifies or exports a model reads it here, so that both see the same.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras

from stable_node_tf.replaced_methods import replaced_methods


class Step(NamedTuple):
    """One call of an operation.

    Attributes:
      operation: a layer, a model that could not be opened, or an operation of
        `keras.ops`. The `InputLayer` of an opened model is a step too: it
        casts.
      inputs: numbers of the tensors that it is given, see `Graph.tensors`.
      outputs: numbers of the tensors that it makes.
      options: its other arguments by name, without None and training=False.
    """

    operation: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """What an error message calls it."""
        return title(self.operation)

    @property
    def trains(self) -> bool:
        """Whether it is called in training mode whatever the model is."""
        return bool(self.options.get("training", False))


class Graph(NamedTuple):
    """The steps from the one input of a model to its one output.

    Attributes:
      tensors: `keras.KerasTensor`s with their shapes and dtypes, by number; 0
        is the input of the model.
      output: number of its output.
      steps: what the output depends on, in an order in which it can be
        computed.
    """

    tensors: list[Any]
    output: int
    steps: list[Step]

    def backwards(self) -> Iterator[Step]:
        """Goes from the output to the input as long as steps form a chain."""
        makers = {made: step for step in self.steps for made in step.outputs}
        number = self.output
        while number in makers:
            step = makers[number]
            yield step
            if len(step.inputs) != 1:
                return
            [number] = step.inputs


def title(operation: Any) -> str:
    """What an error message calls a layer or another operation.

    >>> title(keras.layers.Flatten(name="flat"))
    "layer 'flat' of type Flatten"
    """
    kind = "layer" if isinstance(operation, keras.Layer) else "Keras operation"
    return f"{kind} {operation.name!r} of type {type(operation).__name__}"


def model_graph(model: keras.Model) -> Graph:
    """Reads a functional or sequential model.

    Models among its layers are opened if they are called with tensors alone, in
    the structure of inputs that they declare.

    Raises:
      TypeError: if it is not a Keras model.
      ValueError: if it does not have one input and one output, or computes
        something else than its graph says.

    >>> image = keras.Input((2, 2))
    >>> inner = keras.Sequential([keras.Input((2, 2)), keras.layers.Flatten()])
    >>> model = keras.Model(image, keras.layers.Dense(3)(inner(image)))
    >>> [type(step.operation).__name__ for step in model_graph(model).steps]
    ['InputLayer', 'Flatten', 'Dense']
    """
    check_one_input_one_output(model)
    reason = _hidden(model)
    if reason:
        raise ValueError(
            "model must compute what its graph of layers says. "
            f"Received: model {model.name!r} of type {type(model).__name__}, "
            f"which has {reason}"
        )
    tensors: list[Any] = [model.inputs[0]]
    steps: list[Step] = []
    [output] = _append(model, [0], tensors, steps)
    needed, kept = {output}, []
    for step in reversed(steps):
        if not needed.isdisjoint(step.outputs):
            needed.update(step.inputs)
            kept.append(step)
    return Graph(tensors, output, kept[::-1])


def check_one_input_one_output(model: keras.Model) -> None:
    """Raises unless a model is built from one input to one output.

    Raises:
      TypeError: if it is not a Keras model.
      ValueError: naming its inputs and outputs.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"model must be a keras.Model. Received: {type(model).__name__}"
        )
    inputs = getattr(model, "inputs", None) or []
    outputs = getattr(model, "outputs", None) or []
    if len(inputs) != 1 or len(outputs) != 1:
        makers = [tensor._keras_history.operation.name for tensor in outputs]
        raise ValueError(
            "model must be a functional or sequential model, built, with one "
            f"input and one output. Received: model {model.name!r} with "
            f"{len(inputs)} inputs {[tensor.name for tensor in inputs]} and "
            f"{len(outputs)} outputs {makers}"
        )


def single_tensor_function(model: keras.Model) -> Callable[[Any], Any]:
    """The model from a tensor to a tensor, in inference mode.

    Its one input may be declared inside a dictionary or a list, and so may its
    one output.

    >>> image = keras.Input((2,), name="image")
    >>> logits = keras.layers.Dense(3)(image)
    >>> model = keras.Model({"image": image}, {"logits": logits})
    >>> single_tensor_function(model)(keras.ops.ones((5, 2))).shape
    TensorShape([5, 3])
    """
    declared = isinstance(model, keras.Function)

    def function(tensor: Any) -> Any:
        if declared:
            tensor = keras.tree.pack_sequence_as(model.input, [tensor])
        answers = keras.tree.flatten(model(tensor, training=False))
        if len(answers) != 1:
            raise ValueError(
                "model must return one tensor. "
                f"Received: {len(answers)} from model {model.name!r}"
            )
        return answers[0]

    return function


def _hidden(model: keras.Model) -> str | None:
    """Why the graph of a model does not say what it computes, if so."""
    if _function(model) is None:
        return "no graph"
    replaced = replaced_methods(model)
    if replaced:
        return f"a replaced `{replaced[0]}`"
    types = type(model).__mro__
    first = next(
        i for i, t in enumerate(types) if t.__module__.startswith("keras.")
    )
    for name in (name for kind in types[:first] for name in vars(kind)):
        # Losses and training steps may differ, and so may special methods.
        private = name.startswith("_") and not name.startswith("__")
        if name in ("call", "__call__") or (
            private and hasattr(types[first], name)
        ):
            return f"a `{name}` of its own"
    return None


def _function(model: Any) -> Any:
    """The `keras.Function` that a functional or sequential model runs."""
    if isinstance(model, keras.Sequential):
        return model._functional
    if isinstance(model, keras.Model) and isinstance(model, keras.Function):
        return model
    return None


def _append(
    model: Any, entries: list[int], tensors: list[Any], steps: list[Step]
) -> list[int]:
    """Appends the steps of a model; numbers of its outputs."""
    function = _function(model)
    numbers = dict(zip(map(id, function.inputs), entries, strict=True))

    def add(tensor: Any) -> int:
        tensors.append(tensor)
        return len(tensors) - 1

    by_depth = function._nodes_by_depth
    for node in (
        n for depth in sorted(by_depth)[::-1] for n in by_depth[depth]
    ):
        if node.is_input:
            continue
        operation = node.operation
        inputs = tuple(numbers[id(t)] for t in node.input_tensors)
        options = _options(operation, node.arguments)
        opened = (
            _function(operation) is not None
            and _given_as_declared(operation, node.arguments)
            and not _hidden(operation)
            and not options
        )
        if opened:
            casts = [add(tensor) for tensor in operation.inputs]
            for number, cast in zip(inputs, casts, strict=True):
                layer = tensors[cast]._keras_history.operation
                steps.append(Step(layer, (number,), (cast,), {}))
            outputs = _append(operation, casts, tensors, steps)
        else:
            outputs = [add(tensor) for tensor in node.outputs]
            steps.append(Step(operation, inputs, tuple(outputs), options))
        numbers.update(zip(map(id, node.outputs), outputs, strict=True))
    return [numbers[id(tensor)] for tensor in function.outputs]


def _given_as_declared(model: Any, arguments: Any) -> bool:
    """Whether a call of a model hands over its inputs in their own order."""
    given = arguments.keras_tensors
    if len(given) == len(model.inputs) == 1:
        return True
    first = next(iter((*arguments.args, *arguments.kwargs.values())))
    try:
        keras.tree.assert_same_structure(
            *map(keras.tree.lists_to_tuples, (first, model.input))
        )
    except (TypeError, ValueError):
        return False
    return len(given) == len(model.inputs)


def _options(operation: Any, arguments: Any) -> dict[str, Any]:
    """What a call was given besides tensors that changes it, by name."""
    try:
        signature = inspect.signature(type(operation).call)
        given = signature.bind(operation, *arguments.args, **arguments.kwargs)
        named = dict(list(given.arguments.items())[1:])
    except (TypeError, ValueError):
        unnamed = {str(i): value for i, value in enumerate(arguments.args)}
        named = {**unnamed, **arguments.kwargs}
    if not named.get("training", True):
        del named["training"]
    return {
        name: value
        for name, value in named.items()
        if any(
            part is not None and not isinstance(part, keras.KerasTensor)
            for part in keras.tree.flatten(value)
        )
    }
