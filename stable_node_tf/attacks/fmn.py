"""FMN: the smallest change that an attack along gradients can find."""

import dataclasses
from typing import Any, ClassVar, Literal

import numpy as np
import tensorflow as tf

from stable_node_tf.attacks.base import Attack, register
from stable_node_tf.attacks.batch import Batch
from stable_node_tf.attacks.checks import check_finite
from stable_node_tf.attacks.compiled import compiled
from stable_node_tf.attacks.gradients import Classifier, logits_and_gradient
from stable_node_tf.attacks.losses import cw
from stable_node_tf.attacks.norms import NORMS
from stable_node_tf.checks import check_count

# A step goes from this share of the pixels' range, in the 2-norm, down to a
# hundredth of it; a radius changes by this share, at first.
_STEP_SIZE, _LAST_STEP_SIZE = 1.0, 0.01
_RADIUS_CHANGE, _LAST_RADIUS_CHANGE = 0.05, 0.001
# An answer counts as wrong where it stays so if pixels change by this share of
# their largest value: rounding, in another batch, may do as much.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class FMN(Attack):
    """The fast minimum-norm attack.

    Each step goes along the gradient of the margin, and then back into a ball
    around the image, which shrinks while the answer is wrong and grows while it
    is right; steps get shorter and the ball steadier: Pintor, Roli, Brendel,
    Biggio (2021), arXiv 2102.12827, algorithm 1. One run serves all budgets: an
    image whose smallest change found is longer than a budget is left as it is.
    Without budgets `distances` of the result are the norms of these changes.

    Args:
        norm: "linf" or "l2".
        steps: the number of steps, at least 1.
        jit_compile: whether XLA compiles the iteration.

    Raises:
        TypeError, ValueError: if a setting is not as described.

    Example:
        >>> def model(x):  # class 1 where two pixels sum to more than 1
        ...     return tf.concat([tf.zeros_like(x[:, :1]), x @ [[1.0], [1.0]]
        ...                       - 1.0], 1)
        >>> images = [[0.6, 0.6], [0.7, 0.8]]
        >>> for norm in ("linf", "l2"):
        ...     found = FMN(norm=norm)(model, images, [1, 1])
        ...     print(found.distances.round(3))
        [[0.1  0.25]]
        [[0.141 0.354]]
    """

    norm: Literal["linf", "l2"] = "linf"
    steps: int = 100
    jit_compile: bool = False

    style = {"color": "#56B4E9", "marker": "P"}
    loss = "cw"
    minimal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(
                f"norm must be one of {tuple(NORMS)}. "
                f"Received: norm={self.norm!r}"
            )
        object.__setattr__(self, "steps", check_count(self.steps, "steps", 1))

    @property
    def name(self) -> str:
        """`fmn` or `fmn_l2`."""
        return "fmn" + "_l2" * (self.norm == "l2")

    @property
    def title(self) -> str:
        """`FMN` or `FMN, 2-norm`."""
        return "FMN" + ", 2-norm" * (self.norm == "l2")

    def perturb(self, model: Classifier, batch: Batch) -> np.ndarray:
        """The nearest images found, for budgets that reach them."""
        shape = batch.images.shape[1:]
        search = compiled(
            model,
            _search,
            self.norm,
            batch.bounds,
            batch.targets is not None,
            signature=[
                tf.TensorSpec([None, *shape]),
                tf.TensorSpec([None], tf.int64),
                tf.TensorSpec([], tf.int32),
            ],
            jit_compile=self.jit_compile,
        )
        offsets, lengths, finite = (
            tensor.numpy()
            for tensor in search(batch.images, batch.classes, self.steps)
        )
        check_finite(
            np.where(finite, 0.0, np.nan), batch.numbers, "logits and gradients"
        )
        within = np.less_equal.outer(lengths, batch.epsilons).T
        within = within.reshape(*within.shape, *[1] * len(shape))
        return np.clip(batch.images + within * offsets, *batch.bounds)


def _search(
    model: Any,
    norm: str,
    bounds: tuple[float, float],
    targeted: bool,
    images: Any,
    classes: Any,
    steps: Any,
) -> tuple[Any, Any, Any]:
    """The smallest changes found, their norms, and whether all was finite."""
    ball = NORMS[norm]
    lower, upper = bounds
    one_each = [-1] + [1] * (images.shape.rank - 1)
    axes = list(range(1, images.shape.rank))
    rounding = _ROUNDING * max(abs(lower), abs(upper))
    # A little longer than any change within the bounds.
    longest = 1.001 * ball.length(tf.maximum(images - lower, upper - images))

    def eased(i: Any, first: float, last: float) -> Any:
        """From the first to the last number along half a cosine."""
        share = tf.cast(i, tf.float32) / tf.cast(steps, tf.float32)
        return last + (first - last) * (1.0 + tf.cos(np.pi * share)) / 2.0

    def step(
        i: Any, offset: Any, radius: Any, best: Any, nearest: Any, finite: Any
    ) -> tuple[Any, ...]:
        logits, gradient = logits_and_gradient(
            model, "cw", images + offset, classes, targeted
        )
        finite &= tf.reduce_all(tf.math.is_finite(logits), -1)
        finite &= tf.reduce_all(tf.math.is_finite(gradient), axes)
        lead = tf.cast(cw(logits, classes), tf.float32)
        lead = tf.reshape(-lead if targeted else lead, one_each)
        needed = rounding * NORMS["linf"].slope(gradient)
        there = lead > needed
        length = ball.length(offset)
        nearer = there & (length < best)
        best = tf.where(nearer, length, best)
        nearest = tf.where(nearer, offset, nearest)
        # Scaled first, so that tiny gradients do not underflow.
        largest = NORMS["linf"].length(gradient)
        scaled = tf.math.divide_no_nan(gradient, largest)
        # A little beyond the boundary, were the margin linear.
        slope = largest * ball.slope(scaled)
        expected = length + tf.math.divide_no_nan(2.0 * needed - lead, slope)
        change = eased(i, _RADIUS_CHANGE, _LAST_RADIUS_CHANGE)
        radius = tf.where(
            there,
            tf.minimum(radius * (1.0 - change), best),
            tf.where(best < longest, radius * (1.0 + change), expected),
        )
        radius = tf.minimum(radius, longest)
        move = (upper - lower) * eased(i, _STEP_SIZE, _LAST_STEP_SIZE)
        moved = images + offset + move * NORMS["l2"].direction(scaled)
        offset = tf.clip_by_value(moved, lower, upper) - images
        offset = ball.project(offset, radius)
        return i + 1, offset, radius, best, nearest, finite

    nothing = tf.zeros_like(images)
    _, _, _, best, nearest, finite = tf.while_loop(
        lambda i, *_: i <= steps,  # asks about the last step too
        step,
        [
            *(tf.constant(0), nothing, longest, longest, nothing),
            tf.ones_like(classes, tf.bool),
        ],
    )
    return nearest, tf.reshape(best, [-1]), finite


register(FMN(), FMN(norm="l2"))
