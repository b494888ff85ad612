"""PGD: many small steps along the gradient, projected onto the budget."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import tensorflow as tf

from stable_node_tf.attacks.base import register
from stable_node_tf.attacks.gradients import logits_and_gradient, read_logits
from stable_node_tf.attacks.iterated import Goal, IteratedAttack, Rows
from stable_node_tf.attacks.losses import LOSSES
from stable_node_tf.attacks.norms import NORMS

_COLORS = {"cross_entropy": "#0072B2", "cw": "#56B4E9", "dlr": "#CC79A7"}
_MARKERS = {"cross_entropy": "s", "cw": "v", "dlr": "D"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PGD(IteratedAttack):
    """Projected gradient descent.

    From a random point of the ball of radius epsilon around the image x, each
    step goes along the sign of the gradient of the loss (norm "linf") or along
    the gradient scaled to length 1 (norm "l2"), and then back into the range
    of the pixels and the ball: Madry, Makelov, Schmidt, Tsipras, Vladu (2018),
    arXiv 1706.06083, section 2.1. Clipped pixels are dropped before the length
    is measured, as in ART; Foolbox scales first, and in the 2-norm spends part
    of its budget on changes that clipping then undoes.

    Args:
        norm: "linf" or "l2".
        loss: what is increased: "cross_entropy"; "cw", the largest rival
            logit minus the true one (Carlini, Wagner, arXiv 1608.04644); or
            "dlr", that margin over the spread of the logits (Croce, Hein,
            arXiv 2003.01690), which cannot be targeted.
        steps: the number of steps in each run, at least 1.
        step_size: length of a step as a multiple of epsilon; a sequence of
            `steps` numbers is a schedule, an entry for each step. By default
            the lengths fall from 1 to 0 along a half cosine, which has found
            more than steps of one length.
        restarts: runs from random starts; 0 is one run from the image itself.
        seed: seeds the random starts, an integer >= 0.
        jit_compile: whether XLA compiles the iteration, which is about twice
            as fast on a fixed-grid solver. Not every model can be compiled.

    Raises:
        TypeError, ValueError: if a setting is not as described.

    Example:
        >>> weights = tf.constant([[-1.0, 1.0]])  # one pixel, two classes
        >>> result = PGD(steps=20)(
        ...     lambda x: (x - 0.5) @ weights, [[0.75]], [1], [0.2, 0.5]
        ... )
        >>> result.success.tolist()
        [[False], [True]]
    """

    norm: Literal["linf", "l2"] = "linf"
    loss: Literal["cross_entropy", "cw", "dlr"] = "cross_entropy"
    steps: int = 100
    step_size: float | Sequence[float] | None = None

    largest_chunk: ClassVar[int] = 5

    def __post_init__(self) -> None:
        for name, choices in (("norm", NORMS), ("loss", LOSSES)):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(
                    f"{name} must be one of {tuple(choices)}. "
                    f"Received: {name}={value!r}"
                )
        self._check_counts(steps=1, restarts=0, seed=0)
        if self.step_size is not None:
            lengths = _check_step_size(self.step_size, self.steps)
            object.__setattr__(self, "step_size", lengths)

    @property
    def name(self) -> str:
        """For example "pgd_l2_dlr"."""
        words = ["pgd"] + ["l2"] * (self.norm == "l2")
        return "_".join(words + [self.loss] * (self.loss != "cross_entropy"))

    @property
    def title(self) -> str:
        """For example "PGD, 2-norm, DLR loss"."""
        words = ["PGD"] + ["2-norm"] * (self.norm == "l2")
        if self.loss != "cross_entropy":
            words.append(f"{self.loss.upper()} loss")
        return ", ".join(words)

    @property
    def style(self) -> dict[str, str]:
        """A color and a marker for each loss."""
        return {"color": _COLORS[self.loss], "marker": _MARKERS[self.loss]}

    @property
    def advance(self) -> tuple[Callable[..., Any], tuple[Hashable, ...]]:
        """Steps depend on the loss and the norm."""
        return _advance, (self.loss, self.norm)

    def schedule(self, shape: tuple[int, ...]) -> np.ndarray:
        """The lengths of the steps as multiples of epsilon."""
        if self.step_size is None:
            middles = (np.arange(self.steps) + 0.5) / self.steps
            return (0.5 + 0.5 * np.cos(np.pi * middles)).astype(np.float32)
        lengths = np.asarray(self.step_size, np.float32)
        return np.broadcast_to(lengths, (self.steps,))

    def begin(
        self, rng: np.random.Generator, shape: tuple[int, ...]
    ) -> np.ndarray:
        """A random point of the unit ball, or its center."""
        if not self.restarts:
            return np.zeros(shape, np.float32)
        return NORMS[self.norm].draw(rng, shape)


def _check_step_size(
    step_size: float | Sequence[float], steps: int
) -> float | tuple[float, ...]:
    try:
        lengths = np.asarray(step_size, np.float32)
    except (TypeError, ValueError):
        lengths = np.empty(0, np.float32)
    fits = lengths.shape in ((), (steps,))
    if not fits or not np.all((lengths > 0) & np.isfinite(lengths)):
        raise ValueError(
            f"step_size must be a positive number, or {steps} of them, one for "
            f"each step. Received: step_size={step_size!r}"
        )
    plain = np.asarray(step_size, np.float64).tolist()
    return tuple(plain) if lengths.ndim else plain


def _advance(
    model: Any, loss: str, norm: str, goal: Goal, lengths: Any, rows: Rows
) -> tuple[Any, Any, Any, Any]:
    """Takes a chunk of steps from where each row stands."""
    ball = NORMS[norm]
    dimensions = rows.originals.shape.rank
    one_each = [-1] + [1] * (dimensions - 1)
    axes = list(range(1, dimensions))
    epsilon = tf.reshape(rows.epsilons, one_each)
    # A row that has made all its steps stays where it is.
    table = tf.concat([lengths, [0.0]], 0)
    steps = tf.size(lengths)

    def step(i: Any, x: Any, finite: Any) -> tuple[Any, Any, Any]:
        logits, gradient = logits_and_gradient(
            model, loss, x, rows.classes, goal.targeted
        )
        length = tf.gather(table, tf.minimum(rows.done + i, steps))
        move = tf.reshape(length, one_each) * epsilon
        moved = goal.clip(x + move * ball.direction(gradient))
        moved = rows.originals + ball.project(moved - rows.originals, epsilon)
        moved = goal.clip(moved)  # but for rounding
        there = goal.reached(tf.argmax(logits, -1), rows)
        x = tf.where(tf.reshape(there, one_each), x, moved)
        finite &= tf.reduce_all(tf.math.is_finite(logits), -1)
        finite &= tf.reduce_all(tf.math.is_finite(gradient), axes)
        return i + 1, x, finite

    all_finite = tf.ones_like(rows.classes, tf.bool)
    _, x, finite = tf.while_loop(
        lambda i, *_: i < goal.chunk,
        step,
        [tf.constant(0), rows.current, all_finite],
    )
    logits = read_logits(model, x)
    finite &= tf.reduce_all(tf.math.is_finite(logits), -1)
    return x, tf.argmax(logits, -1), rows.best, finite


register(
    *(
        PGD(norm=norm, loss=loss)
        for norm in ("linf", "l2")
        for loss in ("cross_entropy", "dlr")
    )
)
