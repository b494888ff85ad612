"""Logits, and gradients of a loss with respect to the images."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from stable_node_tf.attacks.outcome import Classifier

Loss = Callable[[Any, Any], Any]


def read_logits(model: Classifier, x: Any) -> Any:
    """The model's logits in at least single precision.

    Raises:
        ValueError: if the model does not return one tensor (batch, classes).
    """
    logits = model(x)
    if not tf.is_tensor(logits) or logits.shape.rank != 2:
        raise ValueError(
            "model must return one tensor of logits of shape "
            f"(batch, classes). Received: {logits!r}"
        )
    return tf.cast(logits, tf.float32) if logits.dtype.size < 4 else logits


def logits_and_gradient(
    model: Classifier, loss: Loss, x: Any, labels: Any
) -> tuple[Any, Any]:
    """The logits of x, and the gradient of the loss with respect to x.

    Args:
        model: see `stable_node_tf.attacks.fgsm`.
        loss: one of `stable_node_tf.attacks.losses`.
        x: images (b, ...).
        labels: the true classes, integers (b,).

    Returns:
        Tensors (b, classes) and (b, ...).

    Raises:
        ValueError: if the model is not differentiable.

    Example:
        >>> from stable_node_tf.attacks.losses import margin
        >>> weights = tf.constant([[-1.0, 1.0]])
        >>> x, labels = tf.constant([[0.5]]), [1]
        >>> _, gradient = logits_and_gradient(
        ...     lambda x: x @ weights, margin, x, labels
        ... )
        >>> gradient.numpy().tolist()
        [[-2.0]]
    """
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = read_logits(model, x)
        value = loss(logits, labels)
    gradient = tape.gradient(value, x)
    if gradient is None:
        raise ValueError(
            "model must be differentiable with respect to the images, "
            f"but no gradient reaches them. Received: model={model!r}"
        )
    return logits, gradient
