"""Solvers of u' = f(t, u): fixed grids, and TFP's adaptive ones made safe.

Everything here is a `tfp.math.ode.Solver`. `Euler` and `RungeKutta4` are
explicit Runge-Kutta schemes on a fixed grid, differentiated through the grid;
`get` makes them, and TFP's `DormandPrince` and `BDF` with a step cap, from a
name. `integrate` is the one call that a layer needs.
"""

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability.python.math import ode

OdeFn = Callable[..., Any]

_PACKAGE = "stable_node_tf"
_MAX_NUM_STEPS = 1000
# Up to this many stages the loop over the steps is unrolled: that runs up to a
# quarter faster than `tf.while_loop`, forward and backward, but traces and
# compiles about five times longer.
_MAX_UNROLLED_STAGES = 100
_ADVICE = (
    "Raise max_num_steps, loosen rtol and atol, use a fixed grid ('euler' or "
    "'rk4'), or 'bdf' if the problem is stiff."
)


class ButcherTableau(NamedTuple):
    """An explicit Runge-Kutta scheme with s stages.

    Stage i is k_i = f(t + h c_i, u + h sum_{j<i} a_ij k_j), and the step is
    u + h sum_i b_i k_i. Notation of Hairer, Norsett, Wanner, Solving Ordinary
    Differential Equations I, 2nd ed., section II.1.

    Attributes:
      nodes: c, of length s.
      coefficients: the strictly lower triangle of a, row i of length i.
      weights: b, of length s.
    """

    nodes: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


# Euler, Institutionum calculi integralis I (1768), section 650.
EULER = ButcherTableau((0.0,), ((),), (1.0,))

# Kutta, Z. Math. Phys. 46 (1901) 435-453.
RUNGE_KUTTA_4 = ButcherTableau(
    nodes=(0.0, 1 / 2, 1 / 2, 1.0),
    coefficients=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    weights=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
)


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


