"""What the solvers of this package share: names, settings and `solve`."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from tensorflow_probability.python.math import ode

from stable_node_tf.named_classes import register
from stable_node_tf.read_only_settings import ReadOnlySettings

OdeFn = Callable[..., Any]

BY_NAME: dict[str, Callable[[], ode.Solver]] = {}
"""Name -> what makes the solver that `get` returns for it."""


class Solver(ReadOnlySettings, ode.Solver, settings=("name",)):
    """Solves u' = f(t, u) from each solution time to the next.

    A subclass takes a state from one time to another in `_advance`, and makes
    the `diagnostics` of all intervals in `_diagnostics`. `get` knows it by the
    class attribute `name` if it declares one.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(cls, BY_NAME)

    def __init__(self) -> None:
        super().__init__(
            make_adjoint_solver_fn=None,
            validate_args=False,
            name=type(self).__name__,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        arguments = inspect.signature(type(self)).parameters
        return {name: getattr(self, name) for name in arguments}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Solver":
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
          ode_fn: function of a time, a state and the constants that returns
            the derivative, with the structure of the state.
          initial_time: scalar.
          initial_state: floating or complex tensor of any shape, or a nest of
            them. `ImplicitMidpoint` and `PerSampleDormandPrince` take only
            tensors (batch, d); the latter passes times (batch, 1) to `ode_fn`.
          solution_times: vector of known length; increasing from
            `initial_time` on for `PerSampleDormandPrince`.
          jacobian_fn: function of what `ode_fn` takes that returns the
            derivative of each row, (batch, d, d); for `ImplicitMidpoint`.
          jacobian_sparsity: not used.
          batch_ndims: not used.
          previous_solver_internal_state: not used.
          constants: tensors passed to `ode_fn` by name.

        Returns:
          `tfp.math.ode.Results`, with `states` of shape (times,) + state;
          `diagnostics` are `StepStatistics` for `PerSampleDormandPrince`.

        Raises:
          TypeError: if `initial_state` is not floating.
          ValueError: if the state, the times, or what `ode_fn` returns are not
            as described above.
          tf.errors.InvalidArgumentError: if an adaptive or implicit solver
            fails; XLA has no errors, and the rows concerned are NaN.
        """
        del jacobian_sparsity, batch_ndims, previous_solver_internal_state
        state = self._state_from(initial_state)
        dtype = tf.nest.flatten(state)[0].dtype.real_dtype
        start = in_dtype(initial_time, dtype)
        if isinstance(solution_times, ode.ChosenBySolver):
            raise ValueError(
                f"`solution_times` of {type(self).__name__} must be numbers. "
                "Received: ChosenBySolver"
            )
        times = in_dtype(solution_times, dtype)
        if times.shape.rank != 1 or not times.shape[0]:
            raise ValueError(
                "`solution_times` must be a vector of known length, at least "
                f"1. Received: solution_times of shape {times.shape}"
            )
        self._check_times(start, times)
        states, parts = [], []
        for end in tf.unstack(times):
            state, part = self._advance(
                ode_fn, jacobian_fn, start, end, state, dict(constants or {})
            )
            states.append(state)
            parts.append(part)
            start = end
        return ode.Results(
            times=times,
            states=tf.nest.map_structure(lambda *u: tf.stack(u), *states),
            diagnostics=self._diagnostics(parts),
            solver_internal_state=(),
        )

    def _state_from(self, initial_state):
        """Returns tensors that this solver can start from, or refuses."""
        state = tf.nest.map_structure(tf.convert_to_tensor, initial_state)
        for part in tf.nest.flatten(state):
            if not (part.dtype.is_floating or part.dtype.is_complex):
                raise TypeError(
                    "`initial_state` must be floating. "
                    f"Received: initial_state of {part.dtype!r}"
                )
        return state

    def _check_times(self, start, times):
        """Refuses times that this solver cannot reach."""

    def _advance(self, ode_fn, jacobian_fn, start, end, state, constants):
        """Returns the state at time `end`, and what the way there has cost."""
        raise NotImplementedError

    def _diagnostics(self, parts):
        """Sums up what the ways through all intervals have cost."""
        raise NotImplementedError

    def _solve(self, *args: Any, **kwargs: Any) -> Any:
        return self.solve(*args, **kwargs)

    def _initialize_solver_internal_state(self, *args: Any) -> tuple[()]:
        return ()


def in_dtype(value: Any, dtype: tf.DType) -> tf.Tensor:
    """Casts; Python numbers without a detour through float32."""
    return tf.cast(tf.convert_to_tensor(value, dtype_hint=dtype), dtype)
