"""Attacks in many iterations, on rows that are kept busy.

An iterated attack fools most images after few of its iterations, and an image
fooled within a budget is fooled within every larger one. So the compiled
iteration works on a fixed number of rows, and a row that is done takes up the
next image. A fixed shape is what XLA needs; and what happens in a row does not
depend on the others.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from stable_node_tf.attacks.base import Attack
from stable_node_tf.attacks.batch import Batch
from stable_node_tf.attacks.checks import check_finite
from stable_node_tf.attacks.compiled import compiled
from stable_node_tf.attacks.result import AttackResult
from stable_node_tf.checks import check_count

ROWS = 512


class Rows(NamedTuple):
    """What the compiled iterations work on, an entry for each of R rows.

    Attributes:
        originals: the images as given, float32, shape (R, ...).
        classes: their labels or targets, int64, shape (R,).
        epsilons: the budget of each row, float32, shape (R,).
        current: the attacked images, float32, shape (R, ...).
        answers: the classes answered for them, int64, shape (R,).
        best: the largest loss that the row has seen, float32, shape (R,).
        done: how many iterations it has behind it, int32, shape (R,).
        draws: random numbers for the iterations to come, float32, (R, ...).
    """

    originals: Any
    classes: Any
    epsilons: Any
    current: Any
    answers: Any
    best: Any
    done: Any
    draws: Any


class Goal(NamedTuple):
    """What stays the same in all rows.

    Attributes:
        bounds: the smallest and the largest value of a pixel.
        targeted: whether `Rows.classes` are targets.
        chunk: the number of iterations in one call.
    """

    bounds: tuple[float, float]
    targeted: bool
    chunk: int

    def reached(self, answers: Any, rows: Rows) -> Any:
        """Where the answers are what the attack is after."""
        return tf.equal(answers == rows.classes, self.targeted)

    def clip(self, images: Any) -> Any:
        """Back into the range of the pixels."""
        return tf.clip_by_value(images, *self.bounds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IteratedAttack(Attack):
    """An attack that moves each image in many iterations.

    An image that has been fooled is left as it is, is not attacked again from
    another start, and counts for every larger budget too: an image within a
    ball is within every larger one. Random numbers depend on the seed and on
    the place of the image, not on batches or budgets; rounding in the model
    may depend on the size of the batch.
    """

    restarts: int = 1
    seed: int = 0
    jit_compile: bool = False

    largest_chunk: ClassVar[int]

    def _check_counts(self, **smallest: int) -> None:
        for name, least in smallest.items():
            count = check_count(getattr(self, name), name, least)
            object.__setattr__(self, name, count)

    def schedule(self, shape: tuple[int, ...]) -> np.ndarray:
        """An entry for each iteration on images of this shape."""
        raise NotImplementedError

    def begin(
        self, rng: np.random.Generator, shape: tuple[int, ...]
    ) -> np.ndarray:
        """A perturbation to begin with, of norm at most 1."""
        raise NotImplementedError

    def draw(
        self, rng: np.random.Generator, chunk: int, shape: tuple[int, ...]
    ) -> np.ndarray:
        """The random numbers that one row needs for one chunk."""
        return np.empty(0, np.float32)

    @property
    def advance(self) -> tuple[Callable[..., Any], tuple[Hashable, ...]]:
        """What carries out one chunk, and the settings it is traced with.

        The function of a module takes (model, *settings, goal, schedule, rows)
        and returns images, answers and largest losses of the rows, and whether
        all was finite.
        """
        raise NotImplementedError

    def _attacked(
        self, model: Any, batches: Iterator[Batch], num_images: int | None
    ) -> Iterator[AttackResult]:
        first = next(batches)
        image, budgets = first.images[0], len(first.epsilons)
        schedule = self.schedule(image.shape)
        chunk = min(self.largest_chunk, len(schedule))
        num_rows = min(ROWS, (num_images or ROWS) * budgets)
        draws = self.draw(np.random.default_rng(0), chunk, image.shape)
        state = _idle_rows(num_rows, image, draws)
        function, settings = self.advance
        advance = compiled(
            model,
            _on_rows,
            function,
            *settings,
            Goal(first.bounds, first.targets is not None, chunk),
            signature=[
                tf.TensorSpec([None], schedule.dtype),
                *(tf.TensorSpec(field.shape, field.dtype) for field in state),
            ],
            jit_compile=self.jit_compile,
        )

        unfinished: collections.deque[_Progress] = collections.deque()

        def all_tasks() -> Iterator[_Task]:
            for batch in itertools.chain([first], batches):
                runs = max(self.restarts, 1)
                unfinished.append(_Progress(batch, runs, self.norm))
                yield from unfinished[-1].tasks()

        queue = all_tasks()
        busy: dict[int, tuple[_Task, np.random.Generator]] = {}
        while True:
            for row in range(num_rows):
                if row not in busy and (task := next(queue, None)) is not None:
                    rng = np.random.default_rng(
                        (self.seed, task.number, task.run)
                    )
                    task.occupy(state, row, self.begin(rng, image.shape))
                    busy[row] = task, rng
            while unfinished and unfinished[0].finished:
                yield unfinished.popleft().result()
            if not busy:
                return
            for row, (_, rng) in busy.items():
                state.draws[row] = self.draw(rng, chunk, image.shape)
            *moved, finite = (
                tensor.numpy() for tensor in advance(schedule, *state)
            )
            check_finite(
                np.where(finite, 0.0, np.nan)[list(busy)],
                np.array([task.number for task, _ in busy.values()]),
                "logits and gradients",
            )
            state.current[:], state.answers[:], state.best[:] = moved
            state.done[:] += chunk
            for row, (task, _) in list(busy.items()):
                ended = bool(state.done[row] >= len(schedule))
                if task.is_due():
                    task.record(state.current[row], state.answers[row], ended)
                if ended or not task.is_due():
                    task.progress.busy_rows -= 1
                    del busy[row]


class _Progress:
    """A batch of images under attack, and what has been found so far."""

    def __init__(self, batch: Batch, runs: int, norm: str) -> None:
        self.batch, self.runs, self.norm = batch, runs, norm
        budgets = len(batch.epsilons)
        self.order = np.argsort(batch.epsilons, kind="stable")
        answers = self.answers = batch.logits.argmax(axis=1)
        self.adversarial = np.repeat(batch.images[np.newaxis], budgets, 0)
        self.predictions = np.repeat(answers[np.newaxis], budgets, 0)
        # The smallest budget, by rank, within which each image is fooled.
        self.fooled = np.where(batch.succeeds(answers), 0, budgets)
        self.busy_rows = 0
        self.all_taken_up = False

    def tasks(self) -> Iterator["_Task"]:
        """What is due, the smallest budgets first, decided when asked for."""
        for rank, at in enumerate(self.order):
            if self.batch.epsilons[at] > 0:
                for run in range(self.runs):
                    for image in range(len(self.fooled)):
                        if rank < self.fooled[image]:
                            yield _Task(self, rank, run, image)
        self.all_taken_up = True

    @property
    def finished(self) -> bool:
        return self.all_taken_up and not self.busy_rows

    def result(self) -> AttackResult:
        return self.batch.result(self.adversarial, self.predictions, self.norm)


class _Task(NamedTuple):
    """One run on one image within one budget."""

    progress: _Progress
    rank: int
    run: int
    image: int

    @property
    def number(self) -> int:
        """The number of the image among all."""
        return int(self.progress.batch.numbers[self.image])

    def is_due(self) -> bool:
        """Whether no smaller or equal budget has fooled the image."""
        return self.rank < int(self.progress.fooled[self.image])

    def occupy(self, state: Rows, row: int, perturbation: np.ndarray) -> None:
        """Puts the image, moved by a share of the budget, in a row."""
        batch = self.progress.batch
        epsilon = np.float32(batch.epsilons[self.progress.order[self.rank]])
        image = batch.images[self.image]
        state.originals[row] = image
        state.classes[row] = batch.classes[self.image]
        state.epsilons[row] = epsilon
        state.current[row] = np.clip(
            image + epsilon * perturbation, *batch.bounds
        )
        state.answers[row] = self.progress.answers[self.image]
        # Not -inf, at which tf.debugging.enable_check_numerics would stop.
        state.best[row] = np.finfo(np.float32).min
        state.done[row] = 0
        self.progress.busy_rows += 1

    def record(self, attacked: np.ndarray, answer: int, ended: bool) -> None:
        """Notes where the attack stands, if that is a success or the end."""
        progress, image = self.progress, self.image
        at = progress.order[self.rank : self.rank + 1]
        fooled = progress.batch.succeeds(answer, image)
        if fooled:
            # For every larger budget too, whatever has been found there.
            at = progress.order[self.rank :]
            progress.fooled[image] = self.rank
        if fooled or ended:
            progress.adversarial[at, image] = attacked
            progress.predictions[at, image] = answer


def _on_rows(model: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Gathers the last arguments, which are the fields of `Rows`."""
    fields = len(Rows._fields)
    return function(model, *arguments[:-fields], Rows(*arguments[-fields:]))


def _idle_rows(rows: int, image: np.ndarray, draws: np.ndarray) -> Rows:
    images = np.repeat(image[np.newaxis], rows, axis=0)
    return Rows(
        originals=images,
        classes=np.zeros(rows, np.int64),
        epsilons=np.zeros(rows, np.float32),
        current=images.copy(),
        answers=np.zeros(rows, np.int64),
        best=np.zeros(rows, np.float32),
        done=np.zeros(rows, np.int32),
        draws=np.zeros([rows, *draws.shape], np.float32),
    )
