"""What all neural ODE layers with one vector field have in common."""

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from tensorflow_probability.python.math import ode

from stable_node_tf import activations, solvers
from stable_node_tf.checks import check_number, check_positive
from stable_node_tf.layers.certified_layer import CertifiedLayer, check_real


class StabilityReport(NamedTuple):
    """What is proven about the stability of a neural ODE layer.

    Attributes:
      delta_lower: attained value of δ, max μ2(DA) over alpha <= D_ii <= 1 for
        a `StableODELayer`.
      delta_upper: proven upper bound of it.
      delta_bar: the bound that the layer is constrained to, or None.
      lipschitz_bound: proven Lipschitz constant, 2-norm, of `holds_for`.
      holds_for: what `lipschitz_bound` is a bound of.
    """

    delta_lower: float
    delta_upper: float
    delta_bar: float | None
    lipschitz_bound: float
    holds_for: str


class ODELayer(
    CertifiedLayer,
    settings=(
        "alpha",
        "certificate",
        "certificate_proposal",
        "total_perturbation",
    ),
):
    """Maps u(0) to u(T) where u' = f(u), for an f made of kernels and σ.

    A subclass creates the weights in `build`; it has `delta_bounds`,
    `lipschitz_bound`, the field f as `_field`, and `_constants`, the weights by
    the names that the field gives them. The arguments are described there.
    """

    def __init__(
        self,
        activation: Any,
        delta_bar: float | None,
        terminal_time: float,
        solver: Any,
        kernel_initializer: Any,
        bias_initializer: Any,
        **kwargs: Any,
    ) -> None:
        activation = activations.get(activation)
        solver = solvers.get(solver)
        _refuse_arguments_of("solver", solver, _SOLVER_ARGUMENTS, kwargs)
        _refuse_arguments_of("activation", activation, ("alpha",), kwargs)
        super().__init__(**kwargs)
        self.activation = activation
        self.delta_bar = (
            None if delta_bar is None else check_number(delta_bar, "delta_bar")
        )
        self.terminal_time = check_positive(terminal_time, "terminal_time")
        self.solver = solver
        self.supports_jit = not isinstance(self.solver, ode.BDF)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.input_spec = keras.layers.InputSpec(ndim=2)

    @property
    def alpha(self) -> float:
        """Smallest slope of the activation."""
        return self.activation.alpha

    def _size_of(self, input_shape):
        """d, which the input is checked against from now on."""
        size = input_shape[-1]
        if size is None:
            raise ValueError(
                f"`{type(self).__name__}` needs the last dimension of its "
                f"input. Received: input_shape={input_shape}"
            )
        if self.delta_bar is not None and (
            self.variable_dtype not in ("float32", "float64")
        ):
            raise ValueError(
                "`dtype` must be 'float32', 'float64' or a mixed policy "
                "if `delta_bar` is given. "
                f"Received: dtype={self.variable_dtype!r}"
            )
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: size})
        return size

    def _add_state(self, name, shape=(), initializer="zeros"):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            dtype="float64",
            trainable=False,
            autocast=False,
        )

    def call(self, inputs):
        """Returns u(T) for u(0) = inputs, real, of shape (batch, d)."""
        return self._solve(check_real(inputs), self.terminal_time)

    def trajectory(self, inputs, times) -> tf.Tensor:
        """Returns u at several times, each reached by a solve of its own.

        Args:
          inputs: u(0), real, of shape (batch, d).
          times: numbers that are not negative, at least one.

        Returns:
          Tensor of shape (len(times), batch, d).

        Raises:
          TypeError: if a time is not a number.
          ValueError: if a time is negative or not finite or there is none, if
            `inputs` are not real or not (batch, d), or the layer has no weights
            yet.
        """
        times = check_times(times)
        inputs = tf.cast(self._state_from(inputs), self.compute_dtype)
        return tf.stack(
            [self._solve(inputs, time) if time else inputs for time in times]
        )

    def _solve(self, inputs, terminal_time):
        state = solvers.integrate(
            self.solver,
            self._field,
            tf.cast(inputs, self.variable_dtype),
            terminal_time,
            self._constants(),
        )
        return tf.cast(state, self.compute_dtype)

    def solver_statistics(self, inputs) -> solvers.StepStatistics:
        """Says what the step control did for each row of a batch.

        Args:
          inputs: u(0), finite, of shape (batch, d).

        Returns:
          `solvers.StepStatistics`, whose tensors have the shape (batch,).

        Raises:
          ValueError: if the solver is not `PerSampleDormandPrince`, if
            `inputs` are not real or not (batch, d), or the layer has no weights
            yet.
          tf.errors.InvalidArgumentError: if `inputs` are not finite.
        """
        if not isinstance(self.solver, solvers.PerSampleDormandPrince):
            raise ValueError(
                "`solver` must be PerSampleDormandPrince to have statistics of "
                f"each row. Received: solver={self.solver!r}"
            )
        inputs = tf.cast(self._state_from(inputs), self.variable_dtype)
        return self.solver.solve(
            self._field,
            0.0,
            tf.debugging.assert_all_finite(inputs, "`inputs` must be finite"),
            [self.terminal_time],
            constants=self._constants(),
        ).diagnostics

    def compute_output_shape(self, input_shape):
        """Returns the shape of the input."""
        return input_shape

    def stability(self, **kwargs) -> StabilityReport:
        """Bounds δ from below and above and says what follows from it.

        The Lipschitz bound is one of the discretized block where
        `lipschitz_bound` has one, and one of the exact flow elsewhere; it says
        which. float32 rounding of the forward pass is in neither.

        Args:
          **kwargs: of `delta_bounds`.

        Raises:
          ValueError: if the layer has no weights yet, or one is not finite.
        """
        lower, upper = self.delta_bounds(**kwargs)
        bound = self.lipschitz_bound(upper)
        return StabilityReport(
            lower,
            upper,
            self.delta_bar,
            bound.value,
            f"{bound.holds_for}, 2-norm, real arithmetic",
        )

    def _check_built(self):
        if not self.built:
            raise ValueError(
                f"Layer {self.name!r} has no weights yet. Call it, or its "
                "`build`, first."
            )

    def _state_from(self, inputs):
        self._check_built()
        return check_real(inputs, self.input_spec.axes[-1])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "activation": serialize(self.activation),
            "delta_bar": self.delta_bar,
            "terminal_time": self.terminal_time,
            "solver": solvers.serialize(self.solver),
            "kernel_initializer": serialize(self.kernel_initializer),
            "bias_initializer": serialize(self.bias_initializer),
        }


