"""FGSM: one step along the sign of the gradient."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from stable_node_tf.attacks.chance import warn_of_chance
from stable_node_tf.attacks.checks import (
    check_data,
    check_epsilons,
    check_finite,
    check_logits,
)
from stable_node_tf.attacks.compiled import compiled
from stable_node_tf.attacks.gradients import logits_and_gradient, read_logits
from stable_node_tf.attacks.losses import log_odds
from stable_node_tf.attacks.outcome import (
    Attack,
    AttackedBatch,
    Classifier,
    collect,
)
from stable_node_tf.checks import check_count


def fgsm(
    model: Classifier,
    images: Any,
    labels: Any,
    epsilons: Sequence[float],
    *,
    batch_size: int = 500,
) -> Attack:
    """Attacks images with the fast gradient sign method.

    For cross-entropy CE on logits and true labels y,

        x' = clip(x + epsilon * sign(grad_x CE(model(x), y)), 0, 1),

    Goodfellow, Shlens, Szegedy (2015), arXiv 1412.6572, section 4. The sign
    is that of the log odds log((1 - p_y) / p_y), whose gradient is that of the
    cross-entropy divided by 1 - p_y > 0: the same in exact arithmetic, but it
    does not vanish in float32 where the model is confident. The gradient is
    computed once and serves all budgets. All attacked images are
    returned together: 10 000 images of 28 x 28 pixels and 16 budgets take
    0.5 GB. Use `fgsm_batches` where that is too much.

    What is compiled for a model is kept while the model lives, for any number
    of images of the same shape. Weights may change in between. Where the model
    itself changes, by another activation for example or by `compile`, the next
    call compiles anew. What it finds are changes of attributes, of variables
    that a function closes over and of global variables that it names; not of
    modules and classes. Not found either are changes while a call of an attack,
    or a loop over its batches, is under way.

    Args:
        model: maps a float32 tensor of images (b, ...) to logits
            (b, classes), differentiably, for any batch size b: a Keras model
            or any other function of TensorFlow operations. Logits and not
            probabilities: the gradient through a softmax vanishes. A single
            logit z, shape (b, 1), stands for two, (0, z): class 1 where z > 0.
        images: array (n, ...) of floats in [0, 1], n >= 1.
        labels: integer array (n,) with the true classes.
        epsilons: budgets in the l-infinity norm, in units of the pixel range
            [0, 1]; finite and >= 0.
        batch_size: images per call of the model.

    Returns:
        An `Attack`: adversarial (len(epsilons), n, ...), success
        (len(epsilons), n).

    Raises:
        TypeError: if the images are not floats, or the labels or a count not
            integers.
        ValueError: if an argument is malformed, the model's output is not
            logits, it is not differentiable, or a logit or gradient is not
            finite.

    Example:
        >>> weights = tf.constant([[-1.0, 1.0]])  # one pixel, two classes
        >>> attack = fgsm(
        ...     lambda x: (x - 0.5) @ weights, [[0.75]], [1], [0.0, 0.5]
        ... )
        >>> attack.adversarial[:, 0, 0].tolist(), attack.success.tolist()
        ([0.75, 0.25], [[False], [True]])
    """
    batches = fgsm_batches(
        model, images, labels, epsilons, batch_size=batch_size
    )
    return collect(batches, len(epsilons), np.shape(images))


def fgsm_batches(
    model: Classifier,
    images: Any,
    labels: Any,
    epsilons: Sequence[float],
    *,
    batch_size: int = 500,
) -> Iterator[AttackedBatch]:
    """Attacks images as `fgsm` does, yielding one batch at a time.

    Arguments and errors are those of `fgsm`; malformed arguments are refused
    at the call, before the first batch is asked for.

    Returns:
        An iterator over `AttackedBatch`, in the order of the images.

    Example:
        >>> weights = tf.constant([[-1.0, 1.0]])
        >>> images, labels = [[0.75], [0.875]], [1, 1]
        >>> for batch in fgsm_batches(
        ...     lambda x: (x - 0.5) @ weights, images, labels, [0.5],
        ...     batch_size=1,
        ... ):
        ...     print(batch.adversarial.ravel(), batch.predictions)
        [0.25] [[0]]
        [0.375] [[0]]
    """
    checked_images, checked_labels = check_data(images, labels)
    budgets = check_epsilons(epsilons)
    size = check_count(batch_size, "batch_size")
    return _fgsm_batches(model, checked_images, checked_labels, budgets, size)


def _fgsm_batches(
    model: Classifier,
    images: np.ndarray,
    labels: np.ndarray,
    epsilons: np.ndarray,
    batch_size: int,
) -> Iterator[AttackedBatch]:
    attack = compiled(
        model,
        _attack,
        signature=[
            tf.TensorSpec([None, *images.shape[1:]], tf.float32),
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None], tf.float32),
        ],
    )
    for start in range(0, len(images), batch_size):
        x = images[start : start + batch_size]
        y = labels[start : start + batch_size]
        answers = attack(x, y, epsilons)
        logits, gradient, adversarial, attacked_logits = (
            answer.numpy() for answer in answers
        )
        check_logits(logits, y, start)
        check_finite(gradient, start, "the gradient of the loss")
        for of_one_budget in attacked_logits:
            check_finite(of_one_budget, start, "the logits under attack")
        warn_of_chance(attack, logits, x, y, epsilons)
        yield AttackedBatch(
            adversarial=adversarial,
            predictions=attacked_logits.argmax(axis=2),
            clean_predictions=logits.argmax(axis=1),
            labels=y,
            zero_gradient=~gradient.reshape(len(y), -1).any(axis=1),
        )


def _attack(
    model: Classifier, x: Any, labels: Any, epsilons: Any
) -> tuple[Any, Any, Any, Any]:
    """Logits and gradient of images; attacked images and their logits."""
    logits, gradient = logits_and_gradient(model, log_odds, x, labels)
    direction = tf.sign(gradient)

    def step(epsilon: Any) -> tuple[Any, Any]:
        attacked = tf.clip_by_value(x + epsilon * direction, 0.0, 1.0)
        return attacked, read_logits(model, attacked)

    adversarial, attacked_logits = tf.map_fn(
        step, epsilons, fn_output_signature=(x.dtype, logits.dtype)
    )
    return logits, gradient, adversarial, attacked_logits
