"""The two ends of a model: does it scale its pixels, does it answer logits?"""

from typing import Any

import keras
import tensorflow as tf

from stable_node_tf.model_graph.graph import Graph
from stable_node_tf.replaced_methods import replaced_methods

_KEEPS_VALUES = (
    keras.layers.InputLayer,
    keras.layers.Identity,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping2D,
    keras.layers.UpSampling2D,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
    keras.layers.Resizing,
    keras.layers.CenterCrop,
    keras.layers.RandomCrop,
    keras.layers.RandomFlip,
    keras.layers.RandomRotation,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
)
_OPERATIONS_THAT_KEEP_VALUES = (
    "ExpandDims",
    "GetItem",
    "Reshape",
    "Squeeze",
    "Transpose",
)
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
        operation = step.operation
        if raw.isdisjoint(step.inputs):
            continue
        if _keeps_values(operation):
            raw.update(step.outputs)
        elif not getattr(operation, "weights", []) or _preprocesses(operation):
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
        if not _keeps_values(operation):
            return None
    return None


def probability_operation(answer: Any) -> str | None:
    """Names the softmax or sigmoid that a traced model ends in, if any.

    Unlike `probabilities` it sees into any layer, and cannot name it.

    Args:
      answer: tensor; nothing is known of one that is not of a graph.

    Returns:
      "Softmax", "Sigmoid", or None.

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


def _keeps_values(operation: Any) -> bool:
    if not isinstance(operation, keras.Layer):
        return type(operation).__name__ in _OPERATIONS_THAT_KEEP_VALUES
    linear = type(operation) is keras.layers.Activation and (
        operation.activation is keras.activations.linear
    )
    known = linear or type(operation) in _KEEPS_VALUES
    return known and not replaced_methods(operation)


def _preprocesses(layer: keras.layers.Layer) -> bool:
    """Whether it, or a layer inside it, is one that scales pixels."""
    return any(
        isinstance(part, _PREPROCESSES) for part in layer._flatten_layers()
    )
