"""The strongest of several attacks, for each image and budget."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from stable_node_tf.attacks.base import Attack
from stable_node_tf.attacks.result import AttackResult


@dataclasses.dataclass(frozen=True)
class WorstCase(Attack):
    """Takes for each image and budget the first attack that succeeds.

    Where none does, the images of the last attack are taken. An image counts
    as one without a gradient if no attack that uses gradients has found any.

    Args:
        attacks: attacks in one norm, at least one.

    Raises:
        ValueError: if there is no attack, or norms differ.

    Example:
        >>> import tensorflow as tf
        >>> from stable_node_tf.attacks import FGSM, PGD
        >>> weights = tf.constant([[-1.0, 1.0]])  # one pixel, two classes
        >>> result = WorstCase([FGSM(), PGD(steps=5)])(
        ...     lambda x: (x - 0.5) @ weights, [[0.75]], [1], [0.2, 0.5]
        ... )
        >>> result.accuracies.tolist()
        [1.0, 0.0]
    """

    attacks: Sequence[Attack]

    title = "strongest of all"
    name = "worst_case"
    style = {"color": "#D55E00", "marker": "*"}

    def __post_init__(self) -> None:
        object.__setattr__(self, "attacks", tuple(self.attacks))
        if len({attack.norm for attack in self.attacks}) != 1:
            raise ValueError(
                "attacks must be of one norm, and at least one. "
                f"Received: attacks={self.attacks}"
            )

    @property
    def norm(self) -> str:
        """The norm of all attacks."""
        return self.attacks[0].norm

    @property
    def uses_gradient(self) -> bool:
        """Whether an attack does."""
        return any(attack.uses_gradient for attack in self.attacks)

    def batches(
        self, model: Any, images: Any, *arguments: Any, **keywords: Any
    ) -> Iterator[AttackResult]:
        """Runs all attacks on a batch before the next; see `Attack.batches`."""
        runs = [
            attack.batches(model, images, *arguments, **keywords)
            for attack in self.attacks
        ]
        return map(_strongest, zip(*runs, strict=True))


def _strongest(results: Sequence[AttackResult]) -> AttackResult:
    worst = results[-1]
    adversarial, predictions = worst.adversarial, worst.predictions
    success, stuck = worst.success, worst.zero_gradient
    for result in reversed(results[:-1]):
        if not np.array_equal(result.labels, worst.labels):
            raise ValueError(
                "images must come in the same order for each attack. "
                "Received: a data set that shuffles them anew"
            )
        hit = result.success
        wide = hit.reshape(*hit.shape, *[1] * (adversarial.ndim - 2))
        adversarial = np.where(wide, result.adversarial, adversarial)
        predictions = np.where(hit, result.predictions, predictions)
        success = hit | success
        if stuck is None or result.zero_gradient is None:
            stuck = result.zero_gradient if stuck is None else stuck
        else:
            stuck = stuck & result.zero_gradient
    return dataclasses.replace(
        worst,
        adversarial=adversarial,
        predictions=predictions,
        success=success,
        zero_gradient=stuck,
    )
