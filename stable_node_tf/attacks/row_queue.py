"""Keeps a fixed number of rows busy with the attacks that are still due.

An iterated attack fools most images after few of its iterations, and an image
fooled within a budget is fooled within every larger one. So the compiled
iteration works on a fixed number of rows, and a row that is done takes up the
next image. A fixed shape is what XLA needs; and what happens in a row does not
depend on the others.
"""

import collections
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from stable_node_tf.attacks.chance import warn_of_chance
from stable_node_tf.attacks.checks import (
    check_finite,
    check_logits,
    refuse_not_finite,
)
from stable_node_tf.attacks.compiled import Compiled
from stable_node_tf.attacks.outcome import AttackedBatch

ROWS = 512


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

    clean: Compiled
    begin: Callable[[np.random.Generator], np.ndarray]
    draw: Callable[[np.random.Generator], np.ndarray]
    advance: Callable[..., tuple[Any, Any, Any, Any]]
    chunk: int
    iterations: int
    runs: int
    seed: int


class _Batch:
    """A batch of images under attack, and what has been found so far."""

    def __init__(
        self,
        attack: IteratedAttack,
        images: np.ndarray,
        labels: np.ndarray,
        epsilons: np.ndarray,
        start: int,
    ) -> None:
        logits, gradient = attack.clean(images, labels)
        check_logits(logits.numpy(), labels, start)
        warn_of_chance(attack.clean, logits.numpy(), images, labels)
        self.zero_gradient = None
        if gradient is not None:
            gradient = gradient.numpy()
            check_finite(gradient, start, "the gradient of the loss")
            self.zero_gradient = ~gradient.reshape(len(labels), -1).any(axis=1)
        self.images, self.labels, self.start = images, labels, start
        self.epsilons, self.runs = epsilons, attack.runs
        self.order = np.argsort(epsilons, kind="stable")
        self.answers = logits.numpy().argmax(axis=1)
        self.adversarial = np.repeat(images[np.newaxis], len(epsilons), 0)
        self.predictions = np.repeat(self.answers[np.newaxis], len(epsilons), 0)
        # The smallest budget, by rank, within which each image is fooled.
        self.fooled = np.where(self.answers == labels, len(epsilons), 0)
        self.busy_rows = 0
        self.all_taken_up = False

    def tasks(self) -> Iterator["_Task"]:
        """What is due, the smallest budgets first, decided when asked for."""
        for rank, at in enumerate(self.order):
            if self.epsilons[at] > 0:
                for run in range(self.runs):
                    for image in range(len(self.images)):
                        if rank < self.fooled[image]:
                            yield _Task(self, rank, run, image)
        self.all_taken_up = True

    def result(self) -> AttackedBatch:
        return AttackedBatch(
            self.adversarial,
            self.predictions,
            self.answers,
            self.labels,
            self.zero_gradient,
        )


class _Task(NamedTuple):
    """One run on one image within one budget."""

    batch: _Batch
    rank: int
    run: int
    image: int

    @property
    def number(self) -> int:
        """Of the image, among all."""
        return self.batch.start + self.image

    def is_due(self) -> bool:
        """Whether no smaller or equal budget has fooled the image."""
        return self.rank < self.batch.fooled[self.image]

    def record(self, attacked: np.ndarray, answer: int, ended: bool) -> None:
        """Notes where the attack stands, if that is a success or the end."""
        batch, rank = self.batch, self.rank
        if answer != batch.labels[self.image]:
            # For every larger budget too, whatever has been found there.
            batch.adversarial[batch.order[rank:], self.image] = attacked
            batch.predictions[batch.order[rank:], self.image] = answer
            batch.fooled[self.image] = rank
        elif ended:
            batch.adversarial[batch.order[rank], self.image] = attacked


def row_count(images: int, budgets: int) -> int:
    """How many rows the compiled iteration works on."""
    return min(ROWS, images * budgets)


def row_specs(
    rows: int, image: Sequence[int], draws: Sequence[int]
) -> list[tf.TensorSpec]:
    """The signature of `Rows`.

    Args:
        rows: how many there are.
        image: the shape of one image.
        draws: the shape of the random numbers of one row.
    """
    number = tf.TensorSpec([rows], tf.float32)
    fields = {
        "originals": tf.TensorSpec([rows, *image], tf.float32),
        "labels": tf.TensorSpec([rows], tf.int64),
        "epsilons": number,
        "current": tf.TensorSpec([rows, *image], tf.float32),
        "best": number,
        "done": tf.TensorSpec([rows], tf.int32),
        "draws": tf.TensorSpec([rows, *draws], tf.float32),
    }
    return [fields[name] for name in Rows._fields]


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
    unfinished: collections.deque[_Batch] = collections.deque()

    def all_tasks() -> Iterator[_Task]:
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            batch = _Batch(attack, images[part], labels[part], epsilons, start)
            unfinished.append(batch)
            yield from batch.tasks()

    rows = row_count(len(images), len(epsilons))
    state = _idle_rows(attack, images, rows)
    queue = all_tasks()
    tasks: dict[int, _Task] = {}
    generators = {}
    while True:
        for row in range(rows):
            if row not in tasks and (task := next(queue, None)) is not None:
                tasks[row] = task
                task.batch.busy_rows += 1
                generators[row] = np.random.default_rng(
                    (attack.seed, task.number, task.run)
                )
                _begin(attack, state, row, task, generators[row])
        while unfinished and unfinished[0].all_taken_up:
            if unfinished[0].busy_rows:
                break
            yield unfinished.popleft().result()
        if not tasks:
            return
        for row in tasks:
            state.draws[row] = attack.draw(generators[row])

        current, best, classes, finite = (
            tensor.numpy() for tensor in attack.advance(*state)
        )
        refuse_not_finite(
            finite[list(tasks)],
            np.array([task.number for task in tasks.values()]),
            "logits and gradients",
        )
        state.current[:], state.best[:] = current, best
        state.done[:] += attack.chunk
        for row, task in list(tasks.items()):
            ended = state.done[row] >= attack.iterations
            if task.is_due():
                task.record(current[row], classes[row], ended)
            if ended or not task.is_due():
                task.batch.busy_rows -= 1
                del tasks[row]


def _begin(
    attack: IteratedAttack,
    state: Rows,
    row: int,
    task: _Task,
    rng: np.random.Generator,
) -> None:
    image = task.batch.images[task.image]
    epsilon = np.float32(task.batch.epsilons[task.batch.order[task.rank]])
    state.originals[row] = image
    state.labels[row] = task.batch.labels[task.image]
    state.epsilons[row] = epsilon
    state.current[row] = np.clip(image + epsilon * attack.begin(rng), 0.0, 1.0)
    # Not -inf, at which tf.debugging.enable_check_numerics would stop.
    state.best[row] = np.finfo(np.float32).min
    state.done[row] = 0


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
