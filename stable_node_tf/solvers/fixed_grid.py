"""What all solvers on a fixed grid share: the grid, and the loop over it."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow_probability.python.math import ode

from stable_node_tf.checks import check_count
from stable_node_tf.read_only_settings import ReadOnlySettings
from stable_node_tf.solvers.checked_field import checked_field
from stable_node_tf.solvers.checkpointing import (
    checkpointed_loop,
    pull_back_by_tape,
)

OdeFn = Callable[..., Any]

# Up to this many stages the loop over the steps is unrolled: that runs up to a
# quarter faster than `tf.while_loop`, forward and backward, but traces and
# compiles about five times longer.
MAX_UNROLLED_STAGES = 100


class _Diagnostics(
    NamedTuple(
        "_Diagnostics",
        [
            ("num_ode_fn_evaluations", tf.Tensor),
            ("num_jacobian_evaluations", tf.Tensor),
            ("num_matrix_factorizations", tf.Tensor),
            ("status", tf.Tensor),
        ],
    ),
    ode.Diagnostics,
):
    """See `tfp.math.ode.Diagnostics`."""


class FixedGrid(
    ReadOnlySettings, ode.Solver, settings=("num_stages", "unrolls")
):
    """A one-step method with `num_steps` equal steps.

    A subclass says how to take one step, from how many stages, and whether a
    step is so small a piece of a graph that a few may be unrolled.

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
        super().__init__(
            make_adjoint_solver_fn=None,
            validate_args=False,
            name=type(self).__name__.lower(),
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        config: dict[str, Any] = {"num_steps": self.num_steps}
        if self.checkpointed:
            config["checkpointed"] = True
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FixedGrid":
        """Builds the solver that `get_config` described."""
        return cls(**config)

    def solve(
        self,
        ode_fn: OdeFn,
        initial_time: Any,
        initial_state: Any,
        solution_times: Any,
        jacobian_fn: Any = None,
        jacobian_sparsity: Any = None,
        batch_ndims: int | None = None,
        previous_solver_internal_state: Any = None,
        constants: Mapping[str, Any] | None = None,
    ) -> Any:
        """Solves u' = ode_fn(t, u, **constants), u(initial_time) given.

        Each interval between neighboring solution times (the first one from
        `initial_time`) is cut into `num_steps` equal steps. Gradients are
        those of the grid, with respect to the state, to `constants`, to the
        times and to whatever `ode_fn` closes over.

        Args:
          ode_fn: function of a scalar time, a state and the constants that
            returns the derivative, with the structure of the state.
          initial_time: scalar.
          initial_state: floating or complex tensor of any shape, or a nest
            of them.
          solution_times: vector of a length known in advance, or
            `ChosenBySolver(final_time)` for the states at all `num_steps + 1`
            points of the grid, the first included.
          jacobian_fn: function of what `ode_fn` takes that returns the
            derivative of each row of a state (batch, d), of shape
            (batch, d, d); explicit schemes need none.
          jacobian_sparsity: not used.
          batch_ndims: not needed: every entry of the state takes the steps.
          previous_solver_internal_state: a grid has none to take over.
          constants: tensors passed to `ode_fn` by name.

        Returns:
          `tfp.math.ode.Results`, with `states` of shape (times,) + state.

        Raises:
          TypeError: if `initial_state` is neither floating nor complex.
          ValueError: if `solution_times` is not a vector of known length, at
            least 1, or `ode_fn` does not return the structure, shape and dtype
            of the state.
        """
        del jacobian_sparsity, batch_ndims, previous_solver_internal_state
        state = tf.nest.map_structure(tf.convert_to_tensor, initial_state)
        for part in tf.nest.flatten(state):
            if not (part.dtype.is_floating or part.dtype.is_complex):
                raise TypeError(
                    "`initial_state` must be floating. "
                    f"Received: initial_state of {part.dtype!r}"
                )
        dtype = tf.nest.flatten(state)[0].dtype.real_dtype
        start = in_dtype(initial_time, dtype)
        states = []
        if isinstance(solution_times, ode.ChosenBySolver):
            span = in_dtype(solution_times.final_time, dtype) - start
            fractions = np.arange(self.num_steps + 1) / self.num_steps
            times = start + span * tf.constant(fractions, dtype)
            states.append(state)
            ends, num_steps = tf.unstack(times)[1:], 1
        else:
            times = times_in_dtype(solution_times, dtype)
            ends, num_steps = tf.unstack(times), self.num_steps
        evaluations: Any = 0
        ode_fn = checked_field(ode_fn)
        for end in ends:
            state, count = self._advance(
                ode_fn,
                jacobian_fn,
                start,
                end,
                state,
                num_steps,
                dict(constants or {}),
            )
            evaluations += count
            states.append(state)
            start = end
        return ode.Results(
            times=times,
            states=tf.nest.map_structure(lambda *u: tf.stack(u), *states),
            diagnostics=_Diagnostics(
                num_ode_fn_evaluations=tf.convert_to_tensor(evaluations),
                num_jacobian_evaluations=tf.constant(0),
                num_matrix_factorizations=tf.constant(0),
                status=tf.constant(0),
            ),
            solver_internal_state=(),
        )

    def _solve(self, *args: Any, **kwargs: Any) -> Any:
        return self.solve(*args, **kwargs)

    def _initialize_solver_internal_state(
        self, ode_fn: OdeFn, initial_time: Any, initial_state: Any
    ) -> tuple[()]:
        del ode_fn, initial_time, initial_state
        return ()

    def _advance(
        self,
        ode_fn: OdeFn,
        jacobian_fn: OdeFn | None,
        start: tf.Tensor,
        end: tf.Tensor,
        state: Any,
        num_steps: int,
        constants: dict[str, Any],
    ) -> tuple[Any, Any]:
        """Takes `num_steps` equal steps, and counts evaluations of `ode_fn`."""
        size = (end - start) / num_steps

        def take(index: Any, state: Any, constants: Any) -> tuple[Any, Any]:
            return self._step(
                functools.partial(ode_fn, **constants),
                jacobian_fn and functools.partial(jacobian_fn, **constants),
                start + tf.cast(index, size.dtype) * size,
                size,
                state,
            )

        def run(first: Any, state: Any, constants: Any, steps: int) -> Any:
            if self.unrolls and steps * self.num_stages <= MAX_UNROLLED_STAGES:
                counts: Any = 0
                for index in range(steps):
                    state, count = take(first + index, state, constants)
                    counts += count
                return state, counts

            def body(index: Any, state: Any, counts: Any) -> Any:
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
            return run(0, state, constants, num_steps)
        length, num_segments, rest = segments(num_steps)
        constants = tf.nest.map_structure(tf.convert_to_tensor, constants)

        def through(first: int, steps: int, count: int, state: Any) -> Any:
            """Takes `count` segments of `steps` steps each."""

            def segment(index: Any, state: Any, constants: Any) -> Any:
                return run(first + index * steps, state, constants, steps)[0]

            return checkpointed_loop(
                segment, pull_back_by_tape(segment), state, constants, count
            )

        state = through(0, length, num_segments, state)
        if rest:
            state = through(num_steps - rest, rest, 1, state)
        return state, num_steps * self.num_stages

    def _step(
        self,
        ode_fn: OdeFn,
        jacobian_fn: OdeFn | None,
        time: tf.Tensor,
        size: tf.Tensor,
        state: Any,
    ) -> tuple[Any, Any]:
        """Returns the state at `time + size` and evaluations of `ode_fn`."""
        raise NotImplementedError


def segments(num_steps: int) -> tuple[int, int, int]:
    """Returns length and number of segments, and the steps left over.

    >>> segments(20)
    (5, 4, 0)
    """
    length = math.ceil(math.sqrt(num_steps))
    return length, num_steps // length, num_steps % length


def in_dtype(value: Any, dtype: tf.DType) -> tf.Tensor:
    """Casts; Python numbers without a detour through float32."""
    return tf.cast(tf.convert_to_tensor(value, dtype_hint=dtype), dtype)


def times_in_dtype(solution_times: Any, dtype: tf.DType) -> tf.Tensor:
    """Casts solution times, a vector of known length that is not empty."""
    times = in_dtype(solution_times, dtype)
    if times.shape.rank != 1 or not times.shape[0]:
        raise ValueError(
            "`solution_times` must be a vector of known length, at least 1. "
            f"Received: solution_times of shape {times.shape}"
        )
    return times
