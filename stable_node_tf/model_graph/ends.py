"""The two ends of a model: does it scale its pixels, does it answer logits?"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.model_graph.graph import Graph, Step

_PREPROCESSES = (keras.layers.Rescaling, keras.layers.Normalization)
_PROBABILITIES = (
    "hardsigmoid",
    "sigmoid",
    "softmax",
    "softmaxv2",
    "sparsemax",
    "sparsesigmoid",
)
# TensorFlow's operations: those that change no value, and calls.
_COPIES = ("Cast", "ExpandDims", "Identity", "Reshape", "Squeeze")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def changed_pixels(graph: Graph) -> str | None:
    """Names what may bring pixels into another range before it learns.

    A layer with weights has learned what pixels are, whatever their range. One
    without may divide them by 255, and `Rescaling` and `Normalization` do it.

    >>> from stable_node_tf.model_graph.graph import model_graph
    >>> image = keras.Input((2, 2, 1))
    >>> scaled = keras.layers.Rescaling(1 / 255, name="scale")(image)
    >>> changed_pixels(model_graph(keras.Model(image, scaled)))
    "layer 'scale' of type Rescaling"
    """
    raw = {0}
    for step in graph.steps:
        if raw.isdisjoint(step.inputs):
            continue
        learned = getattr(step.operation, "weights", [])
        if _keeps_values(step, graph):
            raw.update(step.outputs)
        elif not learned or _preprocesses(step.operation):
            return step.name
    return None


def probabilities(graph: Graph) -> str | None:
    """Names what turns logits into probabilities at the end of a model.

    >>> from stable_node_tf.model_graph.graph import model_graph
    >>> image = keras.Input((2,))
    >>> answer = keras.layers.Dense(3, "softmax", name="answer")(image)
    >>> probabilities(model_graph(keras.Model(image, answer)))
    "layer 'answer' of type Dense, with softmax"
    """
    for step in graph.backwards():
        operation = step.operation
        function = getattr(operation, "activation", operation)
        name = getattr(function, "__name__", type(function).__name__)
        if name.lower().replace("_", "") in _PROBABILITIES:
            return f"{step.name}, with {name}"
        if not _keeps_values(step, graph):
            return None
    return None


def probability_operation(answer: Any) -> str | None:
    """Names the softmax or sigmoid that a traced model ends in, if any.

    Unlike `probabilities` it sees into any layer, and cannot name it. Nothing
    is known of a tensor that is not of a graph.

    >>> @tf.function
    ... def model(x):
    ...     found.append(probability_operation(tf.reshape(tf.sigmoid(x), [-1])))
    >>> found = []
    >>> model(tf.ones(2))
    >>> found
    ['Sigmoid']
    """
    last = _last_operation(answer)
    return last if last in ("Sigmoid", "Softmax") else None


def _last_operation(tensor: Any) -> str | None:
    """The type of the operation that a tensor of a graph comes from."""
    if not tf.is_symbolic_tensor(tensor):
        return None
    operation, graph = tensor.op, tensor.graph
    index = tensor.value_index
    while True:
        if operation.type in _COPIES:
            tensor = operation.inputs[0]
        elif operation.type in _CALLS:
            name = operation.get_attr("f").name
            if not graph._is_function(name):
                return operation.type
            graph = getattr(graph._get_function(name), "graph", None)
            if graph is None:
                return operation.type
            tensor = graph.outputs[index]
        else:
            return str(operation.type)
        operation, index = tensor.op, tensor.value_index


def _keeps_values(step: Step, graph: Graph) -> bool:
    """Whether a step without weights leaves values, or 0, in every place.

    It is asked by trying: images of one value come out as such, except for
    zeros at edges. So it is for reshaping, pooling, padding, resizing, ReLU.
    """
    if isinstance(step.operation, keras.layers.InputLayer):
        return True
    if len(step.inputs) != 1 or getattr(step.operation, "weights", []):
        return False
    tensor = graph.tensors[step.inputs[0]]
    batch, *sizes = tensor.shape
    shape = [batch or 1, *(size or 8 for size in sizes)]
    for value in (0.25, 0.75):
        try:
            image = keras.ops.full(shape, value, tensor.dtype)
            answer = keras.ops.convert_to_numpy(
                step.operation(image, **step.options)
            )
        except Exception:  # of whatever a layer trips over
            return False
        kept = np.isclose(answer, value, rtol=1e-2)
        if not (kept.any() and np.all(kept | (answer == 0.0))):
            return False
    return True


def _preprocesses(operation: Any) -> bool:
    """Whether it, or a layer inside it, is one that scales pixels."""
    return isinstance(operation, keras.Layer) and any(
        isinstance(part, _PREPROCESSES) for part in operation._flatten_layers()
    )
