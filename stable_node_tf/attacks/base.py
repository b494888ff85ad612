"""What an attack is: an object that is called with a model and images."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
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
    logits_and_ascent,
    read_logits,
)
from stable_node_tf.attacks.norms import NORMS
from stable_node_tf.checks import check_count


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """What an attack with E budgets did to n images.

    Attributes:
        epsilons: the budgets, float64, shape (E,).
        adversarial: the attacked images, float32, shape (E, n, ...).
        predictions: the classes answered for them, int64, shape (E, n).
        clean_predictions: the classes answered for the images as they were
            given, int64, shape (n,).
        labels: the true classes, int64, shape (n,).
        success: bool, shape (E, n): True where the attacked image is
            misclassified or, with targets, classified as the target. It may
            have been so without any attack.
        zero_gradient: bool, shape (n,): True where the gradient of the loss
            is exactly zero in every pixel, so that a gradient attack cannot
            move the image (a symptom of masked gradients). None for an attack
            that uses no gradients.
    """

    epsilons: np.ndarray
    adversarial: np.ndarray
    predictions: np.ndarray
    clean_predictions: np.ndarray
    labels: np.ndarray
    success: np.ndarray
    zero_gradient: np.ndarray | None

    @property
    def right(self) -> np.ndarray:
        """Whether the answer to the attacked image is right, bool, (E, n)."""
        return np.asarray(self.predictions == self.labels)

    @property
    def accuracies(self) -> np.ndarray:
        """The share of attacked images that are classified correctly, (E,)."""
        return np.asarray(self.right.mean(axis=1))

    def without_images(self) -> "AttackResult":
        """The same, but `adversarial` has shape (E, n, 0)."""
        nothing = np.empty([*self.success.shape, 0], np.float32)
        return dataclasses.replace(self, adversarial=nothing)


def collect(batches: Iterable[AttackResult]) -> AttackResult:
    """Puts the batches of an attack together, in their order."""
    parts = list(batches)
    joined = {
        name: np.concatenate([vars(part)[name] for part in parts], axis)
        for name, axis in (
            *(("adversarial", 1), ("predictions", 1), ("success", 1)),
            *(("clean_predictions", 0), ("labels", 0), ("zero_gradient", 0)),
        )
        if vars(parts[0])[name] is not None
    }
    return dataclasses.replace(parts[0], **joined)


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
        self, adversarial: np.ndarray, predictions: np.ndarray
    ) -> AttackResult:
        """What has become of the images."""
        stuck = None
        if self.gradient is not None:
            axes = tuple(range(1, self.gradient.ndim))
            stuck = ~np.any(self.gradient, axis=axes)
        return AttackResult(
            epsilons=self.epsilons,
            adversarial=adversarial,
            predictions=predictions,
            clean_predictions=self.logits.argmax(axis=1),
            labels=self.labels,
            success=self.succeeds(predictions),
            zero_gradient=stuck,
        )


@dataclasses.dataclass(frozen=True)
class Attack:
    """An attack: settings, and a method that moves a batch of images.

    Attacks are frozen dataclasses, whose fields say how hard they try. To
    write one, derive a frozen dataclass with a method `perturb`. Evaluations,
    `WorstCase` and pictures then take it as any other:

        >>> @dataclasses.dataclass(frozen=True)
        ... class Darken(Attack):
        ...     title = "darkening"
        ...
        ...     def perturb(self, model, batch):
        ...         lower, _ = batch.bounds
        ...         return [
        ...             np.maximum(batch.images - epsilon, lower)
        ...             for epsilon in batch.epsilons
        ...         ]
        >>> weights = tf.constant([[-1.0, 1.0]])  # one pixel, two classes
        >>> def model(x):
        ...     return (x - 0.5) @ weights
        >>> images, labels = [[0.75], [0.6]], [1, 1]
        >>> result = Darken()(model, images, labels, epsilons=[0.2, 0.5])
        >>> result.success.tolist(), result.accuracies.tolist()
        ([[False, True], [True, True]], [0.5, 0.0])

    After `register(Darken())` programs offer it by its name, "darken". The
    properties below are what an attack says of itself; a subclass may set them
    as attributes. `batches` explains models, images and budgets.
    """

    @property
    def name(self) -> str:
        """A short, stable name, for JSON and flags."""
        return type(self).__name__.lower()

    @property
    def title(self) -> str:
        """How tables and pictures call it."""
        return type(self).__name__

    @property
    def norm(self) -> str:
        """The norm of its budgets, "linf" or "l2"."""
        return "linf"

    @property
    def style(self) -> dict[str, str]:
        """How its curve is drawn: arguments of Matplotlib's `plot`."""
        return {"color": "#6B6B6B", "marker": "o"}

    @property
    def loss(self) -> str | None:
        """The loss, out of `losses.LOSSES`, whose gradient a batch brings."""
        return None

    @property
    def uses_gradient(self) -> bool:
        """Whether it needs gradients."""
        return self.loss is not None

    def describe(self) -> dict[str, Any]:
        """All that it says of itself, as plain data."""
        return {
            "title": self.title,
            "norm": self.norm,
            "style": self.style,
            "settings": dataclasses.asdict(self),
        }

    def perturb(self, model: Classifier, batch: Batch) -> Any:
        """Returns the attacked images, floats, shape (E, b, ...)."""
        raise NotImplementedError(
            f"{type(self).__name__} must have a method `perturb`."
        )

    def __call__(
        self,
        model: Classifier,
        images: Any,
        labels: Any = None,
        epsilons: float | Sequence[float] = (),
        *,
        bounds: Sequence[float] = (0.0, 1.0),
        targets: Any = None,
        batch_size: int = 500,
    ) -> AttackResult:
        """Attacks images; arguments and errors are those of `batches`.

        All attacked images are returned together: 10 000 of 28 x 28 pixels
        and 16 budgets take 0.5 GB. Use `batches` where that is too much.
        """
        return collect(
            self.batches(
                model,
                images,
                labels,
                epsilons,
                bounds=bounds,
                targets=targets,
                batch_size=batch_size,
            )
        )

    def batches(
        self,
        model: Classifier,
        images: Any,
        labels: Any = None,
        epsilons: float | Sequence[float] = (),
        *,
        bounds: Sequence[float] = (0.0, 1.0),
        targets: Any = None,
        batch_size: int = 500,
    ) -> Iterator[AttackResult]:
        """Attacks images and yields a result for each batch, in their order.

        What is compiled for a model is kept while the model lives. Weights may
        change in between; after any other change `compile` the model again or
        make a new one, as for `predict` of Keras.

        Args:
            model: maps a float32 tensor of images (b, ...) to logits
                (b, classes), for any b; differentiable if the attack uses
                gradients: a Keras model or any other function of TensorFlow
                operations. Logits and not probabilities: the gradient through
                a softmax vanishes. A single logit z, shape (b, 1), stands for
                two, (0, z): class 1 where z > 0.
            images: array (n, ...) of floats within the bounds, n >= 1, or a
                `tf.data.Dataset` of batches (images, labels) or (images,
                labels, targets).
            labels: integer array (n,) with the true classes; omitted with a
                data set.
            epsilons: one budget or several, in the attack's norm of a whole
                image and in the units of the bounds; finite and >= 0.
            bounds: the smallest and the largest value of a pixel.
            targets: integer array (n,): the attack moves towards these classes
                and succeeds where the model answers them. By default it moves
                away from the labels. Omitted with a data set.
            batch_size: images per batch; a data set brings its own batches.

        Raises:
            TypeError: if the images are not floats, or the labels, the targets
                or the batch size not integers.
            ValueError: if an argument is malformed, the model's output is not
                logits, it is not differentiable, or a logit or gradient is
                not finite. Malformed arguments are refused at the call.
        """
        limits = check_bounds(bounds)
        size = check_count(batch_size, "batch_size")
        budgets = check_epsilons(epsilons)
        parts: Iterator[tuple[np.ndarray, ...]]
        num_images = None
        if isinstance(images, tf.data.Dataset):
            if labels is not None or targets is not None:
                raise ValueError(
                    "labels and targets must be omitted where images are a "
                    "data set, which has them. Received: arrays as well"
                )
            parts = (
                check_data(limits, *part) for part in images.as_numpy_iterator()
            )
        else:
            given = [images, labels] + ([] if targets is None else [targets])
            arrays = check_data(limits, *given)
            num_images = len(arrays[0])
            parts = (
                tuple(array[start : start + size] for array in arrays)
                for start in range(0, num_images, size)
            )
        first = next(parts, None)
        if first is None:
            raise ValueError("images must not be empty. Received: no batches")
        asked = _ask(
            model, self.loss, itertools.chain([first], parts), budgets, limits
        )
        return self._attacked(model, asked, num_images)

    def _attacked(
        self,
        model: Classifier,
        batches: Iterator[Batch],
        num_images: int | None,
    ) -> Iterator[AttackResult]:
        """Attacks batches of so many images; None if that is not known."""
        for batch in batches:
            answer = compiled(
                model,
                read_logits,
                signature=[tf.TensorSpec([None, *batch.images.shape[1:]])],
            )
            moved = np.asarray(self.perturb(model, batch), np.float32)
            _check_moved(moved, batch, NORMS[self.norm].order)
            predictions = []
            for images in moved:
                logits = answer(images).numpy()
                check_finite(logits, batch.numbers, "the logits under attack")
                predictions.append(logits.argmax(axis=1))
            yield batch.result(moved, np.array(predictions))


