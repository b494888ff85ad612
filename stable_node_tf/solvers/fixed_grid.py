"""What all solvers on a fixed grid share: the grid, and the loop over it."""

import collections
import functools
import math
from typing import Any, ClassVar

import tensorflow as tf
from tensorflow_probability.python.math import ode

from stable_node_tf.checks import check_count
from stable_node_tf.solvers.checked_field import checked_field
from stable_node_tf.solvers.checkpointing import (
    checkpointed_loop,
    pull_back_by_tape,
)
from stable_node_tf.solvers.solver import OdeFn, Solver

# Up to this many stages the loop over the steps is unrolled: that runs up to a
# quarter faster than `tf.while_loop`, forward and backward, but traces and
# compiles about five times longer.
MAX_UNROLLED_STAGES = 100


class _Diagnostics(
    collections.namedtuple(
        "_Diagnostics",
        "num_ode_fn_evaluations num_jacobian_evaluations "
        "num_matrix_factorizations status",
    ),
    ode.Diagnostics,
):
    """See `tfp.math.ode.Diagnostics`."""


class FixedGrid(Solver, settings=("num_stages", "unrolls")):
    """A one-step method with `num_steps` equal steps.

    Gradients are those of the grid, with respect to the state, to `constants`,
    to the times and to whatever `ode_fn` closes over. A subclass says how to
    take one step, from how many stages, and whether a step is so small a piece
    of a graph that a few may be unrolled.

    Args:
      num_steps: steps per interval between solution times, at least 1.
      checkpointed: if true, only about √num_steps states are kept for the
        gradient, and the steps between them are taken again. Then there are
        gradients with respect to the state and `constants` only, memory is
        saved within a `tf.function` only, and evaluations are counted as
        `num_stages` a step, which for an implicit scheme are too few. XLA
        refuses second derivatives where √num_steps steps are not unrolled:
        more than 100 stages of them, or any of an implicit scheme.

    Raises:
      TypeError: if `num_steps` is not an integer.
      ValueError: if it is below 1.
    """

    num_stages: int
    unrolls: ClassVar[bool] = True

    def __init__(self, num_steps: int = 20, checkpointed: bool = False) -> None:
        self.num_steps = check_count(num_steps, "num_steps")
        self.checkpointed = bool(checkpointed)
        super().__init__()

    def _diagnostics(self, parts):
        zero = tf.constant(0)
        return _Diagnostics(tf.convert_to_tensor(sum(parts)), zero, zero, zero)

    def _advance(self, ode_fn, jacobian_fn, start, end, state, constants):
        size = (end - start) / self.num_steps
        ode_fn = checked_field(ode_fn)

        def take(index, state, constants):
            return self._step(
                functools.partial(ode_fn, **constants),
                jacobian_fn and functools.partial(jacobian_fn, **constants),
                start + tf.cast(index, size.dtype) * size,
                size,
                state,
            )

        # Eagerly, a trace of the step would cost more than it saves.
        traced = take
        if not tf.executing_eagerly():
            traced = tf.function(take, autograph=False)

        def run(first, state, constants, steps):
            """Takes steps from the one with index `first` on."""
            if self.unrolls and steps * self.num_stages <= MAX_UNROLLED_STAGES:
                counts: Any = 0
                for index in range(steps):
                    index = tf.convert_to_tensor(first + index)
                    state, count = traced(index, state, constants)
                    counts += count
                return state, counts

            def body(index, state, counts):
                state, count = take(first + index, state, constants)
                return index + 1, state, counts + count

            zero = tf.constant(0)
            return tf.while_loop(
                lambda index, *_: index < steps,
                body,
                (zero, state, zero),
                maximum_iterations=steps,
            )[1:]

        if not self.checkpointed:
            return run(0, state, constants, self.num_steps)
        constants = tf.nest.map_structure(tf.convert_to_tensor, constants)
        for first, steps, count in segments(self.num_steps):

            def segment(index, state, constants, first=first, steps=steps):
                return run(first + index * steps, state, constants, steps)[0]

            state = checkpointed_loop(
                segment, pull_back_by_tape(segment), state, constants, count
            )
        return state, self.num_steps * self.num_stages

    def _step(
        self, ode_fn: OdeFn, jacobian_fn: OdeFn | None, time, size, state
    ) -> tuple[Any, Any]:
        """Returns the state at `time + size` and evaluations of `ode_fn`."""
        raise NotImplementedError


def segments(num_steps: int) -> list[tuple[int, int, int]]:
    """Cuts a grid into about √num_steps segments of about √num_steps steps.

    Returns tuples: the first step, the length and the number of equal segments.

    >>> segments(20), segments(7)
    ([(0, 5, 4)], [(0, 3, 2), (6, 1, 1)])
    """
    length = math.ceil(math.sqrt(num_steps))
    count, rest = divmod(num_steps, length)
    equal = [(0, length, count)]
    return [*equal, (num_steps - rest, rest, 1)] if rest else equal