# Of the solvers that have names.
_SOLVER_ARGUMENTS = (
    "num_steps",
    "checkpointed",
    "rtol",
    "atol",
    "max_num_steps",
)


def _refuse_arguments_of(name, part, arguments, given):
    """Says where an argument belongs that is one of the solver, say."""
    for argument in arguments:
        if argument in given:
            cls, value = type(part).__name__, given[argument]
            if argument in inspect.signature(type(part).__init__).parameters:
                advice = f"give {name}={cls}({argument}={value!r})"
            else:
                advice = f"and {cls} has none"
            raise TypeError(
                f"`{argument}` is an argument of the {name}, not of the layer: "
                f"{advice}. Received: {argument}={value!r}"
            )


def check_times(times: Iterable[float]) -> list[float]:
    """Returns the times of a trajectory as Python floats.

    Raises:
      TypeError: if they are not a sequence of numbers.
      ValueError: if there is none, or one is negative or not finite.

    >>> check_times(range(3))
    [0.0, 1.0, 2.0]
    """
    if not isinstance(times, Iterable):
        raise TypeError(
            f"`times` must be a sequence of numbers. Received: times={times!r}"
        )
    numbers = [check_number(time, "times") for time in times]
    if not numbers or min(numbers) < 0.0:
        raise ValueError(
            "`times` must be numbers that are not negative, at least one. "
            f"Received: times={numbers}"
        )
    return numbers
