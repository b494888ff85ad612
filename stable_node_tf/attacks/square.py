"""Square: a random search that asks the model for logits and nothing else."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from stable_node_tf.attacks.base import register
from stable_node_tf.attacks.gradients import read_logits
from stable_node_tf.attacks.iterated import Goal, IteratedAttack, Rows
from stable_node_tf.attacks.losses import cw

# The share of pixels in the square is halved at these shares of the queries.
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Square(IteratedAttack):
    """The Square attack, a random search in the l-infinity norm.

    The first query asks about the image with vertical stripes of random signs
    and height epsilon. Each further query changes the pixels of one square at
    a random place to the original ones plus or minus epsilon, the sign drawn
    for each channel; the change stays if the margin of the true class over its
    largest rival shrinks. The squares get smaller as queries are spent:
    Andriushchenko, Croce, Flammarion, Hein (2020), arXiv 1912.00049,
    algorithms 1 and 2. No gradient is used: where this attack beats those with
    gradients, gradients are masked. Images must have shape (n, height, width,
    channels).

    Args:
        queries: calls of the model for each image, budget and run.
        initial_share: share of the pixels in the first squares, in (0, 1].
        restarts: runs, at least 1.
        seed: seeds the random numbers, an integer >= 0.
        jit_compile: whether XLA compiles the iteration.

    Raises:
        TypeError, ValueError: if a setting is not as described.

    Example:
        >>> def model(x):  # is the upper left corner brighter than gray?
        ...     corner = x[:, 0, 0, :] - 0.5
        ...     return tf.concat([-corner, corner], axis=1)
        >>> images = np.full([1, 4, 4, 1], 0.7)
        >>> Square(queries=50)(model, images, [1], [0.1, 0.3]).success.tolist()
        [[False], [True]]
    """

    queries: int = 1000
    initial_share: float = 0.8

    style = {"color": "#009E73", "marker": "^"}
    largest_chunk: ClassVar[int] = 25

    def __post_init__(self) -> None:
        self._check_counts(queries=1, restarts=1, seed=0)
        if not 0.0 < self.initial_share <= 1.0:
            raise ValueError(
                "initial_share must be in (0, 1]. "
                f"Received: initial_share={self.initial_share!r}"
            )

    @property
    def advance(self) -> tuple[Callable[..., Any], tuple[Hashable, ...]]:
        """Nothing but the schedule depends on the settings."""
        return _advance, ()

    def schedule(self, shape: tuple[int, ...]) -> np.ndarray:
        """The side of the square in each query, see `side_lengths`."""
        if len(shape) != 3:
            raise ValueError(
                "images must have shape (n, height, width, channels) for "
                f"squares. Received: one image of shape {shape}"
            )
        return side_lengths(self.queries, self.initial_share, *shape[:2])

    def begin(
        self, rng: np.random.Generator, shape: tuple[int, ...]
    ) -> np.ndarray:
        """Vertical stripes of random signs."""
        signs = 2 * rng.integers(2, size=(1, *shape[1:])) - 1
        return np.broadcast_to(signs, shape).astype(np.float32)

    def draw(
        self, rng: np.random.Generator, chunk: int, shape: tuple[int, ...]
    ) -> np.ndarray:
        """Place and signs of the squares."""
        return rng.random((chunk, 2 + shape[2]), np.float32)


def side_lengths(
    queries: int, initial_share: float, height: int, width: int
) -> np.ndarray:
    """The side of the square in each query; 0 in the first, of the stripes.

    Args:
        queries: how many there are.
        initial_share: share of the pixels in the first squares.
        height: height of the images.
        width: width of the images.

    Returns:
        Integers, int32, shape (queries,).

    Example:
        >>> side_lengths(10, 0.8, 28, 28).tolist()
        [0, 6, 4, 3, 3, 2, 2, 2, 2, 1]
    """
    spent = np.arange(queries) / queries
    halvings = np.searchsorted(_HALVINGS, spent)
    pixels = initial_share / 2.0**halvings * height * width
    largest = max(min(height, width) - 1, 1)
    sides = np.clip(np.rint(np.sqrt(pixels)), 1, largest).astype(np.int32)
    sides[0] = 0
    return sides


def _advance(
    model: Any, goal: Goal, sides: Any, rows: Rows
) -> tuple[Any, Any, Any, Any]:
    """Asks a chunk of queries about each row."""
    num_rows, height, width, _ = rows.originals.shape
    epsilon = tf.reshape(rows.epsilons, [num_rows, 1, 1, 1])
    upper = tf.minimum(rows.originals + epsilon, goal.bounds[1])
    lower = tf.maximum(rows.originals - epsilon, goal.bounds[0])
    draws = tf.transpose(rows.draws, [1, 0, 2])
    queries = tf.size(sides)

    def query(
        i: Any, x: Any, answers: Any, best: Any, finite: Any
    ) -> tuple[Any, Any, Any, Any, Any]:
        drawn = draws[i]
        left = rows.done + i < queries
        side = tf.gather(sides, tf.minimum(rows.done + i, queries - 1))
        inside = _between(drawn[:, 0], side, height)[:, :, tf.newaxis]
        inside &= _between(drawn[:, 1], side, width)[:, tf.newaxis, :]
        up = drawn[:, tf.newaxis, tf.newaxis, 2:] < 0.5
        asked = tf.where(inside[..., tf.newaxis], tf.where(up, upper, lower), x)
        logits = read_logits(model, asked)
        value = tf.cast(cw(logits, rows.classes), tf.float32)
        value = -value if goal.targeted else value
        better = left & ~goal.reached(answers, rows) & (value > best)
        x = tf.where(better[:, tf.newaxis, tf.newaxis, tf.newaxis], asked, x)
        answers = tf.where(better, tf.argmax(logits, -1), answers)
        best = tf.where(better, value, best)
        finite &= tf.reduce_all(tf.math.is_finite(logits), -1)
        return i + 1, x, answers, best, finite

    all_finite = tf.ones([num_rows], tf.bool)
    _, *moved = tf.while_loop(
        lambda i, *_: i < goal.chunk,
        query,
        [tf.constant(0), rows.current, rows.answers, rows.best, all_finite],
    )
    return tuple(moved)


def _between(place: Any, side: Any, length: int) -> Any:
    """Which of the pixels 0, 1, ... of a line are in the square: (R, length).

    Args:
        place: where the square is, from 0 to 1, exclusive; shape (R,).
        side: its side, shape (R,).
        length: length of the line.
    """
    room = tf.cast(length - side + 1, tf.float32)
    first = tf.cast(place * room, tf.int32)
    # Rounded, the product may be `room` itself.
    first = tf.minimum(first, length - side)[:, tf.newaxis]
    pixels = tf.range(length)[tf.newaxis]
    return (pixels >= first) & (pixels < first + side[:, tf.newaxis])


register(Square())