class _FixedGrid(ode.Solver):
    """An explicit Runge-Kutta scheme with `num_steps` equal steps."""

    tableau: ClassVar[ButcherTableau]

    def __init__(self, num_steps: int = 20) -> None:
        self.num_steps = _check_count(num_steps, "num_steps")
        super().__init__(
            make_adjoint_solver_fn=None,
            validate_args=False,
            name=type(self).__name__.lower(),
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {"num_steps": self.num_steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "_FixedGrid":
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

        Each interval between neighbouring solution times (the first one from
        `initial_time`) is cut into `num_steps` equal steps. Gradients are
        those of the grid, with respect to the state, to `constants`, to the
        times and to whatever `ode_fn` closes over.

        Args:
          ode_fn: function of a scalar time, a state and the constants that
            returns the derivative, with the structure of the state.
          initial_time: scalar.
          initial_state: real tensor of any shape, or a nest of them.
          solution_times: vector of a length known in advance, or
            `ChosenBySolver(final_time)` for the states at all `num_steps + 1`
            points of the grid, the first included.
          jacobian_fn: not needed by an explicit scheme.
          jacobian_sparsity: not needed by an explicit scheme.
          batch_ndims: not needed: every entry of the state takes the steps.
          previous_solver_internal_state: a grid has none to take over.
          constants: tensors passed to `ode_fn` by name.

        Returns:
          `tfp.math.ode.Results`, with `states` of shape (times,) + state.

        Raises:
          ValueError: if `solution_times` is not a vector of known length, or
            `ode_fn` does not return the shape of the state.
        """
        del jacobian_fn, jacobian_sparsity, batch_ndims
        return self._solve(
            functools.partial(ode_fn, **(constants or {})),
            initial_time,
            initial_state,
            solution_times,
            previous_solver_internal_state=previous_solver_internal_state,
        )

    def _solve(
        self,
        ode_fn: OdeFn,
        initial_time: Any,
        initial_state: Any,
        solution_times: Any,
        jacobian_fn: Any = None,
        jacobian_sparsity: Any = None,
        batch_ndims: int | None = None,
        previous_solver_internal_state: Any = None,
    ) -> Any:
        del jacobian_fn, jacobian_sparsity, batch_ndims
        state = tf.nest.map_structure(tf.convert_to_tensor, initial_state)
        dtype = tf.nest.flatten(state)[0].dtype.real_dtype
        start = tf.cast(initial_time, dtype)
        states = []
        if isinstance(solution_times, ode.ChosenBySolver):
            span = tf.cast(solution_times.final_time, dtype) - start
            fractions = np.arange(self.num_steps + 1) / self.num_steps
            times = start + span * tf.constant(fractions, dtype)
            states.append(state)
            ends, num_steps = tf.unstack(times)[1:], 1
        else:
            times = tf.cast(solution_times, dtype)
            if times.shape.rank != 1 or times.shape[0] is None:
                raise ValueError(
                    "`solution_times` must be a vector of known length. "
                    f"Received: solution_times of shape {times.shape}"
                )
            ends, num_steps = tf.unstack(times), self.num_steps
        for end in ends:
            state = self._advance(ode_fn, start, end, state, num_steps)
            states.append(state)
            start = end
        num_stages = len(self.tableau.weights)
        return ode.Results(
            times=times,
            states=tf.nest.map_structure(lambda *u: tf.stack(u), *states),
            diagnostics=_Diagnostics(
                num_ode_fn_evaluations=tf.constant(
                    len(ends) * num_steps * num_stages
                ),
                num_jacobian_evaluations=tf.constant(0),
                num_matrix_factorizations=tf.constant(0),
                status=tf.constant(0),
            ),
            solver_internal_state=(),
        )

    def _initialize_solver_internal_state(
        self, ode_fn: OdeFn, initial_time: Any, initial_state: Any
    ) -> tuple[()]:
        del ode_fn, initial_time, initial_state
        return ()

    def _advance(
        self,
        ode_fn: OdeFn,
        start: tf.Tensor,
        end: tf.Tensor,
        state: Any,
        num_steps: int,
    ) -> Any:
        """Takes `num_steps` equal steps from `start` to `end`."""
        tableau = self.tableau
        size = (end - start) / num_steps
        rows = [
            [size * a if a else None for a in row]
            for row in (*tableau.coefficients, tableau.weights)
        ]

        def step(index: Any, state: Any) -> Any:
            time = start + tf.cast(index, size.dtype) * size
            slopes: list[Any] = []
            for node, row in zip(tableau.nodes, rows, strict=False):
                slopes.append(
                    ode_fn(time + node * size, _combine(state, row, slopes))
                )
            return _combine(state, rows[-1], slopes)

        if num_steps * len(tableau.weights) <= _MAX_UNROLLED_STAGES:
            for index in range(num_steps):
                state = step(index, state)
            return state
        return tf.while_loop(
            lambda index, _: index < num_steps,
            lambda index, state: (index + 1, step(index, state)),
            (tf.constant(0), state),
            maximum_iterations=num_steps,
        )[1]


def _combine(state: Any, row: list[Any], slopes: list[Any]) -> Any:
    """Returns state + sum_j row_j slopes_j, skipping the zeros of `row`."""
    terms = [(h, k) for h, k in zip(row, slopes, strict=True) if h is not None]

    def combine(u: tf.Tensor, *ks: tf.Tensor) -> tf.Tensor:
        total = u
        for (h, _), k in zip(terms, ks, strict=True):
            k = tf.convert_to_tensor(k)
            if not k.shape.is_compatible_with(u.shape):
                raise ValueError(
                    "`ode_fn` must return the shape of the state. Received: "
                    f"shape {k.shape} for a state of shape {u.shape}"
                )
            total = total + tf.cast(h, u.dtype) * k
        return total

    return tf.nest.map_structure(combine, state, *(k for _, k in terms))


@keras.saving.register_keras_serializable(package=_PACKAGE)
class Euler(_FixedGrid):
    """The explicit Euler method, order 1, on a fixed grid.

    See `solve` for shapes and gradients.

    Args:
      num_steps: steps per interval between solution times, at least 1.

    Raises:
      TypeError: if `num_steps` is not an integer.
      ValueError: if it is below 1.

    >>> decay = lambda t, u: -u
    >>> results = Euler(num_steps=2).solve(decay, 0.0, tf.ones(1), [1.0])
    >>> results.states.numpy().tolist()
    [[0.25]]
    """

    tableau = EULER


@keras.saving.register_keras_serializable(package=_PACKAGE)
class RungeKutta4(_FixedGrid):
    """The classical Runge-Kutta method, order 4, on a fixed grid.

    See `solve` for shapes and gradients.

    Args:
      num_steps: steps per interval between solution times, at least 1.

    Raises:
      TypeError: if `num_steps` is not an integer.
      ValueError: if it is below 1.

    >>> decay = lambda t, u: -u
    >>> solver = RungeKutta4(num_steps=1)
    >>> results = solver.solve(decay, 0.0, tf.ones(1), [1.0])
    >>> results.states.numpy().round(4).tolist()
    [[0.375]]
    """

    tableau = RUNGE_KUTTA_4


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
        with tf.control_dependencies([_refuse(stuck, self)]):
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
        with tf.control_dependencies([_refuse(stuck, self)]):
            return results._replace(states=_poison(stuck, results.states))


_CAPPED = {ode.DormandPrince: _CappedDormandPrince, ode.BDF: _CappedBDF}


def _refuse(stuck: tf.Tensor, solver: ode.Solver) -> Any:
    return tf.debugging.Assert(
        ~stuck,
        [
            (
                f"{solver.name} did not reach the next solution time in "
                f"max_num_steps={solver._max_num_steps} steps, or its step "
                f"size underflowed or became NaN. {_ADVICE}"
            )
        ],
    )


def _poison(stuck: tf.Tensor, values: Any) -> Any:
    return tf.nest.map_structure(
        lambda u: tf.where(stuck, tf.constant(np.nan, u.dtype), u), values
    )


def _capped(solver: ode.Solver) -> ode.Solver:
    """Returns the capped twin of one of TFP's solvers, others unchanged."""
    if type(solver) not in _CAPPED:
        return solver
    arguments = _arguments(solver)
    if arguments["max_num_steps"] is None:
        arguments["max_num_steps"] = _MAX_NUM_STEPS
    adjoint = solver._make_adjoint_solver_fn()
    if adjoint is not solver:
        arguments["make_adjoint_solver_fn"] = lambda: _capped(adjoint)
    return _CAPPED[type(solver)](**arguments)


def integrate(
    solver: ode.Solver,
    ode_fn: OdeFn,
    state: tf.Tensor,
    terminal_time: float | tf.Tensor = 1.0,
    constants: Mapping[str, Any] | None = None,
) -> tf.Tensor:
    """Returns u(terminal_time) where u' = ode_fn(t, u, **constants).

    States in float16 and bfloat16 are integrated in float32; the constants
    are cast to the dtype of the integration.

    Fixed grids are differentiated through the grid, TFP's solvers by the
    adjoint method, which sees the state and `constants` and nothing else that
    `ode_fn` closes over, and which solves backwards in time: on stiff problems
    its gradients can be far off unless rtol is tight.

    On a fixed grid no bit of the result for a row depends on the other rows;
    on their number only as far as the kernels within `ode_fn` do, since matrix
    products round differently in batches of another size (about 5e-7).
    `DormandPrince` chooses one step for the whole batch, so there it does,
    within the tolerances. `BDF` is run row by row: independent, but slow.

    TFP's solvers run with a step cap, of 1000 if they have none. If they fail
    or the input is not finite, an error says so, eagerly and in graphs;
    compiled by XLA, which has no errors, the rows concerned are NaN (all of
    them for a failed `DormandPrince` solve or a constant that is not finite).

    Args:
      solver: a solver, or anything else that `get` understands.
      ode_fn: function of a scalar time, a state of shape (batch, d) and the
        constants, returning the derivative, of shape (batch, d).
      state: u(0), floating, of shape (batch, d); batch may be unknown.
      terminal_time: positive scalar.
      constants: tensors passed to `ode_fn` by name.

    Returns:
      Tensor with the shape and dtype of `state`.

    Raises:
      TypeError: if `state` is not floating.
      ValueError: if `terminal_time` is not positive and finite, where this is
        known in advance, or if `BDF` meets a state with unknown d.
      tf.errors.InvalidArgumentError: as described above.

    >>> decay = lambda t, u, rate: -rate * u
    >>> u = integrate(get("rk4"), decay, tf.ones((1, 2)), 1.0, {"rate": 2.0})
    >>> np.allclose(u, np.exp(-2.0), rtol=1e-4)
    True
    """
    solver = _capped(get(solver))
    state = tf.convert_to_tensor(state)
    if not state.dtype.is_floating:
        raise TypeError(
            f"`state` must be floating. Received: state of {state.dtype!r}"
        )
    dtype = tf.float32 if state.dtype.size == 2 else state.dtype
    terminal_time = tf.cast(terminal_time, dtype)
    static_time = tf.get_static_value(terminal_time)
    if static_time is not None and not 0.0 < static_time < math.inf:
        raise ValueError(
            "`terminal_time` must be positive and finite. "
            f"Received: terminal_time={static_time}"
        )
    start = tf.cast(state, dtype)
    constants = tf.nest.map_structure(
        lambda c: tf.cast(c, dtype), dict(constants or {})
    )
    if isinstance(solver, _FixedGrid):
        end = _solve_to(solver, ode_fn, start, terminal_time, constants)
    else:
        end = _solve_finite(solver, ode_fn, start, terminal_time, constants)
    return tf.ensure_shape(tf.cast(end, state.dtype), state.shape)


def _solve_to(
    solver: ode.Solver,
    ode_fn: OdeFn,
    state: tf.Tensor,
    terminal_time: tf.Tensor,
    constants: Mapping[str, Any],
) -> tf.Tensor:
    return solver.solve(
        ode_fn, 0.0, state, terminal_time[tf.newaxis], constants=constants
    ).states[0]


def _solve_finite(
    solver: ode.Solver,
    ode_fn: OdeFn,
    state: tf.Tensor,
    terminal_time: tf.Tensor,
    constants: Mapping[str, Any],
) -> tf.Tensor:
    """Solves with zeros where the input is not finite, and returns NaN there.

    NaN makes TFP's adaptive solvers run forever.
    """
    rows = tf.reduce_all(
        tf.math.is_finite(state), axis=range(1, state.shape.rank), keepdims=True
    )
    for constant in tf.nest.flatten(constants):
        rows &= tf.reduce_all(tf.math.is_finite(constant))
    check = tf.debugging.Assert(
        tf.reduce_all(rows),
        [
            (
                "`state` and `constants` must be finite for an adaptive "
                "solver. Received: NaN or infinity"
            )
        ],
    )
    with tf.control_dependencies([check]):
        state = tf.where(rows, state, tf.zeros_like(state))
        constants = tf.nest.map_structure(
            lambda c: tf.where(tf.math.is_finite(c), c, tf.zeros_like(c)),
            constants,
        )
    solve = _solve_by_row if isinstance(solver, ode.BDF) else _solve_to
    end = solve(solver, ode_fn, state, terminal_time, constants)
    return tf.where(rows, end, tf.constant(np.nan, end.dtype))


def _solve_by_row(
    solver: ode.Solver,
    ode_fn: OdeFn,
    state: tf.Tensor,
    terminal_time: tf.Tensor,
    constants: Mapping[str, Any],
) -> tf.Tensor:
    """Solves each row on its own: BDF needs the static size of its system."""
    if not state.shape[1:].is_fully_defined():
        raise ValueError(
            "BDF needs to know the width d of the state in advance. "
            f"Received: state of shape {state.shape}"
        )

    def row_fn(time: tf.Tensor, row: tf.Tensor, **constants: Any) -> tf.Tensor:
        return ode_fn(time, row[tf.newaxis], **constants)[0]

    @tf.function(autograph=False)
    def solve_rows(state: tf.Tensor, constants: Mapping[str, Any]) -> tf.Tensor:
        return tf.map_fn(
            lambda row: _solve_to(
                solver, row_fn, row, terminal_time, constants
            ),
            state,
        )

    return solve_rows(state, constants)


_BY_NAME: dict[str, Callable[[], ode.Solver]] = {
    "euler": Euler,
    "rk4": RungeKutta4,
    "dormand_prince": functools.partial(
        ode.DormandPrince,
        rtol=1e-5,
        atol=1e-6,
        first_step_size=0.1,
        max_num_steps=_MAX_NUM_STEPS,
    ),
    "bdf": functools.partial(
        ode.BDF,
        rtol=1e-5,
        atol=1e-6,
        first_step_size=1e-3,
        max_num_steps=_MAX_NUM_STEPS,
        make_adjoint_solver_fn=lambda: get("dormand_prince"),
    ),
}


def get(identifier: str | dict[str, Any] | ode.Solver) -> ode.Solver:
    """Returns the solver that `identifier` stands for.

    Args:
      identifier: "euler" or "rk4" (20 steps), "dormand_prince" or "bdf"
        (rtol 1e-5, atol 1e-6, at most 1000 steps; BDF's gradients by
        Dormand-Prince), a `tfp.math.ode.Solver`, which passes through, or
        what `serialize` returned.

    Raises:
      ValueError: if the name, or the class in the dictionary, is not known.
      TypeError: if it is anything else.

    >>> get("euler").num_steps
    20
    """
    solver: Any = identifier
    if isinstance(identifier, str):
        if identifier not in _BY_NAME:
            raise ValueError(
                f"`solver` must be one of {', '.join(map(repr, _BY_NAME))}, "
                f"or a solver object. Received: solver={identifier!r}"
            )
        return _BY_NAME[identifier]()
    if isinstance(identifier, dict):
        name = identifier.get("class_name")
        if name in _TFP_CLASSES:
            return _build(_TFP_CLASSES[name], identifier["config"])
        solver = keras.saving.deserialize_keras_object(identifier)
    if not isinstance(solver, ode.Solver):
        raise TypeError(
            f"`solver` must be one of {', '.join(map(repr, _BY_NAME))}, a "
            "tfp.math.ode.Solver, or what `serialize` made of one. "
            f"Received: solver={identifier!r}"
        )
    return solver


_TFP_CLASSES = {f"tfp.math.ode.{cls.__name__}": cls for cls in _CAPPED}


def serialize(solver: ode.Solver) -> dict[str, Any]:
    """Returns a dictionary that fits JSON and from which `get` rebuilds it.

    TFP's `DormandPrince` and `BDF` are described by their constructor
    arguments, an adjoint solver of their own included; all others by Keras.

    Args:
      solver: `Euler`, `RungeKutta4`, TFP's `DormandPrince` or `BDF`, or a
        solver whose class has `get_config` and is registered with
        `keras.saving.register_keras_serializable`.

    Raises:
      TypeError: if `solver` is not a solver.
      ValueError: if its class is not registered, or if an argument of one of
        TFP's solvers is not a Python number, for instance a tensor.

    >>> serialize(Euler(num_steps=5))["config"]
    {'num_steps': 5}
    """
    if not isinstance(solver, ode.Solver):
        raise TypeError(
            f"`solver` must be a tfp.math.ode.Solver. Received: {solver!r}"
        )
    cls = type(solver)
    if cls in _CAPPED:
        arguments = _arguments(solver)
        config = {k: _plain(k, v) for k, v in arguments.items()}
        adjoint = solver._make_adjoint_solver_fn()
        if adjoint is not solver:
            config["adjoint_solver"] = serialize(adjoint)
        return {"class_name": f"tfp.math.ode.{cls.__name__}", "config": config}
    registered = keras.saving.get_registered_object(
        keras.saving.get_registered_name(cls)
    )
    if registered is not cls or not hasattr(cls, "get_config"):
        raise ValueError(
            "To be saved, a solver class needs `get_config` and "
            "`@keras.saving.register_keras_serializable(package=...)`. "
            f"Received: solver={solver!r}"
        )
    return keras.saving.serialize_keras_object(solver)


def _arguments(solver: ode.Solver) -> dict[str, Any]:
    """Returns what a TFP solver was constructed with, bar its adjoint."""
    parameters = inspect.signature(type(solver).__init__).parameters
    return {
        name: getattr(solver, f"_{name}")
        for name in parameters
        if name not in ("self", "make_adjoint_solver_fn")
    }


def _build(cls: type[ode.Solver], config: Mapping[str, Any]) -> ode.Solver:
    arguments = dict(config)
    adjoint = arguments.pop("adjoint_solver", None)
    if adjoint is not None:
        arguments["make_adjoint_solver_fn"] = lambda: get(adjoint)
    return cls(**arguments)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(name, entry) for entry in value]
    raise ValueError(
        "To be saved, a solver must be constructed from Python numbers. "
        f"Received: {name}={value!r}"
    )


def _check_count(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"`{name}` must be an integer. Received: {name}={value!r}"
        )
    if value < 1:
        raise ValueError(
            f"`{name}` must be at least 1. Received: {name}={value}"
        )
    return int(value)
