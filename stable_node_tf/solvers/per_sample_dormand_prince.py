"""Dormand-Prince with a step control of its own for each row of a batch."""

import functools
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.checks import check_count, check_positive
from stable_node_tf.solvers.capped import refuse
from stable_node_tf.solvers.checked_field import (
    checked_field,
    is_self_contained,
)
from stable_node_tf.solvers.checkpointing import (
    pull_back_by_tape,
    sweep_back,
)
from stable_node_tf.solvers.dormand_prince_step import (
    advanced,
    estimated_error,
    step_factor,
)
from stable_node_tf.solvers.nan_where import nan_where
from stable_node_tf.solvers.solver import OdeFn, Solver, in_dtype
from stable_node_tf.solvers.step_statistics import (
    StepStatistics,
    total_statistics,
)

_ORDER = 5


class _Progress(NamedTuple):
    """Rows under way; all but `slope` and `state` of shape (batch, 1)."""

    time: tf.Tensor
    size: tf.Tensor
    state: tf.Tensor
    slope: tf.Tensor
    accepted: tf.Tensor
    rejected: tf.Tensor
    last_step: tf.Tensor


@keras.saving.register_keras_serializable(package="stable_node_tf")
class PerSampleDormandPrince(Solver):
    """Adaptive Dormand-Prince 5(4), where no row depends on another one.

    TFP's `DormandPrince` chooses one step for a whole batch. Here each row
    accepts, rejects and chooses its own steps: its answer is the same whatever
    else the batch holds, and a stiff row takes small steps alone. All rows
    are evaluated until the last one has arrived.

    A step is accepted if the root mean square of error / (atol + rtol |u|)
    over the row is at most 1; the next one is longer by 0.9 times its -1/5-th
    power, within [0.2, 10] (Hairer, Norsett, Wanner, Solving Ordinary
    Differential Equations I, 2nd ed., section II.4, as is the first step).

    Gradients, first derivatives only, are those of the accepted steps with
    their sizes held fixed, with respect to the state and `constants`; an input
    gradient of a row does not depend on the others either. For them the state
    is kept at `max_num_steps` points.

    Args:
      rtol: relative tolerance, positive.
      atol: absolute tolerance, positive.
      max_num_steps: accepted and rejected steps, at least 1.

    Raises:
      TypeError: if an argument is no number, or `max_num_steps` no integer.
      ValueError: if an argument is not positive.

    >>> decay = lambda t, u, rate: -rate * u
    >>> results = PerSampleDormandPrince().solve(
    ...     decay, 0.0, [[1.0], [1e3]], [1.0], constants={"rate": 2.0}
    ... )
    >>> results.states.numpy().round(3).tolist()
    [[[0.135...], [135.33...]]]
    >>> results.diagnostics.rejected.shape
    TensorShape([2])
    """

    name = "dormand_prince_per_sample"

    def __init__(
        self,
        rtol: float = 1e-5,
        atol: float = 1e-6,
        max_num_steps: int = 200,
    ) -> None:
        self.rtol = check_positive(rtol, "rtol")
        self.atol = check_positive(atol, "atol")
        self.max_num_steps = check_count(max_num_steps, "max_num_steps")
        self._traced: dict[OdeFn, tuple[Any, Any]] = {}
        super().__init__()

    def _state_from(self, initial_state):
        state = super()._state_from(tf.convert_to_tensor(initial_state))
        if state.shape.rank != 2 or state.dtype.is_complex:
            raise ValueError(
                "The state of `PerSampleDormandPrince` must be real, of shape "
                f"(batch, d). Received: {state!r}"
            )
        return state

    def _check_times(self, start, times):
        known = tf.get_static_value(tf.concat([start[tf.newaxis], times], 0))
        if known is not None and not np.all(np.diff(known) >= 0.0):
            raise ValueError(
                "`solution_times` must be increasing, from `initial_time` on. "
                f"Received: initial_time={known[0]}, "
                f"solution_times={known[1:].tolist()}"
            )

    def _diagnostics(self, parts):
        return total_statistics(parts)

    def _passes(self, ode_fn):
        """Returns the passes forwards and backwards, traced once if may be."""
        checked = checked_field(ode_fn)
        run = functools.partial(self._run, checked)
        sweep_back = functools.partial(self._sweep_back, checked)
        if tf.executing_eagerly() or not is_self_contained(ode_fn):
            return run, sweep_back
        if ode_fn not in self._traced:
            trace = tf.function(autograph=False, reduce_retracing=True)
            self._traced[ode_fn] = trace(run), trace(sweep_back)
        return self._traced[ode_fn]

    def _advance(self, ode_fn, jacobian_fn, start, end, state, constants):
        constants = tf.nest.map_structure(
            lambda c: in_dtype(c, state.dtype), constants
        )
        run, sweep_back = self._passes(ode_fn)
        stopped = functools.partial(tf.nest.map_structure, tf.stop_gradient)

        @tf.custom_gradient
        def advance(state, *flat):
            fixed = tf.nest.pack_sequence_as(constants, flat)
            count, last, record = run(start, end, *stopped((state, fixed)))

            @tf.custom_gradient
            def pull_back(upstream, *_):
                gradients = sweep_back(
                    *stopped((fixed, count, record, upstream))
                )
                return gradients, _refuse_second_derivatives

            def gradient(upstream, *of_statistics):
                return pull_back(upstream, state, *flat)

            return (
                last.state,
                last.time,
                last.accepted,
                last.rejected,
                last.last_step,
            ), gradient

        last, time, *statistics = advance(state, *tf.nest.flatten(constants))
        arrived = (time >= end) & (end >= start)
        check = refuse(~tf.reduce_all(arrived), self.name, self.max_num_steps)
        with tf.control_dependencies([check]):
            last = nan_where(~arrived, last)
        accepted, rejected, last_step, arrived = (
            x[:, 0] for x in (*statistics, arrived)
        )
        return last, StepStatistics(
            num_ode_fn_evaluations=2 + 6 * (accepted + rejected),
            accepted=accepted,
            rejected=rejected,
            last_step=last_step,
            status=tf.where(arrived, 0, -1),
        )

    def _run(self, ode_fn, start, end, state, constants):
        """Returns the number of rounds, where the rows are, and the steps."""
        function = functools.partial(ode_fn, **constants)
        time = start + tf.zeros_like(state[:, :1])
        slope = function(time, state)
        zero = tf.zeros_like(time, tf.int32)
        progress = _Progress(
            time=time,
            size=self._first_step(function, time, end, state, slope),
            state=state,
            slope=slope,
            accepted=zero,
            rejected=zero,
            last_step=tf.zeros_like(time),
        )

        def body(index, progress, record):
            progress, kept = self._try_step(function, end, progress)
            pairs = zip(record, kept, strict=True)
            record = [array.write(index, value) for array, value in pairs]
            return index + 1, progress, record

        def running(index, progress, record):
            moves = progress.time + progress.size > progress.time
            # The record of no round, of an empty batch, has no known shape.
            return (index < 1) | tf.reduce_any((progress.time < end) & moves)

        array = functools.partial(
            tf.TensorArray, state.dtype, self.max_num_steps
        )
        record = [array(element_shape=x.shape) for x in (time, time, state)]
        count, progress, record = tf.while_loop(
            running,
            body,
            (tf.constant(0), progress, record),
            maximum_iterations=self.max_num_steps,
        )
        return count, progress, [array.stack() for array in record]

    def _first_step(self, function, time, end, state, slope):
        """Hairer, Norsett, Wanner I, section II.4, "Starting Step Size"."""
        scale = self.atol + self.rtol * tf.abs(state)
        tiny = tf.constant(1e-5, state.dtype)
        size, speed = _norm(state / scale), _norm(slope / scale)
        guess = tf.where(
            tf.minimum(size, speed) < tiny,
            tiny / 10,
            0.01 * size / tf.maximum(speed, tiny),
        )
        guess = tf.minimum(guess, end - time)
        ahead = function(time + guess, state + guess * slope)
        bend = _norm((ahead - slope) / scale) / guess
        steepest = tf.maximum(tf.maximum(speed, bend), 1e-10)
        first = tf.pow(0.01 / steepest, 1 / _ORDER)
        return tf.stop_gradient(tf.minimum(100 * guess, first))

    def _try_step(self, function, end, progress):
        """Tries one step in each row; returns time, size and start as well."""
        time, state = progress.time, progress.state
        running = time < end
        size = tf.where(running, tf.minimum(progress.size, end - time), 0.0)
        size = tf.stop_gradient(size)
        ahead, slopes = advanced(function, time, size, state, progress.slope)
        last = function(time + size, ahead)
        error = estimated_error(size, slopes, last)
        larger = tf.maximum(tf.abs(state), tf.abs(ahead))
        ratio = _norm(error / (self.atol + self.rtol * larger))
        accept = running & (ratio <= 1.0)
        factor = step_factor(ratio, _ORDER, 0.9, 0.2, 10.0)
        arrives = accept & (time + size >= end)
        moved = tf.where(arrives, end, tf.where(accept, time + size, time))
        steps = tf.cast(accept, tf.int32)
        return _Progress(
            time=moved,
            size=tf.where(running, size * factor, progress.size),
            state=tf.where(accept, ahead, state),
            slope=tf.where(accept, last, progress.slope),
            accepted=progress.accepted + steps,
            rejected=progress.rejected + tf.cast(running, tf.int32) - steps,
            last_step=tf.where(accept, size, progress.last_step),
        ), (time, tf.where(accept, size, 0.0), state)

    def _sweep_back(self, ode_fn, constants, count, record, upstream):
        """Returns the gradients with respect to state and constants."""
        times, sizes, states = record

        def step(index, state, constants):
            function = functools.partial(ode_fn, **constants)
            time, size = times[index], sizes[index]
            slope = function(time, state)
            return advanced(function, time, size, state, slope)[0]

        pull_back = pull_back_by_tape(step)
        return sweep_back(
            lambda index, upstream: pull_back(
                index, states[index], constants, upstream[0]
            ),
            count,
            [upstream],
            tf.nest.flatten(constants),
            maximum_iterations=self.max_num_steps,
        )


def _norm(values: tf.Tensor) -> tf.Tensor:
    """Root mean square of each row, of shape (batch, 1)."""
    return tf.sqrt(tf.reduce_mean(tf.square(values), axis=1, keepdims=True))


def _refuse_second_derivatives(*upstream: Any) -> Any:
    raise NotImplementedError(
        "`PerSampleDormandPrince` has first derivatives only. Use a fixed "
        "grid, or 'dormand_prince', for higher ones."
    )
