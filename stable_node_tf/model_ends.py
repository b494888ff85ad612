"""The two ends of a model: does it scale its pixels, does it answer logits?"""

from typing import Any

import keras

from stable_node_tf.model_graph import Graph
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


def changed_pixels(graph: Graph) -> str | None:
    """Names what may bring pixels into another range before it learns.

    A layer with weights has learned what pixels are, whatever their range. One
    without may divide them by 255, and `Rescaling` and `Normalization` do it.

    >>> from stable_node_tf.model_graph import model_graph
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

    >>> from stable_node_tf.model_graph import model_graph
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
