"""Dormand-Prince with a step control of its own for each row of a batch."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability.python.math import ode

from stable_node_tf.checks import check_count, check_positive
from stable_node_tf.read_only_settings import ReadOnlySettings
from stable_node_tf.solvers.capped import refuse
from stable_node_tf.solvers.checked_field import (
    checked_field,
    is_self_contained,
)
from stable_node_tf.solvers.dormand_prince_step import (
    advanced,
    estimated_error,
)
from stable_node_tf.solvers.failed_rows import nan_where
from stable_node_tf.solvers.fixed_grid import (
    OdeFn,
    in_dtype,
    times_in_dtype,
)
from stable_node_tf.solvers.step_statistics import (
    StepStatistics,
    total_statistics,
)

_ORDER = 5
_SAFETY = 0.9
_SMALLEST_FACTOR = 0.2
_LARGEST_FACTOR = 10.0


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
class PerSampleDormandPrince(ReadOnlySettings, ode.Solver):
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
        super().__init__(
            make_adjoint_solver_fn=None,
            validate_args=False,
            name="per_sample_dormand_prince",
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            "rtol": self.rtol,
            "atol": self.atol,
            "max_num_steps": self.max_num_steps,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PerSampleDormandPrince":
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

        Args:
          ode_fn: function of times of shape (batch, 1), a state of shape
            (batch, d) and the constants that returns the derivative of each
            row, of shape (batch, d).
          initial_time: scalar.
          initial_state: finite floating tensor of shape (batch, d).
          solution_times: increasing vector of a length known in advance.
          jacobian_fn: not used.
          jacobian_sparsity: not used.
          batch_ndims: not used.
          previous_solver_internal_state: not used.
          constants: tensors passed to `ode_fn` by name.

        Returns:
          `tfp.math.ode.Results` with `states` of shape (times, batch, d) and
          `StepStatistics` as `diagnostics`.

        Raises:
          TypeError: if `initial_state` is not floating.
          ValueError: if the shape of `initial_state` is not (batch, d), if
            `solution_times` is not a vector of known length, at least 1, and
            increasing from `initial_time` on, where this is known in advance,
            or `ode_fn` does not return the shape and dtype of the state.
          tf.errors.InvalidArgumentError: if a row did not arrive; compiled by
            XLA, which has no errors, that row is NaN.
        """
        del jacobian_fn, jacobian_sparsity, batch_ndims
        del previous_solver_internal_state
        state = tf.convert_to_tensor(initial_state)
        if state.shape.rank != 2:
            raise ValueError(
                "The state of `PerSampleDormandPrince` must have shape "
                f"(batch, d). Received: shape {state.shape}"
            )
        if not state.dtype.is_floating:
            raise TypeError(
                "`initial_state` must be floating. "
                f"Received: initial_state of {state.dtype!r}"
            )
        start = in_dtype(initial_time, state.dtype)
        if isinstance(solution_times, ode.ChosenBySolver):
            raise ValueError(
                "`PerSampleDormandPrince` needs `solution_times`: its rows "
                "choose different ones. Received: ChosenBySolver"
            )
        times = times_in_dtype(solution_times, state.dtype)
        known = tf.get_static_value(tf.concat([start[tf.newaxis], times], 0))
        if known is not None and not np.all(np.diff(known) >= 0.0):
            raise ValueError(
                "`solution_times` must be increasing, from `initial_time` on. "
                f"Received: initial_time={known[0]}, "
                f"solution_times={known[1:].tolist()}"
            )
        constants = tf.nest.map_structure(
            lambda c: in_dtype(c, state.dtype), dict(constants or {})
        )
        passes = self._passes(ode_fn)
        states, parts = [], []
        for end in tf.unstack(times):
            state, statistics = self._advance(
                passes, start, end, state, constants
            )
            states.append(state)
            parts.append(statistics)
            start = end
        return ode.Results(
            times=times,
            states=tf.stack(states),
            diagnostics=total_statistics(parts),
            solver_internal_state=(),
        )

    def _solve(self, *args: Any, **kwargs: Any) -> Any:
        return self.solve(*args, **kwargs)

    def _initialize_solver_internal_state(
        self, ode_fn: OdeFn, initial_time: Any, initial_state: Any
    ) -> tuple[()]:
        del ode_fn, initial_time, initial_state
        return ()

    def _passes(self, ode_fn: OdeFn) -> tuple[Any, Any]:
        """Returns the passes forwards and backwards, traced once if may be."""
        checked = checked_field(ode_fn)
        run, sweep_back = (
            functools.partial(function, checked)
            for function in (self._run, self._sweep_back)
        )
        if tf.executing_eagerly() or not is_self_contained(ode_fn):
            return run, sweep_back
        if ode_fn not in self._traced:
            trace = tf.function(autograph=False, reduce_retracing=True)
            self._traced[ode_fn] = trace(run), trace(sweep_back)
        return self._traced[ode_fn]

    def _advance(
        self,
        passes: tuple[Any, Any],
        start: tf.Tensor,
        end: tf.Tensor,
        state: tf.Tensor,
        constants: Mapping[str, Any],
    ) -> tuple[tf.Tensor, StepStatistics]:
        flat_constants = tf.nest.flatten(constants)
        run, sweep_back = passes

        @tf.custom_gradient
        def advance(state: tf.Tensor, *flat: tf.Tensor) -> Any:
            fixed = tf.nest.pack_sequence_as(constants, flat)
            count, last, record = run(
                start,
                end,
                *tf.nest.map_structure(tf.stop_gradient, (state, fixed)),
            )

            @tf.custom_gradient
            def pull_back(upstream: tf.Tensor, *_: tf.Tensor) -> Any:
                gradients = sweep_back(
                    *tf.nest.map_structure(
                        tf.stop_gradient, (fixed, count, record, upstream)
                    )
                )
                return gradients, _refuse_second_derivatives

            def gradient(upstream: tf.Tensor, *others: Any) -> Any:
                del others  # the statistics have none
                return pull_back(upstream, state, *flat)

            return (
                last.state,
                last.time,
                last.accepted,
                last.rejected,
                last.last_step,
            ), gradient

        last, time, accepted, rejected, last_step = advance(
            state, *flat_constants
        )
        arrived = (time >= end) & (end >= start)
        stuck = ~tf.reduce_all(arrived)
        with tf.control_dependencies(
            [refuse(stuck, self.name, self.max_num_steps)]
        ):
            last = nan_where(~arrived, last)
        accepted, rejected, last_step, arrived = (
            x[:, 0] for x in (accepted, rejected, last_step, arrived)
        )
        return last, StepStatistics(
            num_ode_fn_evaluations=2 + 6 * (accepted + rejected),
            accepted=accepted,
            rejected=rejected,
            last_step=last_step,
            status=tf.where(arrived, 0, -1),
        )

    def _run(
        self,
        ode_fn: OdeFn,
        start: tf.Tensor,
        end: tf.Tensor,
        state: tf.Tensor,
        constants: Mapping[str, Any],
    ) -> tuple[tf.Tensor, _Progress, tuple[tf.Tensor, ...]]:
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

        def body(index: Any, progress: Any, record: Any) -> Any:
            progress, kept = self._try_step(function, end, progress)
            record = tuple(
                array.write(index, value)
                for array, value in zip(record, kept, strict=True)
            )
            return index + 1, progress, record

        def running(index: Any, progress: Any, record: Any) -> Any:
            del record
            moves = progress.time + progress.size > progress.time
            # The record of no round, of an empty batch, has no known shape.
            return (index < 1) | tf.reduce_any((progress.time < end) & moves)

        count, progress, record = tf.while_loop(
            running,
            body,
            (
                tf.constant(0),
                progress,
                tuple(
                    tf.TensorArray(
                        state.dtype, self.max_num_steps, element_shape=x.shape
                    )
                    for x in (time, time, state)
                ),
            ),
            maximum_iterations=self.max_num_steps,
        )
        return count, progress, tuple(array.stack() for array in record)

    def _first_step(
        self,
        function: Any,
        time: tf.Tensor,
        end: tf.Tensor,
        state: tf.Tensor,
        slope: tf.Tensor,
    ) -> tf.Tensor:
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

    def _try_step(
        self, function: Any, end: tf.Tensor, progress: _Progress
    ) -> tuple[_Progress, tuple[tf.Tensor, ...]]:
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
        factor = _SAFETY * tf.pow(tf.maximum(ratio, 1e-10), -1 / _ORDER)
        factor = tf.clip_by_value(factor, _SMALLEST_FACTOR, _LARGEST_FACTOR)
        factor = tf.where(tf.math.is_finite(ratio), factor, _SMALLEST_FACTOR)
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

    def _sweep_back(
        self,
        ode_fn: OdeFn,
        constants: Mapping[str, Any],
        count: tf.Tensor,
        record: tuple[tf.Tensor, ...],
        upstream: tf.Tensor,
    ) -> list[tf.Tensor]:
        times, sizes, states = record

        def body(index: Any, upstream: tf.Tensor, sums: Any) -> Any:
            time, size, state = times[index], sizes[index], states[index]
            with tf.GradientTape() as tape:
                tape.watch((state, constants))
                function = functools.partial(ode_fn, **constants)
                slope = function(time, state)
                ahead, _ = advanced(function, time, size, state, slope)
            upstream, terms = tape.gradient(
                ahead,
                (state, constants),
                output_gradients=upstream,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            terms = tf.nest.flatten(terms)
            sums = [s + t for s, t in zip(sums, terms, strict=True)]
            return index - 1, upstream, sums

        zeros = [tf.zeros_like(c) for c in tf.nest.flatten(constants)]
        _, upstream, sums = tf.while_loop(
            lambda index, *_: index >= 0,
            body,
            (count - 1, upstream, zeros),
            maximum_iterations=self.max_num_steps,
        )
        return [upstream, *sums]


def _norm(values: tf.Tensor) -> tf.Tensor:
    """Root mean square of each row, of shape (batch, 1)."""
    return tf.sqrt(tf.reduce_mean(tf.square(values), axis=1, keepdims=True))


def _refuse_second_derivatives(*upstream: Any) -> Any:
    raise NotImplementedError(
        "`PerSampleDormandPrince` has first derivatives only. Use a fixed "
        "grid, or 'dormand_prince', for higher ones."
    )
