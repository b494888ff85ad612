"""Images that an attack is to move, a batch at a time."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from stable_node_tf.attacks.checks import (
    check_bounds,
    check_data,
    check_epsilons,
    check_finite,
    check_logits,
)
from stable_node_tf.attacks.compiled import compiled
from stable_node_tf.attacks.gradients import (
    Classifier,
    logits_and_gradient,
    read_logits,
)
from stable_node_tf.attacks.norms import NORMS
from stable_node_tf.attacks.result import AttackResult
from stable_node_tf.checks import check_count


class Batch(NamedTuple):
    """Images that an attack is to move, and what the model says of them.

    Attributes:
        images: float32, shape (b, ...).
        labels: the true classes, int64, shape (b,).
        targets: the classes to move towards, int64, shape (b,), or None.
        epsilons: the budgets, float64, shape (E,).
        bounds: the smallest and the largest value of a pixel.
        numbers: the numbers of these images among all, shape (b,).
        logits: the model's logits, shape (b, classes).
        gradient: the gradient of the attack's loss, shape (b, ...): along it
            images move away from the label or towards the target. None if the
            attack uses no gradients.
    """

    images: np.ndarray
    labels: np.ndarray
    targets: np.ndarray | None
    epsilons: np.ndarray
    bounds: tuple[float, float]
    numbers: np.ndarray
    logits: np.ndarray
    gradient: Any

    @property
    def classes(self) -> np.ndarray:
        """The targets if there are any, or else the labels."""
        return self.labels if self.targets is None else self.targets

    def succeeds(self, predictions: Any, image: Any = slice(None)) -> Any:
        """Where answers, for all images or one, are what is aimed at."""
        targeted = self.targets is not None
        return (predictions == self.classes[image]) == targeted

    def result(
        self, adversarial: np.ndarray, predictions: np.ndarray, norm: str
    ) -> AttackResult:
        """What has become of the images, under an attack in that norm."""
        stuck = None
        if self.gradient is not None:
            axes = tuple(range(1, self.gradient.ndim))
            stuck = ~np.any(self.gradient, axis=axes)
        success = self.succeeds(predictions)
        offsets = (adversarial - self.images).reshape(*success.shape, -1)
        lengths = np.linalg.norm(offsets, NORMS[norm].order, axis=2)
        return AttackResult(
            epsilons=self.epsilons,
            adversarial=adversarial,
            predictions=predictions,
            clean_predictions=self.logits.argmax(axis=1),
            labels=self.labels,
            success=success,
            distances=np.where(success, lengths, np.inf),
            zero_gradient=stuck,
        )


def ask(
    model: Classifier,
    images: Any,
    labels: Any = None,
    epsilons: float | Sequence[float] | None = 0.0,
    *,
    bounds: Sequence[float] = (0.0, 1.0),
    targets: Any = None,
    batch_size: int = 500,
    loss: str | None = None,
    minimal: bool = False,
) -> Iterator[Batch]:
    """Checks images and labels, and asks the model about them.

    Arguments are those of `stable_node_tf.attacks.Attack.batches`, and the
    attack's properties `loss` and `minimal`. They are checked at the call, the
    model's answers batch by batch.
    """
    limits = check_bounds(bounds)
    size = check_count(batch_size, "batch_size")
    budgets = check_epsilons(epsilons, minimal)
    parts: Iterator[tuple[np.ndarray, ...]]
    if isinstance(images, tf.data.Dataset):
        if labels is not None or targets is not None:
            raise ValueError(
                "labels and targets must be omitted where images are a data "
                "set, which has them. Received: arrays as well"
            )
        parts = (
            check_data(limits, *part) for part in images.as_numpy_iterator()
        )
    else:
        given = [images, labels] + ([] if targets is None else [targets])
        arrays = check_data(limits, *given)
        parts = (
            tuple(array[start : start + size] for array in arrays)
            for start in range(0, len(arrays[0]), size)
        )
    first = next(parts, None)
    if first is None:
        raise ValueError("images must not be empty. Received: no batches")
    return _ask(model, loss, itertools.chain([first], parts), budgets, limits)


def _ask(
    model: Classifier,
    loss: str | None,
    parts: Iterator[tuple[np.ndarray, ...]],
    epsilons: np.ndarray,
    bounds: tuple[float, float],
) -> Iterator[Batch]:
    """Asks the model about images, labels and, if there are any, targets."""
    start = 0
    for images, labels, *targets in parts:
        numbers = start + np.arange(len(labels))
        start += len(labels)
        clean = compiled(
            model,
            _answers,
            loss,
            bool(targets),
            signature=[
                tf.TensorSpec([None, *images.shape[1:]]),
                tf.TensorSpec([None], tf.int64),
            ],
        )
        asked = images, *(targets or [labels])
        logits, *gradient = (tensor.numpy() for tensor in clean(*asked))
        check_logits(logits, numbers, labels, *targets)
        for values in gradient:
            check_finite(values, numbers, "the gradient of the loss")
        clean.warn_of_chance(logits, *asked)
        yield Batch(
            images=images,
            labels=labels,
            targets=targets[0] if targets else None,
            epsilons=epsilons,
            bounds=bounds,
            numbers=numbers,
            logits=logits,
            gradient=gradient[0] if gradient else None,
        )


def _answers(
    model: Classifier, loss: str | None, targeted: bool, x: Any, classes: Any
) -> tuple[Any, ...]:
    """Logits and, if there is a loss, the gradient along which to move."""
    if loss is None:
        return (read_logits(model, x),)
    return logits_and_gradient(model, loss, x, classes, targeted)
