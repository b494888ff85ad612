"""PGD: many small steps along the gradient, projected onto the budget."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from stable_node_tf.attacks.checks import (
    check_data,
    check_epsilons,
)
from stable_node_tf.attacks.compiled import compiled
from stable_node_tf.attacks.gradients import (
    compiled_gradient,
    logits_and_gradient,
    read_logits,
)
from stable_node_tf.attacks.losses import log_odds, logits_ratio, margin
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

_LOSSES = {"cross_entropy": log_odds, "cw": margin, "dlr": logits_ratio}
_CHUNK = 5


def pgd(
    model: Classifier,
    images: Any,
    labels: Any,
    epsilons: Sequence[float],
    *,
    norm: Literal["linf", "l2"] = "linf",
    loss: Literal["cross_entropy", "cw", "dlr"] = "cross_entropy",
    steps: int = 100,
    step_size: float | Sequence[float] | None = None,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 500,
    jit_compile: bool = False,
) -> Attack:
    """Attacks images with projected gradient descent.

    From a random point of the ball of radius epsilon around the image x, each
    step goes along the sign of the gradient of the loss (norm "linf") or along
    the gradient scaled to length 1 (norm "l2"), and then back into the pixel
    range [0, 1] and the ball: Madry, Makelov, Schmidt, Tsipras, Vladu (2018),
    arXiv 1706.06083, section 2.1. Clipped pixels are dropped before the length
    is measured, as in ART; Foolbox scales first, and in the 2-norm spends part
    of its budget on changes that clipping then undoes.

    An image that has been fooled is left as it is, is not attacked again from
    another start, and counts for every larger budget too: an image within a
    ball is within every larger one. The random starts depend on the seed and
    on the place of the image, not on batches or budgets; rounding in the model
    may depend on the size of the batch.

    Args:
        model: see `stable_node_tf.attacks.fgsm`.
        images: array (n, ...) of floats in [0, 1], n >= 1.
        labels: integer array (n,) with the true classes.
        epsilons: budgets in the chosen norm of a whole image, pixels ranging
            from 0 to 1; finite and >= 0.
        norm: "linf" or "l2".
        loss: what is increased: "cross_entropy"; "cw", the largest rival
            logit minus the true one (Carlini, Wagner, arXiv 1608.04644); or
            "dlr", that margin over the spread of the logits (Croce, Hein,
            arXiv 2003.01690).
        steps: of each run, at least 1.
        step_size: length of a step as a multiple of epsilon; a sequence of
            `steps` numbers is a schedule, an entry for each step. By default
            the lengths fall from 1 to 0 along a half cosine, which has found
            more than steps of one length.
        restarts: runs from random starts; 0 is one run from the image itself.
        seed: of the random starts, an integer >= 0.
        batch_size: images held at a time.
        jit_compile: whether XLA compiles the iteration, which is about twice
            as fast on a fixed-grid solver. Not every model can be compiled.

    Returns:
        An `Attack`: adversarial (len(epsilons), n, ...), success
        (len(epsilons), n). Where the attack fails, adversarial is where its
        last run ended.

    Raises:
        TypeError: if the images are not floats, or the labels or a count not
            integers.
        ValueError: if an argument is malformed, the model's output is not
            logits, it is not differentiable, or a logit or gradient is not
            finite.

    Example:
        >>> weights = tf.constant([[-1.0, 1.0]])  # one pixel, two classes
        >>> attack = pgd(
        ...     lambda x: (x - 0.5) @ weights, [[0.75]], [1], [0.2, 0.5],
        ...     steps=20,
        ... )
        >>> attack.success.tolist()
        [[False], [True]]
    """
    batches = pgd_batches(
        model,
        images,
        labels,
        epsilons,
        norm=norm,
        loss=loss,
        steps=steps,
        step_size=step_size,
        restarts=restarts,
        seed=seed,
        batch_size=batch_size,
        jit_compile=jit_compile,
    )
    return collect(batches, len(epsilons), np.shape(images))


def pgd_batches(
    model: Classifier,
    images: Any,
    labels: Any,
    epsilons: Sequence[float],
    *,
    norm: Literal["linf", "l2"] = "linf",
    loss: Literal["cross_entropy", "cw", "dlr"] = "cross_entropy",
    steps: int = 100,
    step_size: float | Sequence[float] | None = None,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 500,
    jit_compile: bool = False,
) -> Iterator[AttackedBatch]:
    """Attacks images as `pgd` does, yielding one batch at a time.

    Arguments and errors are those of `pgd`; malformed arguments are refused
    at the call, before the first batch is asked for.

    Returns:
        An iterator over `AttackedBatch`, in the order of the images.

    Example:
        >>> weights = tf.constant([[-1.0, 1.0]])
        >>> images, labels = [[0.75], [0.875]], [1, 1]
        >>> for batch in pgd_batches(
        ...     lambda x: (x - 0.5) @ weights, images, labels, [0.3],
        ...     steps=20, batch_size=1,
        ... ):
        ...     print(batch.predictions)
        [[0]]
        [[1]]
    """
    checked_images, checked_labels = check_data(images, labels)
    budgets = check_epsilons(epsilons)
    for name, value, choices in (
        ("norm", norm, tuple(_BALLS)),
        ("loss", loss, tuple(_LOSSES)),
    ):
        if value not in choices:
            raise ValueError(
                f"{name} must be one of {choices}. Received: {name}={value!r}"
            )
    size = check_count(batch_size, "batch_size")
    steps = check_count(steps, "steps")
    restarts = check_count(restarts, "restarts", 0)
    seed = check_count(seed, "seed", 0)
    lengths = _check_schedule(step_size, steps)

    ball: Any = _BALLS[norm]
    shape = checked_images.shape[1:]
    rows = row_count(len(checked_images), len(budgets))
    chunk = min(_CHUNK, steps)
    begin = functools.partial(ball.draw, shape=shape)
    advance = compiled(
        model,
        _advance,
        _LOSSES[loss],
        ball,
        chunk,
        signature=[
            tf.TensorSpec([None], tf.float32),
            *row_specs(rows, shape, [0]),
        ],
        jit_compile=jit_compile,
    )
    attack = IteratedAttack(
        clean=compiled_gradient(model, _LOSSES[loss], shape),
        begin=begin if restarts else lambda _: np.zeros(shape, np.float32),
        draw=lambda _: np.empty(0, np.float32),
        advance=functools.partial(advance, lengths),
        chunk=chunk,
        iterations=steps,
        runs=max(restarts, 1),
        seed=seed,
    )
    return run_batches(attack, checked_images, checked_labels, budgets, size)


class _MaxNormBall:
    """The ball of the l-infinity norm."""

    @staticmethod
    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.uniform(-1.0, 1.0, shape).astype(np.float32)

    @staticmethod
    def direction(gradient: Any) -> Any:
        return tf.sign(gradient)

    @staticmethod
    def project(offset: Any, epsilon: Any) -> Any:
        return tf.clip_by_value(offset, -epsilon, epsilon)


class _EuclideanBall:
    """The ball of the 2-norm of a whole image."""

    @staticmethod
    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        normal = rng.standard_normal(shape)
        radius = rng.uniform() ** (1.0 / normal.size)
        return (radius / np.linalg.norm(normal) * normal).astype(np.float32)

    @staticmethod
    def direction(gradient: Any) -> Any:
        # Scaled first, so that squares of tiny gradients do not underflow.
        axes = list(range(1, gradient.shape.rank))
        largest = tf.reduce_max(tf.abs(gradient), axes, keepdims=True)
        scaled = tf.math.divide_no_nan(gradient, largest)
        return tf.math.divide_no_nan(scaled, _EuclideanBall._norm(scaled))

    @staticmethod
    def project(offset: Any, epsilon: Any) -> Any:
        norm = _EuclideanBall._norm(offset)
        return offset * tf.minimum(1.0, tf.math.divide_no_nan(epsilon, norm))

    @staticmethod
    def _norm(x: Any) -> Any:
        axes = list(range(1, x.shape.rank))
        return tf.sqrt(tf.reduce_sum(tf.square(x), axes, keepdims=True))


_BALLS: dict[str, type[_MaxNormBall] | type[_EuclideanBall]] = {
    "linf": _MaxNormBall,
    "l2": _EuclideanBall,
}


def _check_schedule(
    step_size: float | Sequence[float] | None, steps: int
) -> np.ndarray:
    if step_size is None:
        middles = (np.arange(steps) + 0.5) / steps
        return (0.5 + 0.5 * np.cos(np.pi * middles)).astype(np.float32)
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
    return np.broadcast_to(lengths, (steps,))


def _advance(
    model: Classifier,
    loss: Any,
    ball: Any,
    chunk: int,
    lengths: Any,
    originals: Any,
    labels: Any,
    epsilons: Any,
    current: Any,
    best: Any,
    done: Any,
    draws: Any,
) -> tuple[Any, Any, Any, Any]:
    """Takes `chunk` steps from where each row stands."""
    del draws
    rows, *shape = originals.shape
    one_each = [rows] + [1] * len(shape)
    axes = list(range(1, 1 + len(shape)))
    epsilon = tf.reshape(epsilons, one_each)
    # A row that has made all its steps stays where it is.
    table = tf.concat([lengths, [0.0]], 0)
    steps = tf.size(lengths)

    def step(i: Any, x: Any, finite: Any) -> tuple[Any, Any, Any]:
        logits, gradient = logits_and_gradient(model, loss, x, labels)
        length = tf.gather(table, tf.minimum(done + i, steps))
        move = tf.reshape(length, one_each) * epsilon
        moved = tf.clip_by_value(x + move * ball.direction(gradient), 0, 1)
        moved = originals + ball.project(moved - originals, epsilon)
        moved = tf.clip_by_value(moved, 0.0, 1.0)  # but for rounding
        fooled = tf.argmax(logits, -1) != labels
        x = tf.where(tf.reshape(fooled, one_each), x, moved)
        finite &= tf.reduce_all(tf.math.is_finite(logits), -1)
        finite &= tf.reduce_all(tf.math.is_finite(gradient), axes)
        return i + 1, x, finite

    _, x, finite = tf.while_loop(
        lambda i, x, finite: i < chunk,
        step,
        [tf.constant(0), current, tf.ones([rows], tf.bool)],
    )
    logits = read_logits(model, x)
    finite &= tf.reduce_all(tf.math.is_finite(logits), -1)
    return x, best, tf.argmax(logits, -1), finite
