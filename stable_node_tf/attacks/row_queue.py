"""Keeps a fixed number of rows busy with the attacks that are still due.

An iterated attack fools most images after few of its iterations, and an image
fooled within a budget is fooled within every larger one. So the compiled
iteration works on a fixed number of rows, and a row that is done takes up the
next image. A fixed shape is what XLA needs; and what happens in a row does not
depend on the others.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from stable_node_tf.attacks.checks import (
    check_finite,
    check_logits,
    refuse_not_finite,
)
from stable_node_tf.attacks.outcome import AttackedBatch

ROWS = 256


class Rows(NamedTuple):
    """What the compiled iterations work on, an entry for each of R rows.

    Attributes:
        originals: the images as given, float32, shape (R, ...).
        labels: their true classes, int64, shape (R,).
        epsilons: the budget of each row, float32, shape (R,).
        current: the attacked images, float32, shape (R, ...).
        best: the largest loss that the row has seen, float32, shape (R,).
        done: how many iterations it has behind it, int32, shape (R,).
        draws: random numbers for the iterations to come, float32, (R, ...).
    """

    originals: np.ndarray
    labels: np.ndarray
    epsilons: np.ndarray
    current: np.ndarray
    best: np.ndarray
    done: np.ndarray
    draws: np.ndarray


class IteratedAttack(NamedTuple):
    """An attack that is carried out in several iterations.

    Attributes:
        clean: maps images and labels to logits and, where the attack needs
            it, the gradient of the loss, as tensors; None otherwise.
        begin: maps a random number generator to a perturbation of one image,
            of norm at most 1.
        draw: maps a random number generator to the numbers that one row needs
            for one call of `advance`.
        advance: takes the fields of `Rows` as tensors, carries out `chunk`
            iterations and returns the attacked images, their largest losses,
            the classes answered for them, and whether all was finite.
        chunk: the number of iterations in one call of `advance`.
        iterations: in each run.
        runs: how often an image is attacked from new random numbers.
        seed: of the random numbers.
    """

    clean: Callable[[Any, Any], tuple[Any, Any]]
    begin: Callable[[np.random.Generator], np.ndarray]
    draw: Callable[[np.random.Generator], np.ndarray]
    advance: Callable[..., tuple[Any, Any, Any, Any]]
    chunk: int
    iterations: int
    runs: int
    seed: int


class _Task(NamedTuple):
    rank: int  # of the budget, smallest first
    run: int
    image: int


def row_count(images: int, budgets: int) -> int:
    """How many rows the compiled iteration works on."""
    return min(ROWS, images * budgets)


def run_batches(
    attack: IteratedAttack,
    images: np.ndarray,
    labels: np.ndarray,
    epsilons: np.ndarray,
    batch_size: int,
) -> Iterator[AttackedBatch]:
    """Carries an attack out, yielding a batch of images at a time.

    The random numbers of an image depend on the seed, on its place among the
    images and on the run; not on the batch size or the budgets.
    """
    rows = row_count(len(images), len(epsilons))
    for start in range(0, len(images), batch_size):
        x = images[start : start + batch_size]
        y = labels[start : start + batch_size]
        logits, gradient = attack.clean(x, y)
        check_logits(logits.numpy(), y, start)
        answers = logits.numpy().argmax(axis=1)
        zero_gradient = None
        if gradient is not None:
            check_finite(gradient.numpy(), start, "the gradient of the loss")
            zero_gradient = ~gradient.numpy().reshape(len(y), -1).any(axis=1)
        adversarial, predictions = _run_batch(
            attack, x, y, answers, epsilons, start, rows
        )
        yield AttackedBatch(adversarial, predictions, answers, y, zero_gradient)


def _run_batch(
    attack: IteratedAttack,
    images: np.ndarray,
    labels: np.ndarray,
    answers: np.ndarray,
    epsilons: np.ndarray,
    start: int,
    rows: int,
) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(epsilons, kind="stable")
    adversarial = np.repeat(images[np.newaxis], len(epsilons), axis=0)
    predictions = np.repeat(answers[np.newaxis], len(epsilons), axis=0)
    # The smallest budget, by rank, within which each image is fooled so far.
    fooled = np.where(answers == labels, len(epsilons), 0)
    queue = (
        _Task(rank, run, image)
        for rank in range(len(epsilons))
        if epsilons[order[rank]] > 0
        for run in range(attack.runs)
        for image in range(len(images))
        if rank < fooled[image]
    )
    tasks: list[_Task | None] = [None] * rows
    generators = [np.random.default_rng(0)] * rows
    state = _idle_rows(attack, images, rows)

    while True:
        for row, task in enumerate(tasks):
            if task is None and (task := next(queue, None)) is not None:
                tasks[row] = task
                key = (attack.seed, start + task.image, task.run)
                generators[row] = np.random.default_rng(key)
                epsilon = np.float32(epsilons[order[task.rank]])
                image = images[task.image]
                offset = epsilon * attack.begin(generators[row])
                state.originals[row] = image
                state.labels[row] = labels[task.image]
                state.epsilons[row] = epsilon
                state.current[row] = np.clip(image + offset, 0.0, 1.0)
                state.best[row] = -np.inf
                state.done[row] = 0
        busy = [row for row, task in enumerate(tasks) if task is not None]
        if not busy:
            return adversarial, predictions
        for row in busy:
            state.draws[row] = attack.draw(generators[row])

        current, best, classes, finite = (
            tensor.numpy() for tensor in attack.advance(*state)
        )
        numbers = start + np.array([tasks[row].image for row in busy])  # type: ignore[union-attr]
        refuse_not_finite(finite[busy], numbers, "logits and gradients")
        state.current[:], state.best[:] = current, best
        state.done[:] += attack.chunk
        for row in busy:
            rank, _, image = tasks[row]  # type: ignore[misc]
            if rank < fooled[image]:
                if classes[row] != labels[image]:
                    adversarial[order[rank:], image] = current[row]
                    predictions[order[rank:], image] = classes[row]
                    fooled[image] = rank
                elif state.done[row] >= attack.iterations:
                    adversarial[order[rank], image] = current[row]
                    tasks[row] = None
            if rank >= fooled[image]:
                tasks[row] = None


def _idle_rows(attack: IteratedAttack, images: np.ndarray, rows: int) -> Rows:
    filler = np.repeat(images[:1], rows, axis=0)
    draws = attack.draw(np.random.default_rng(0))
    return Rows(
        originals=filler,
        labels=np.zeros(rows, np.int64),
        epsilons=np.zeros(rows, np.float32),
        current=filler.copy(),
        best=np.zeros(rows, np.float32),
        done=np.zeros(rows, np.int32),
        draws=np.zeros([rows, *draws.shape], np.float32),
    )