_registered: dict[str, Attack] = {}


def register(*attacks: Attack) -> None:
    """Offers attacks by their names, to the flags of programs for example."""
    _registered.update({attack.name: attack for attack in attacks})


def registered() -> dict[str, Attack]:
    """The attacks on offer, by their names.

    Example:
        >>> registered()["pgd_l2"].title
        'PGD, 2-norm'
    """
    return dict(_registered)


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
    return logits_and_ascent(model, loss, targeted, x, classes)


def _check_moved(moved: np.ndarray, batch: Batch, order: float) -> None:
    """Raises ValueError unless images are within bounds and budgets."""
    shape = (len(batch.epsilons), *batch.images.shape)
    lower, upper = batch.bounds
    valid = moved.shape == shape and np.all((lower <= moved) & (moved <= upper))
    if valid:
        offsets = (moved - batch.images).reshape(*shape[:2], -1)
        slack = 1e-5 * (batch.epsilons + max(abs(lower), abs(upper)))
        lengths = np.linalg.norm(offsets, order, axis=2).max(axis=1)
        valid = np.all(lengths <= batch.epsilons + slack)
    if not valid:
        raise ValueError(
            f"perturb must return images of shape {shape}, within {lower:g} "
            f"and {upper:g} and their budgets {batch.epsilons}. "
            f"Received: {moved.shape}, others or farther away"
        )
