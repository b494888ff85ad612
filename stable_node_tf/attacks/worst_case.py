"""The strongest of several attacks, for each image and budget."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from stable_node_tf.attacks.base import Attack
from stable_node_tf.attacks.checks import check_same_order
from stable_node_tf.attacks.result import AttackResult


@dataclasses.dataclass(frozen=True)
class WorstCase(Attack):
    """Takes for each image and budget the attack that succeeds.

    Of several, that which moves the image least; where none does, the first.
    An image counts as one without a gradient if no attack that uses gradients
    has found any. Without budgets all attacks must be minimal, as `FMN` is.

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
    for result in results:
        check_same_order(result.labels, results[0].labels)
    best = np.argmin([result.distances for result in results], axis=0)

    def taken(field: str) -> np.ndarray:
        values = np.stack([vars(result)[field] for result in results])
        at = best.reshape(1, *best.shape, *[1] * (values.ndim - 3))
        return np.take_along_axis(values, at, axis=0)[0]

    stuck = [r.zero_gradient for r in results if r.zero_gradient is not None]
    fields = ("adversarial", "predictions", "success", "distances")
    return dataclasses.replace(
        results[0],
        **{field: taken(field) for field in fields},
        zero_gradient=np.all(stuck, axis=0) if stuck else None,
    )
