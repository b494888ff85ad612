"""Adversarial attacks as pure functions of (model, images, labels, epsilons).

An attack takes the whole list of budgets at once and answers with a pair
(adversarial, success), one entry per budget. Behind each attack stands a
generator that yields one batch at a time, so that an evaluation over many
images and budgets never holds all adversarial images in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

Classifier = Callable[[Any], Any]


class Attack(NamedTuple):
    """The outcome of an attack on n images with E budgets.

    Attributes:
        adversarial: the attacked images, float32, shape (E, n, ...).
        success: bool, shape (E, n): True where the attacked image is
            misclassified. An image that is misclassified without any attack
            counts as a success, so accuracy is `1 - success.mean(axis=1)`.
    """

    adversarial: np.ndarray
    success: np.ndarray


class AttackedBatch(NamedTuple):
    """The outcome of an attack on one batch of b images with E budgets.

    Attributes:
        adversarial: the attacked images, float32, shape (E, b, ...).
        predictions: the classes answered for them, int64, shape (E, b).
        clean_predictions: the classes answered for the images as they were
            given, int64, shape (b,).
        labels: the true classes, int64, shape (b,).
        zero_gradient: bool, shape (b,): True where the gradient of the loss
            is exactly zero in every pixel, so that a gradient attack cannot
            move the image (a symptom of masked gradients).
    """

    adversarial: np.ndarray
    predictions: np.ndarray
    clean_predictions: np.ndarray
    labels: np.ndarray
    zero_gradient: np.ndarray


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

    Args:
        model: maps a float32 tensor of images (b, ...) to logits
            (b, classes), differentiably, for any batch size b: a Keras model
            or any other function of TensorFlow operations. Logits and not
            probabilities: the gradient through a softmax vanishes.
        images: array (n, ...) of floats in [0, 1], n >= 1.
        labels: integer array (n,) with the true classes.
        epsilons: budgets in the l-infinity norm, in units of the pixel range
            [0, 1]; finite and >= 0.
        batch_size: images per call of the model.

    Returns:
        An `Attack`: adversarial (len(epsilons), n, ...), success
        (len(epsilons), n).

    Raises:
        TypeError: if the images are not floats or the labels not integers.
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
    shape = np.shape(images)
    adversarial = np.empty([len(epsilons), *shape], np.float32)
    success = np.empty([len(epsilons), shape[0]], bool)
    start = 0
    for batch in batches:
        stop = start + len(batch.labels)
        adversarial[:, start:stop] = batch.adversarial
        success[:, start:stop] = batch.predictions != batch.labels
        start = stop
    return Attack(adversarial, success)


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
    checked_images, checked_labels = _check_data(images, labels)
    budgets = check_epsilons(epsilons)
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(
            "batch_size must be a positive integer. "
            f"Received: batch_size={batch_size!r}"
        )
    return _fgsm_batches(
        model, checked_images, checked_labels, budgets, int(batch_size)
    )


def check_epsilons(epsilons: Sequence[float]) -> np.ndarray:
    """Checks a list of attack budgets.

    Args:
        epsilons: budgets, finite and >= 0, at least one, in any order.

    Returns:
        The budgets as a float64 array of shape (len(epsilons),).

    Raises:
        ValueError: if the list is empty or not a flat list of finite,
            non-negative numbers.

    Example:
        >>> check_epsilons([0, 0.25]).tolist()
        [0.0, 0.25]
    """
    try:
        budgets = np.asarray(epsilons, dtype=np.float64)
    except (TypeError, ValueError):
        budgets = np.empty(0)
    valid = budgets.ndim == 1 and budgets.size > 0
    if not valid or not np.all(np.isfinite(budgets) & (budgets >= 0)):
        raise ValueError(
            "epsilons must be a non-empty list of finite numbers >= 0. "
            f"Received: epsilons={epsilons!r}"
        )
    return budgets


def _fgsm_batches(
    model: Classifier,
    images: np.ndarray,
    labels: np.ndarray,
    epsilons: np.ndarray,
    batch_size: int,
) -> Iterator[AttackedBatch]:
    batch_spec = tf.TensorSpec([None, *images.shape[1:]], tf.float32)
    labels_spec = tf.TensorSpec([None], tf.int64)
    epsilon_spec = tf.TensorSpec([], tf.float32)

    @tf.function(input_signature=[batch_spec, labels_spec], autograph=False)
    def logits_and_gradient(x: Any, y: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = _logits(model, x)
            loss = _log_odds(logits, y)
        gradient = tape.gradient(loss, x)
        if gradient is None:
            raise ValueError(
                "model must be differentiable with respect to the images, "
                f"but no gradient reaches them. Received: model={model!r}"
            )
        return logits, gradient

    @tf.function(
        input_signature=[batch_spec, batch_spec, epsilon_spec],
        autograph=False,
    )
    def step(x: Any, direction: Any, epsilon: Any) -> tuple[Any, Any]:
        attacked = tf.clip_by_value(x + epsilon * direction, 0.0, 1.0)
        return attacked, _logits(model, attacked)

    for start in range(0, len(images), batch_size):
        x = tf.constant(images[start : start + batch_size])
        y = labels[start : start + batch_size]
        logits, gradient = logits_and_gradient(x, tf.constant(y))
        _check_logits(logits.numpy(), y, start)
        _check_finite(gradient.numpy(), start, "the gradient of the loss")
        direction = tf.sign(gradient)
        adversarial = np.empty([len(epsilons), *x.shape], np.float32)
        predictions = np.empty([len(epsilons), len(y)], np.int64)
        for i, epsilon in enumerate(epsilons):
            attacked, attacked_logits = step(x, direction, np.float32(epsilon))
            _check_finite(
                attacked_logits.numpy(), start, "the logits under attack"
            )
            adversarial[i] = attacked.numpy()
            predictions[i] = attacked_logits.numpy().argmax(axis=1)
        moves = gradient.numpy().reshape(len(y), -1).any(axis=1)
        yield AttackedBatch(
            adversarial=adversarial,
            predictions=predictions,
            clean_predictions=logits.numpy().argmax(axis=1),
            labels=y,
            zero_gradient=~moves,
        )


def _logits(model: Classifier, x: Any) -> Any:
    """The model's logits in at least single precision."""
    logits = model(x)
    if not tf.is_tensor(logits) or logits.shape.rank != 2:
        raise ValueError(
            "model must return one tensor of logits of shape "
            f"(batch, classes). Received: {logits!r}"
        )
    return tf.cast(logits, tf.float32) if logits.dtype.size < 4 else logits


