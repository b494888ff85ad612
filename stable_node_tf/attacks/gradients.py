"""Logits, and gradients of a loss with respect to the images."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from stable_node_tf.attacks.losses import LOSSES
from stable_node_tf.model_graph.binary_logits import class_logits
from stable_node_tf.model_graph.ends import probability_operation

Classifier = Callable[[Any], Any]
"""What is attacked: maps images to logits, differentiably."""


def read_logits(model: Classifier, x: Any) -> Any:
    """The model's logits in at least single precision.

    A single logit z per image stands for the two logits (0, z): class 1 where
    z > 0, and class 0 elsewhere.

    Raises:
        ValueError: if the model has not one input, does not return one tensor
            of floats (batch, classes), or ends in a softmax or sigmoid.
    """
    inputs = getattr(model, "inputs", None) or []
    if isinstance(model, keras.Model) and len(inputs) > 1:
        names = ", ".join(tensor.name for tensor in inputs)
        raise ValueError(
            f"model must have one input. Received: {len(inputs)} inputs, "
            f"{names}"
        )
    logits = model(x)
    if (
        not tf.is_tensor(logits)
        or logits.shape.rank != 2
        or not logits.dtype.is_floating
    ):
        raise ValueError(
            "model must return one tensor of logits of shape "
            f"(batch, classes), floats. Received: {_described(logits)}"
        )
    last = probability_operation(logits)
    if last:
        raise ValueError(
            f"model must return logits, not probabilities: through a {last} "
            "the gradient vanishes and the attack fails. "
            f"Received: a model that ends in {last}"
        )
    if logits.dtype.size < 4:
        logits = tf.cast(logits, tf.float32)
    return class_logits(logits)


def _described(answer: Any) -> str:
    if isinstance(answer, dict):
        return f"a dictionary with {', '.join(map(repr, answer))}"
    if isinstance(answer, (list, tuple)):
        return f"a {type(answer).__name__} of {len(answer)}"
    if tf.is_tensor(answer):
        return f"a tensor of {answer.dtype.name}, shape {answer.shape}"
    return f"{type(answer).__name__}"


def logits_and_gradient(
    model: Classifier, loss: str, x: Any, classes: Any, targeted: bool = False
) -> tuple[Any, Any]:
    """The logits of x, and the gradient along which to move it.

    Args:
        model: see `stable_node_tf.attacks.Attack`.
        loss: the name of one of `losses.LOSSES`.
        x: images (b, ...).
        classes: integers (b,).
        targeted: whether x is to move towards the classes; else away from them.

    Returns:
        Tensors (b, classes) and (b, ...).

    Raises:
        ValueError: if the model is not differentiable.

    Example:
        >>> weights = tf.constant([[-1.0, 1.0]])
        >>> x, labels = tf.constant([[0.5]]), [1]
        >>> _, gradient = logits_and_gradient(
        ...     lambda x: x @ weights, "cw", x, labels
        ... )
        >>> gradient.numpy().tolist()
        [[-2.0]]
    """
    if targeted and loss == "dlr":
        raise ValueError(
            "loss='dlr' cannot be targeted: it is constant where the target "
            "is third. Take 'cw' or 'cross_entropy'. Received: targets"
        )
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = read_logits(model, x)
        value = LOSSES[loss](logits, classes)
    gradient = tape.gradient(value, x)
    if gradient is None:
        raise ValueError(
            "model must be differentiable with respect to the images, "
            f"but no gradient reaches them. Received: model={model!r}"
        )
    return logits, -gradient if targeted else gradient
