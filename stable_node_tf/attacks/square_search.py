"""Square: a random search that asks the model for logits and nothing else."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from stable_node_tf.attacks.checks import (
    check_data,
    check_epsilons,
)
from stable_node_tf.attacks.compiled import compiled
from stable_node_tf.attacks.gradients import read_logits
from stable_node_tf.attacks.losses import margin
from stable_node_tf.attacks.outcome import (
    Attack,
    AttackedBatch,
    Classifier,
    collect,
)
from stable_node_tf.attacks.row_queue import (
    IteratedAttack,
    row_count,
    row_specs,
    run_batches,
)
from stable_node_tf.checks import check_count

_CHUNK = 25
# The share of pixels in the square is halved at these shares of the queries.
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def square(
    model: Classifier,
    images: Any,
    labels: Any,
    epsilons: Sequence[float],
    *,
    queries: int = 1000,
    initial_share: float = 0.8,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 500,
    jit_compile: bool = False,
) -> Attack:
    """Attacks images with the Square attack in the l-infinity norm.

    The first query asks about the image with vertical stripes of random signs
    and height epsilon. Each further query changes the pixels of one square at
    a random place to the original ones plus or minus epsilon, the sign drawn
    for each channel; the change stays if the margin of the true class over its
    largest rival shrinks. The squares get smaller as queries are spent:
    Andriushchenko, Croce, Flammarion, Hein (2020), arXiv 1912.00049,
    algorithms 1 and 2. No gradient is used: where this attack beats those with
    gradients, gradients are masked.

    What `stable_node_tf.attacks.pgd` says of images that have been fooled and
    of random numbers holds here too.

    Args:
        model: maps a float32 tensor of images (b, height, width, channels) to
            logits (b, classes); need not be differentiable.
        images: array (n, height, width, channels) of floats in [0, 1].
        labels: integer array (n,) with the true classes.
        epsilons: budgets in the l-infinity norm, in units of the pixel range
            [0, 1]; finite and >= 0.
        queries: calls of the model for each image, budget and run.
        initial_share: share of the pixels in the first squares, in (0, 1].
        restarts: runs, at least 1.
        seed: of the random numbers, an integer >= 0.
        batch_size: images held at a time.
        jit_compile: whether XLA compiles the iteration.

    Returns:
        An `Attack`: adversarial (len(epsilons), n, ...), success
        (len(epsilons), n). Where the attack fails, adversarial is the image
        with the smallest margin that its last run has found.

    Raises:
        TypeError: if the images are not floats, or the labels or a count not
            integers.
        ValueError: if an argument is malformed, the model's output is not
            logits, or a logit is not finite.

    Example:
        >>> def model(x):  # is the upper left corner brighter than gray?
        ...     corner = x[:, 0, 0, :] - 0.5
        ...     return tf.concat([-corner, corner], axis=1)
        >>> images = np.full([1, 4, 4, 1], 0.7)
        >>> square(model, images, [1], [0.1, 0.3], queries=50).success.tolist()
        [[False], [True]]
    """
    batches = square_batches(
        model,
        images,
        labels,
        epsilons,
        queries=queries,
        initial_share=initial_share,
        restarts=restarts,
        seed=seed,
        batch_size=batch_size,
        jit_compile=jit_compile,
    )
    return collect(batches, len(epsilons), np.shape(images))


def square_batches(
    model: Classifier,
    images: Any,
    labels: Any,
    epsilons: Sequence[float],
    *,
    queries: int = 1000,
    initial_share: float = 0.8,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 500,
    jit_compile: bool = False,
) -> Iterator[AttackedBatch]:
    """Attacks images as `square` does, yielding one batch at a time.

    Arguments and errors are those of `square`; malformed arguments are refused
    at the call, before the first batch is asked for.

    Returns:
        An iterator over `AttackedBatch`, in the order of the images;
        `zero_gradient` is None.

    Example:
        >>> def model(x):
        ...     corner = x[:, 0, 0, :] - 0.5
        ...     return tf.concat([-corner, corner], axis=1)
        >>> images = np.full([2, 4, 4, 1], 0.7)
        >>> for batch in square_batches(
        ...     model, images, [1, 1], [0.3], queries=50, batch_size=1
        ... ):
        ...     print(batch.predictions)
        [[0]]
        [[0]]
    """
    checked_images, checked_labels = check_data(images, labels)
    budgets = check_epsilons(epsilons)
    if checked_images.ndim != 4:
        raise ValueError(
            "images must have shape (n, height, width, channels) for squares. "
            f"Received: images {checked_images.shape}"
        )
    if not 0.0 < initial_share <= 1.0:
        raise ValueError(
            "initial_share must be in (0, 1]. "
            f"Received: initial_share={initial_share!r}"
        )
    size = check_count(batch_size, "batch_size")
    queries = check_count(queries, "queries")
    restarts = check_count(restarts, "restarts")
    seed = check_count(seed, "seed", 0)

    shape = checked_images.shape[1:]
    channels = shape[2]
    rows = row_count(len(checked_images), len(budgets))
    chunk = min(_CHUNK, queries)

    def stripes(rng: np.random.Generator) -> np.ndarray:
        signs = 2 * rng.integers(2, size=(1, *shape[1:])) - 1
        return np.broadcast_to(signs, shape).astype(np.float32)

    def draw(rng: np.random.Generator) -> np.ndarray:
        return rng.random((chunk, 2 + channels), np.float32)

    clean = compiled(
        model,
        _logits,
        signature=[
            tf.TensorSpec([None, *shape], tf.float32),
            tf.TensorSpec([None], tf.int64),
        ],
    )
    advance = compiled(
        model,
        _advance,
        chunk,
        signature=[
            tf.TensorSpec([None], tf.int32),
            *row_specs(rows, shape, [chunk, 2 + channels]),
        ],
        jit_compile=jit_compile,
    )
    attack = IteratedAttack(
        clean=clean,
        begin=stripes,
        draw=draw,
        advance=functools.partial(
            advance, side_lengths(queries, initial_share, *shape[:2])
        ),
        chunk=chunk,
        iterations=queries,
        runs=restarts,
        seed=seed,
    )
    return run_batches(attack, checked_images, checked_labels, budgets, size)


def side_lengths(
    queries: int, initial_share: float, height: int, width: int
) -> np.ndarray:
    """The side of the square in each query; 0 in the first, of the stripes.

    Args:
        queries: how many there are.
        initial_share: share of the pixels in the first squares.
        height: of the images.
        width: of the images.

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