def _log_odds(logits: Any, labels: Any) -> Any:
    """Logarithm of (1 - p_y) / p_y, which has the gradient of CE, rescaled.

    With CE = -log p_y, the gradient of CE is 1 - p_y times that of the log
    odds: the same direction, hence the same sign. In float32 the factor 1 - p_y
    rounds to 0 for confident answers, which would leave them unattacked.
    """
    own = tf.one_hot(labels, tf.shape(logits)[1], True, False, dtype=tf.bool)
    rivals = tf.where(own, logits.dtype.min, logits)
    chosen = tf.reduce_sum(tf.where(own, logits, 0.0), -1)
    return tf.reduce_logsumexp(rivals, -1) - chosen


def _check_logits(logits: np.ndarray, labels: np.ndarray, start: int) -> None:
    _check_finite(logits, start, "the logits")
    if labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels must be below {logits.shape[1]}, the number of classes of "
            f"the model. Received: labels up to {labels.max()}"
        )
    totals = logits.sum(axis=1, dtype=np.float64)
    if np.all(logits >= 0) and np.allclose(totals, 1.0, rtol=0, atol=1e-5):
        raise ValueError(
            "model must return logits, not probabilities: through a softmax "
            "the gradient vanishes and the attack fails. "
            "Received: rows that sum to 1"
        )


def _check_finite(values: np.ndarray, start: int, what: str) -> None:
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{what} must be finite. Received: NaN or infinity for "
            f"{np.sum(~finite)} of {len(values)} images of a batch, first for "
            f"image {start + np.argmin(finite)}"
        )


def _check_data(images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    images, labels = np.asarray(images), np.asarray(labels)
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(
            "images must be floats in [0, 1]; divide bytes by 255. "
            f"Received: images of dtype {images.dtype}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(
            "labels must be integer classes. "
            f"Received: labels of dtype {labels.dtype}"
        )
    if images.ndim < 2 or len(images) == 0 or labels.shape != images.shape[:1]:
        raise ValueError(
            "images must have shape (n, ...) and labels shape (n,), n >= 1. "
            f"Received: images {images.shape}, labels {labels.shape}"
        )
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            "images must lie in [0, 1]. "
            f"Received: values from {images.min()} to {images.max()}"
        )
    if labels.min() < 0:
        raise ValueError(
            f"labels must be >= 0. Received: labels from {labels.min()}"
        )
    return images.astype(np.float32), labels.astype(np.int64)
