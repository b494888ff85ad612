"""TFP's adaptive solvers with a cap on their steps and finite results."""

import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow_probability.python.math import ode

from stable_node_tf.solvers.dormand_prince_step import (
    advanced,
    estimated_error,
)
from stable_node_tf.solvers.failed_rows import nan_where

MAX_NUM_STEPS = 1000
_ADVICE = (
    "Raise max_num_steps, loosen rtol and atol, use a fixed grid ('euler' or "
    "'rk4'), or 'bdf' if the problem is stiff."
)


class _CappedDormandPrince(ode.DormandPrince):
    """TFP's solver, which returns NaN if it cannot go on.

    TFP's own step cap is an assertion; compiled by XLA, which drops
    assertions, the loop would run forever. Also, the last step ends at the
    last time, where TFP's oversteps it and interpolates; that takes a third of
    the operations to be traced.
    """

    def advance(
        self,
        ode_fn: Callable[..., Any],
        start: tf.Tensor,
        end: tf.Tensor,
        state: tf.Tensor,
    ) -> tf.Tensor:
        """Returns the state at time `end` without derivatives of its own."""

        def running(count: Any, time: Any, size: Any, *_: Any) -> Any:
            moves = time + size > time  # false for NaN
            return (time < end) & moves & (count < self._max_num_steps)

        def body(
            count: Any, time: Any, size: Any, state: Any, slope: Any
        ) -> Any:
            size = tf.minimum(size, end - time)
            ahead, slopes = advanced(ode_fn, time, size, state, slope)
            last = ode_fn(time + size, ahead)
            ratio = self._error_ratio(
                estimated_error(size, slopes, last), state, ahead
            )
            accept = ratio <= 1.0
            arrives = accept & (time + size >= end)
            moved = tf.where(arrives, end, tf.where(accept, time + size, time))
            return (
                count + 1,
                moved,
                size * self._factor(ratio),
                tf.where(accept, ahead, state),
                tf.where(accept, last, slope),
            )

        size = tf.cast(self._first_step_size, state.dtype)
        first = (tf.constant(0), start, size, state, ode_fn(start, state))
        _, time, _, last, _ = tf.while_loop(running, body, first)
        stuck = ~(time >= end)
        with tf.control_dependencies(
            [refuse(stuck, self.name, self._max_num_steps)]
        ):
            return nan_where(stuck, last)

    def _error_ratio(
        self, error: tf.Tensor, state: tf.Tensor, ahead: tf.Tensor
    ) -> tf.Tensor:
        """TFP's: the root mean square of squares, over the whole batch."""
        larger = tf.maximum(tf.abs(state), tf.abs(ahead))
        rtol, atol = (tf.cast(x, state.dtype) for x in (self._rtol, self._atol))
        scaled = tf.square(error / (atol + rtol * larger))
        return tf.sqrt(tf.reduce_mean(tf.square(scaled)))

    def _factor(self, ratio: tf.Tensor) -> tf.Tensor:
        """What TFP multiplies the size of the next step by."""
        safety, smallest, largest = (
            tf.cast(x, ratio.dtype)
            for x in (
                self._safety_factor,
                self._min_step_size_factor,
                self._max_step_size_factor,
            )
        )
        positive = tf.maximum(ratio, 1e-30)
        factor = safety * tf.pow(positive, -1 / (self.ORDER + 1))
        factor = tf.clip_by_value(factor, smallest, largest)
        return tf.where(tf.math.is_finite(ratio), factor, smallest)


class _CappedBDF(ode.BDF):
    """TFP's solver, which returns NaN where it would return a partial solve."""

    def _solve(self, *args: Any, **kwargs: Any) -> Any:
        results = super()._solve(*args, **kwargs)
        stuck = results.diagnostics.status < 0
        with tf.control_dependencies(
            [refuse(stuck, self.name, self._max_num_steps)]
        ):
            return results._replace(states=nan_where(stuck, results.states))


CAPPED = {ode.DormandPrince: _CappedDormandPrince, ode.BDF: _CappedBDF}


def refuse(stuck: tf.Tensor, name: str, max_num_steps: Any) -> Any:
    """Asserts that an adaptive solver is not stuck, or says what to do."""
    return tf.debugging.Assert(
        ~stuck,
        [
            (
                f"{name} did not reach the next solution time in "
                f"max_num_steps={max_num_steps} steps, or its step size "
                f"underflowed or became NaN. {_ADVICE}"
            )
        ],
    )


def capped(solver: ode.Solver) -> ode.Solver:
    """Returns the capped twin of one of TFP's solvers, others unchanged."""
    if type(solver) not in CAPPED:
        return solver
    arguments = arguments_of(solver)
    if arguments["max_num_steps"] is None:
        arguments["max_num_steps"] = MAX_NUM_STEPS
    adjoint = solver._make_adjoint_solver_fn()
    if adjoint is not solver:
        arguments["make_adjoint_solver_fn"] = lambda: capped(adjoint)
    return CAPPED[type(solver)](**arguments)


def arguments_of(solver: ode.Solver) -> dict[str, Any]:
    """Returns what a TFP solver was constructed with, bar its adjoint."""
    parameters = inspect.signature(type(solver).__init__).parameters
    return {
        name: getattr(solver, f"_{name}")
        for name in parameters
        if name not in ("self", "make_adjoint_solver_fn")
    }