def _logits(model: Classifier, x: Any, labels: Any) -> tuple[Any, None]:
    del labels
    return read_logits(model, x), None


def _advance(
    model: Classifier,
    chunk: int,
    sides: Any,
    originals: Any,
    labels: Any,
    epsilons: Any,
    current: Any,
    best: Any,
    done: Any,
    draws: Any,
) -> tuple[Any, Any, Any, Any]:
    """Asks `chunk` queries about each row."""
    rows, height, width, _ = originals.shape
    epsilon = tf.reshape(epsilons, [rows, 1, 1, 1])
    upper = tf.minimum(originals + epsilon, 1.0)
    lower = tf.maximum(originals - epsilon, 0.0)
    draws = tf.transpose(draws, [1, 0, 2])
    queries = tf.size(sides)

    def query(
        i: Any, x: Any, best: Any, classes: Any, finite: Any
    ) -> tuple[Any, Any, Any, Any, Any]:
        drawn = draws[i]
        left = done + i < queries
        side = tf.gather(sides, tf.minimum(done + i, queries - 1))
        inside = _between(drawn[:, 0], side, height)[:, :, tf.newaxis]
        inside &= _between(drawn[:, 1], side, width)[:, tf.newaxis, :]
        up = drawn[:, tf.newaxis, tf.newaxis, 2:] < 0.5
        asked = tf.where(inside[..., tf.newaxis], tf.where(up, upper, lower), x)
        logits = read_logits(model, asked)
        value = tf.cast(margin(logits, labels), tf.float32)
        better = left & (classes == labels) & (value > best)
        x = tf.where(better[:, tf.newaxis, tf.newaxis, tf.newaxis], asked, x)
        classes = tf.where(better, tf.argmax(logits, -1), classes)
        best = tf.where(better, value, best)
        finite &= tf.reduce_all(tf.math.is_finite(logits), -1)
        return i + 1, x, best, classes, finite

    _, x, best, classes, finite = tf.while_loop(
        lambda i, *_: i < chunk,
        query,
        [tf.constant(0), current, best, labels, tf.ones([rows], tf.bool)],
    )
    return x, best, classes, finite


def _between(place: Any, side: Any, length: int) -> Any:
    """Which of the pixels 0, 1, ... of a line are in the square: (R, length).

    Args:
        place: where the square is, from 0 to 1, exclusive; shape (R,).
        side: its side, shape (R,).
        length: of the line.
    """
    room = tf.cast(length - side + 1, tf.float32)
    first = tf.cast(place * room, tf.int32)
    # Rounded, the product may be `room` itself.
    first = tf.minimum(first, length - side)[:, tf.newaxis]
    pixels = tf.range(length)[tf.newaxis]
    return (pixels >= first) & (pixels < first + side[:, tf.newaxis])
