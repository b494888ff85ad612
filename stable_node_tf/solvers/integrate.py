"""`integrate`: the one call that a layer needs."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow_probability.python.math import ode

from stable_node_tf.solvers.adjoint import flow_of
from stable_node_tf.solvers.checked_field import (
    checked_field,
    is_self_contained,
)
from stable_node_tf.solvers.fields import LayerField
from stable_node_tf.solvers.fixed_grid import FixedGrid
from stable_node_tf.solvers.nan_where import nan_where
from stable_node_tf.solvers.reverse_sweep import solve_layer
from stable_node_tf.solvers.runge_kutta import computes_tableau
from stable_node_tf.solvers.serialization import get
from stable_node_tf.solvers.solver import OdeFn, in_dtype

_ROWS_MULTIPLE = 16


def integrate(
    solver: str | dict[str, Any] | ode.Solver,
    ode_fn: OdeFn,
    state: tf.Tensor,
    terminal_time: float | tf.Tensor = 1.0,
    constants: Mapping[str, Any] | None = None,
) -> tf.Tensor:
    """Returns u(terminal_time) where u' = ode_fn(t, u, **constants).

    States in float16 and bfloat16 are integrated in float32; the constants
    are cast to the dtype of the integration.

    *Gradients.* Fixed grids are differentiated through the grid (explicit ones
    with a `LayerField` by hand, which is faster, unless `terminal_time` is a
    tensor and may need a gradient itself), `PerSampleDormandPrince` through the
    steps it took, for `state` and `constants` only. TFP's solvers use the
    adjoint method, which sees the state, `constants` and variables but no other
    tensor that `ode_fn` closes over. It solves backwards in time: on stiff
    problems its gradients can be far off unless rtol is tight. Of higher
    derivatives, `PerSampleDormandPrince` and `BDF` have none and the adjoint
    method none in forward mode (`tf.autodiff.ForwardAccumulator`): these raise.
    Within a loop of your own (`tf.map_fn`) only fixed grids have them.

    *Rows.* On a fixed grid, and by `PerSampleDormandPrince`, no bit of the
    result for a row, or of its gradient, depends on the other rows. On their
    number it depends as far as the kernels within `ode_fn` do, since matrix
    products round differently in batches of another size: about 5e-7 on a fixed
    grid, up to the tolerances where a step control amplifies that.
    `PerSampleDormandPrince` therefore pads the batches of layers to whole
    blocks of 16 rows; a function traced for batches of unknown size then gave
    the same bits for all sizes that were tried. Traces for one size, and XLA,
    which compiles another program for each, still round in their own ways.
    `DormandPrince` chooses one step for the whole batch, so its rows depend on
    each other, within the tolerances. `BDF` is run row by row: independent, but
    slow, and slow to trace.

    *Failures.* TFP's solvers run with a step cap, of 1000 if they have none. If
    they or `PerSampleDormandPrince` fail, or if their input is not finite, an
    error says so. XLA has no errors: there the rows concerned are NaN (all of
    them for a failed `DormandPrince` solve or a constant that is not finite).

    Args:
      solver: a solver, or anything else that `get` understands.
      ode_fn: function of a scalar time (for `PerSampleDormandPrince`, one of
        shape (batch, 1)), a state of shape (batch, d) and the constants,
        returning the derivative, of shape (batch, d).
      state: u(0), floating, of shape (batch, d); batch may be unknown.
      terminal_time: positive scalar.
      constants: tensors passed to `ode_fn` by name.

    Returns:
      Tensor with the shape and dtype of `state`.

    Raises:
      TypeError: if `state` is not floating.
      ValueError: if `terminal_time` is not a positive and finite scalar, where
        this is known in advance, if `ode_fn` does not return the shape and
        dtype of the state, or if `BDF` meets a state with unknown d.
      NotImplementedError: for derivatives that do not exist, see above.
      tf.errors.InvalidArgumentError: as described above.

    >>> decay = lambda t, u, rate: -rate * u
    >>> u = integrate("rk4", decay, tf.ones((1, 2)), 1.0, {"rate": 2.0})
    >>> u.numpy().round(3)
    array([[0.135, 0.135]], dtype=float32)
    """
    solver = get(solver)
    state = tf.convert_to_tensor(state)
    if not state.dtype.is_floating:
        raise TypeError(
            f"`state` must be floating. Received: state of {state.dtype!r}"
        )
    dtype = tf.float32 if state.dtype.size == 2 else state.dtype
    given_time, terminal_time = terminal_time, in_dtype(terminal_time, dtype)
    if terminal_time.shape.rank not in (0, None):
        raise ValueError(
            "`terminal_time` must be a scalar. "
            f"Received: terminal_time of shape {terminal_time.shape}"
        )
    static_time = tf.get_static_value(terminal_time)
    if static_time is not None and not 0.0 < static_time < math.inf:
        raise ValueError(
            "`terminal_time` must be positive and finite. "
            f"Received: terminal_time={static_time}"
        )
    start = tf.cast(state, dtype)
    constants = tf.nest.map_structure(
        lambda c: in_dtype(c, dtype), dict(constants or {})
    )
    if (
        computes_tableau(solver)
        and isinstance(ode_fn, LayerField)
        and isinstance(given_time, numbers.Real)
    ):
        end = solve_layer(
            solver.tableau,
            ode_fn.activation,
            start,
            constants["kernel"],
            constants["bias"],
            float(given_time),
            solver.num_steps,
            solver.checkpointed,
        )
    elif isinstance(solver, FixedGrid):
        end = solver.solve(
            ode_fn,
            0.0,
            start,
            terminal_time[tf.newaxis],
            jacobian_fn=getattr(ode_fn, "jacobian", None),
            constants=constants,
        ).states[0]
    else:
        end = _solve_finite(solver, ode_fn, start, terminal_time, constants)
    return tf.ensure_shape(tf.cast(end, state.dtype), state.shape)


def _solve_to(solver, ode_fn, state, terminal_time, constants):
    if type(solver).solve is not ode.Solver.solve:
        count = tf.shape(state)[0]
        if is_self_contained(ode_fn):
            state = _whole_blocks(state)
        else:
            ode_fn = checked_field(ode_fn)
        times = terminal_time[tf.newaxis]
        results = solver.solve(ode_fn, 0.0, state, times, constants=constants)
        return results.states[0, :count]
    # The error of a step is a mean: over no rows it would be NaN for ever.
    nowhere = tf.constant(-1.0, state.dtype)
    end = tf.where(tf.size(state) > 0, terminal_time, nowhere)
    return flow_of(solver, ode_fn)(0.0, end, state, constants)


def _whole_blocks(state):
    """Appends copies of the first row up to a multiple of 16 rows.

    Kernels round differently in what is left over from whole registers, and
    a step control makes more of that.
    """
    missing = tf.math.floormod(-tf.shape(state)[0], _ROWS_MULTIPLE)
    return tf.concat([state, tf.tile(state[:1], [missing, 1])], axis=0)


def _solve_finite(solver, ode_fn, state, terminal_time, constants):
    """Solves with zeros where the input is not finite, and returns NaN there.

    NaN makes TFP's adaptive solvers run forever.
    """
    rows = tf.reduce_all(
        tf.math.is_finite(state), axis=range(1, state.shape.rank), keepdims=True
    )
    for constant in tf.nest.flatten(constants):
        rows &= tf.reduce_all(tf.math.is_finite(constant))
    message = (
        "`state` and `constants` must be finite for an adaptive solver. "
        "Received: NaN or infinity"
    )
    check = tf.debugging.Assert(tf.reduce_all(rows), [message])
    with tf.control_dependencies([check]):
        state = tf.where(rows, state, tf.zeros_like(state))
        constants = tf.nest.map_structure(
            lambda c: tf.where(tf.math.is_finite(c), c, tf.zeros_like(c)),
            constants,
        )
    solve = _solve_by_row if isinstance(solver, ode.BDF) else _solve_to
    end = solve(solver, ode_fn, state, terminal_time, constants)
    return nan_where(~rows, end)


def _solve_by_row(solver, ode_fn, state, terminal_time, constants):
    """Solves each row on its own: BDF needs the static size of its system."""
    if not state.shape[1:].is_fully_defined():
        raise ValueError(
            "BDF needs to know the width d of the state in advance. "
            f"Received: state of shape {state.shape}"
        )
    row_fn = _RowField(ode_fn)

    @tf.function(autograph=False)
    def solve_rows(state, constants):
        # Errors within `map_fn` would break eager gradients from then on.
        checked_field(ode_fn)(tf.zeros_like(terminal_time), state, **constants)

        def solve_row(row):
            return _solve_to(solver, row_fn, row, terminal_time, constants)

        return tf.map_fn(solve_row, state)

    arguments = tf.nest.map_structure(_once_differentiable, (state, constants))
    return solve_rows(*arguments)


@tf.custom_gradient
def _once_differentiable(tensor):
    """Returns `tensor`, whose gradients are refused one of their own.

    TensorFlow cannot differentiate a custom gradient in a loop twice.
    """

    @tf.custom_gradient
    def once(upstream):
        def refuse(upstream):
            raise NotImplementedError(
                "`BDF` has first derivatives only. Use 'dormand_prince' or a "
                "fixed grid, 'implicit_midpoint' for stiff problems, for "
                "higher ones."
            )

        return tf.identity(upstream), refuse

    return tf.identity(tensor), lambda upstream: once(upstream)


@dataclasses.dataclass(frozen=True)
class _RowField:
    """A field for one row, of shape (d,)."""

    field: OdeFn

    @property
    def self_contained(self) -> bool:
        return is_self_contained(self.field)

    def __call__(self, time, row, **constants):
        return self.field(time, row[tf.newaxis], **constants)[0]
