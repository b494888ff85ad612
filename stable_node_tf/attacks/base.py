"""What an attack is: an object that is called with a model and images."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from stable_node_tf.attacks.batch import Batch, ask
from stable_node_tf.attacks.checks import check_finite
from stable_node_tf.attacks.compiled import compiled
from stable_node_tf.attacks.gradients import Classifier, read_logits
from stable_node_tf.attacks.norms import NORMS
from stable_node_tf.attacks.result import AttackResult, collect


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

    @property
    def minimal(self) -> bool:
        """Whether it looks for the smallest change, and needs no budget."""
        return False

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
        epsilons: float | Sequence[float] | None = None,
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
        epsilons: float | Sequence[float] | None = None,
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
                image and in the units of the bounds; finite and >= 0. Omitted
                for the smallest change that a minimal attack can find.
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
        asked = ask(
            model,
            images,
            labels,
            epsilons,
            bounds=bounds,
            targets=targets,
            batch_size=batch_size,
            loss=self.loss,
            minimal=self.minimal,
        )
        return self._attacked(
            model, asked, None if labels is None else len(labels)
        )

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
            yield batch.result(moved, np.array(predictions), self.norm)


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
