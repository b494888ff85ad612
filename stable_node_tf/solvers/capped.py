"""TFP's adaptive solvers with a cap on their steps and finite results."""

import functools
import inspect
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability.python.math import ode

MAX_NUM_STEPS = 1000
_ADVICE = (
    "Raise max_num_steps, loosen rtol and atol, use a fixed grid ('euler' or "
    "'rk4'), or 'bdf' if the problem is stiff."
)


class _CappedDormandPrince(ode.DormandPrince):
    """TFP's solver, which ends with NaN and status -1 if it cannot go on.

    TFP's own step cap is an assertion; compiled by XLA, which drops
    assertions, the loop would run forever.
    """

    def _step(
        self,
        solver_state: Any,
        diagnostics: Any,
        max_ode_fn_evals: tf.Tensor,
        **arguments: Any,
    ) -> tuple[Any, Any]:
        state, diagnostics = super()._step(
            solver_state,
            diagnostics,
            max_ode_fn_evals=tf.int32.max,
            **arguments,
        )
        stuck = (
            (diagnostics.num_ode_fn_evaluations > max_ode_fn_evals)
            | ~tf.math.is_finite(state.step_size)
            | (state.current_time + state.step_size <= state.current_time)
        )
        with tf.control_dependencies(
            [refuse(stuck, self.name, self._max_num_steps)]
        ):
            time = state.current_time
            time = tf.where(stuck, tf.constant(np.inf, time.dtype), time)
        poison = functools.partial(_poison, stuck)
        return state._replace(
            current_time=time,
            current_state=poison(state.current_state),
            interpolating_coefficients=poison(state.interpolating_coefficients),
        ), diagnostics._replace(status=tf.where(stuck, -1, diagnostics.status))


class _CappedBDF(ode.BDF):
    """TFP's solver, which returns NaN where it would return a partial solve."""

    def _solve(self, *args: Any, **kwargs: Any) -> Any:
        results = super()._solve(*args, **kwargs)
        stuck = results.diagnostics.status < 0
        with tf.control_dependencies(
            [refuse(stuck, self.name, self._max_num_steps)]
        ):
            return results._replace(states=_poison(stuck, results.states))


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


def _poison(stuck: tf.Tensor, values: Any) -> Any:
    return tf.nest.map_structure(
        lambda u: tf.where(stuck, tf.constant(np.nan, u.dtype), u), values
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
