"""What all certificates of a model begin with: its graph, read and checked."""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.certification.keras_layers.moves import MOVES
from stable_node_tf.certification.rules import (
    options_of,
    rule_of,
    with_activation,
)
from stable_node_tf.model_graph.graph import Graph, Step, model_graph


class CertifiedNetwork(NamedTuple):
    """A model of layers with rules that ends with logits.

    Attributes:
      graph: its layers.
      readout: the step that makes the logits, by a `Dense` layer.
      unit: the unit roundoff of its arithmetic, 0.0 where that is mixed or
        unknown.
    """

    graph: Graph
    readout: Step
    unit: float

    def arithmetic(self, unit: float) -> str:
        """What a certificate with errors of that unit roundoff holds for."""
        if not unit:
            return "real arithmetic"
        return f"{self.graph.tensors[0].dtype} arithmetic as computed"


def certified_network(model: keras.Model) -> CertifiedNetwork:
    """Reads a model, and refuses it unless `certifier` can certify it.

    >>> image = keras.Input((2,))
    >>> model = keras.Model(image, keras.layers.Dense(3)(image))
    >>> certified_network(model).unit == 2.0**-24
    True
    """
    graph = model_graph(model)
    for step in graph.steps:
        _check_applied(step, graph)
    return CertifiedNetwork(graph, _readout(graph), _unit_roundoff(graph))


def _check_applied(step: Step, graph: Graph) -> None:
    """Raises unless a layer with a rule is applied as in inference."""
    if len(step.outputs) != 1:
        raise ValueError(
            "Layers of a certified model must make one tensor. "
            f"Received: {step.name}, which makes {len(step.outputs)}"
        )
    for number in step.inputs:
        shape = graph.tensors[number].shape
        if None in shape[1:]:
            raise ValueError(
                "A certified model must have inputs of one shape. Received: "
                f"{step.name} with inputs of shape {shape}"
            )
    known = options_of(step.operation)
    other = [f"{k}={v!r}" for k, v in step.options.items() if k not in known]
    if other:
        raise ValueError(
            "A certified model must apply its layers in inference mode, to "
            f"tensors. Received: {step.name}, called with {', '.join(other)}"
        )
    rule_of(step.operation)


def _readout(graph: Graph) -> Step:
    """The Dense layer that makes the logits."""
    steps = (s for s in graph.backwards() if type(s.operation) not in MOVES)
    last = next(steps, None)
    shape = graph.tensors[graph.output].shape
    if (
        last is None
        or type(last.operation) is not keras.layers.Dense
        or shape[1:] != (last.operation.units,)
    ):
        raise ValueError(
            "A certified model must end with a Dense layer, whose answers have "
            f"the shape (batch, classes). Received: answers of shape {shape}"
            + (
                f" from {last.name}{with_activation(last.operation)}"
                if last
                else ""
            )
        )
    return last


def _unit_roundoff(graph: Graph) -> float:
    """U of the arithmetic, or 0 where it is mixed or unknown."""
    dtypes = {graph.tensors[0].dtype}
    for step in graph.steps:
        layer = step.operation
        if isinstance(layer, keras.Layer):
            dtypes |= {layer.compute_dtype, layer.variable_dtype}
        dtypes |= {graph.tensors[number].dtype for number in step.outputs}
    if dtypes == {"float64"} or (dtypes == {"float32"} and not _may_use_tf32()):
        return float(np.finfo(dtypes.pop()).eps) / 2
    return 0.0


def _may_use_tf32() -> bool:
    return (
        tf.config.experimental.tensor_float_32_execution_enabled()
        and len(tf.config.get_visible_devices("GPU")) > 0
    )
