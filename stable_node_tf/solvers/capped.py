"""TFP's adaptive solvers with a cap on their steps and finite results."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow_probability.python.math import ode

from stable_node_tf.solvers.dormand_prince_step import (
    advanced,
    estimated_error,
    step_factor,
)
from stable_node_tf.solvers.nan_where import nan_where
from stable_node_tf.solvers.solver import BY_NAME

MAX_NUM_STEPS = 1000
_ARGUMENTS = {"rtol": 1e-5, "atol": 1e-6, "max_num_steps": MAX_NUM_STEPS}

BY_NAME["dormand_prince"] = functools.partial(
    ode.DormandPrince, first_step_size=0.1, **_ARGUMENTS
)
BY_NAME["bdf"] = functools.partial(
    ode.BDF,
    first_step_size=1e-3,
    make_adjoint_solver_fn=BY_NAME["dormand_prince"],
    **_ARGUMENTS,
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

        def running(count, time, size, state, slope):
            moves = time + size > time  # false for NaN
            return (time < end) & moves & (count < self._max_num_steps)

        def body(count, time, size, state, slope):
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
                size * step_factor(ratio, self.ORDER + 1, *factors),
                tf.where(accept, ahead, state),
                tf.where(accept, last, slope),
            )

        size, *factors = (
            tf.cast(x, state.dtype)
            for x in (
                self._first_step_size,
                self._safety_factor,
                self._min_step_size_factor,
                self._max_step_size_factor,
            )
        )
        first = (tf.constant(0), start, size, state, ode_fn(start, state))
        _, time, _, last, _ = tf.while_loop(running, body, first)
        stuck = ~(time >= end)
        check = refuse(stuck, self.name, self._max_num_steps)
        with tf.control_dependencies([check]):
            return nan_where(stuck, last)

    def _error_ratio(self, error, state, ahead):
        """TFP's: the root mean square of squares, over the whole batch."""
        larger = tf.maximum(tf.abs(state), tf.abs(ahead))
        rtol, atol = (tf.cast(x, state.dtype) for x in (self._rtol, self._atol))
        scaled = tf.square(error / (atol + rtol * larger))
        return tf.sqrt(tf.reduce_mean(tf.square(scaled)))


class _CappedBDF(ode.BDF):
    """TFP's solver, which returns NaN where it would return a partial solve."""

    def _solve(self, *args: Any, **kwargs: Any) -> Any:
        results = super()._solve(*args, **kwargs)
        stuck = results.diagnostics.status < 0
        check = refuse(stuck, self.name, self._max_num_steps)
        with tf.control_dependencies([check]):
            return results._replace(states=nan_where(stuck, results.states))


CAPPED = {ode.DormandPrince: _CappedDormandPrince, ode.BDF: _CappedBDF}


def refuse(stuck: tf.Tensor, name: str, max_num_steps: Any) -> Any:
    """Asserts that an adaptive solver is not stuck, or says what to do."""
    message = (
        f"{name} did not reach the next solution time in max_num_steps="
        f"{max_num_steps} steps, or its step size underflowed or became NaN. "
        "Raise max_num_steps, loosen rtol and atol, use a fixed grid ('euler' "
        "or 'rk4'), or 'bdf' if the problem is stiff."
    )
    return tf.debugging.Assert(~stuck, [message])


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
    return {
        name: getattr(solver, f"_{name}")
        for name in inspect.signature(type(solver)).parameters
        if name != "make_adjoint_solver_fn"
    }
