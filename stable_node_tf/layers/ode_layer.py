"""What all neural ODE layers with one vector field have in common."""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability.python.math import ode

from stable_node_tf import activations, solvers
from stable_node_tf.certification.forward_rounding import Computed, after_euler
from stable_node_tf.checks import check_matrix, check_number, check_positive
from stable_node_tf.layers.certified_layer import CertifiedLayer, check_real
from stable_node_tf.layers.solver_bounds import NORMS, LipschitzBound

_KERAS_ARGUMENTS = {
    *inspect.signature(keras.layers.Layer.__init__).parameters,
    "input_dim",
    "input_shape",
}


class StabilityReport(NamedTuple):
    """What is proven about the stability of a neural ODE layer.

    Attributes:
      delta_lower: attained value of δ, max μ2(DA) over alpha <= D_ii <= 1 for
        a `StableODELayer`, or of μ∞ in the ∞-norm.
      delta_upper: proven upper bound of it.
      delta_bar: the bound that the layer is constrained to, or None.
      lipschitz_bound: proven Lipschitz constant of `holds_for`.
      holds_for: what `lipschitz_bound` is a bound of, and in which norm.
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

    A subclass creates the weights in `build` and says what they are in
    `_kernels` and `_biases`; it has `delta_bounds`, `lipschitz_bound`, the
    field f as `_field`, and `_constants`, the weights by the names that the
    field gives them. Its own docstring describes the arguments.
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
        for argument in kwargs.keys() - _KERAS_ARGUMENTS:
            _refuse_argument(argument, kwargs, type(self), activation, solver)
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
          times: numbers >= 0, at least one.

        Returns:
          Tensor of shape (len(times), batch, d).
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

    def stability(self, **kwargs) -> StabilityReport:
        """Bounds δ from below and above and says what follows from it.

        The Lipschitz bound is that of `lipschitz_bound`, in real arithmetic:
        it says whether it holds for the layer as it runs or for the exact flow.

        Args:
          **kwargs: passed to `delta_bounds`.

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
            f"{bound.holds_for}, {NORMS[bound.norm]}, real arithmetic",
        )

    def assert_constraints(self) -> None:
        """Raises a ValueError unless δ <= δ̄ is proven for the weights as now.

        Keras applies constraints after optimizer steps only; weights that were
        set or loaded by hand may violate them. Does nothing without δ̄.
        """
        if self.delta_bar is None or self._is_certified(self.delta_bar):
            return
        damping = getattr(self, "damping", 0.0)
        lower, upper = self._constrained_bounds(self._kernel_values())
        if upper > self.delta_bar + damping:
            raise ValueError(
                f"The kernels of layer {self.name!r} must satisfy "
                f"δ <= delta_bar={self.delta_bar}. Received: kernels with δ in "
                f"[{lower - damping}, {upper - damping}]. Constraints act in "
                "optimizer steps only; after setting weights by hand, call "
                "`constraints.apply_constraints(layer.weights)`."
            )

    def _euclidean_bound(self) -> LipschitzBound:
        """`lipschitz_bound` in the 2-norm, the norm of certification."""
        return self.lipschitz_bound()

    def _is_certified(self, delta_bar: float) -> bool:
        bound = delta_bar + getattr(self, "damping", 0.0)
        return self._constrained_upper(self._kernel_values()) <= bound

    def _assign_nearest(self, source: "ODELayer") -> None:
        """Takes the weights of another layer, kernels moved if they must be."""
        for mine, other in (
            *zip(self._kernels, source._kernels, strict=True),
            *zip(self._biases, source._biases, strict=True),
        ):
            mine.assign(other)
        if self.delta_bar is None:
            return
        if source.delta_bar is not None:
            self._set_certificate(getattr(source, "certificate", None))
        if source.delta_bar is not None and self._is_certified(self.delta_bar):
            return
        kernels, certificate = self._nearest(source)
        for mine, kernel in zip(self._kernels, kernels, strict=True):
            mine.assign(kernel)
        self._set_certificate(certificate)

    def _set_certificate(self, certificate):
        if certificate is None:  # in the ∞-norm
            return
        self.certificate.assign(certificate)
        if hasattr(self, "certificate_proposal"):
            self.certificate_proposal.assign(certificate)

    def _kernel_values(self) -> list[np.ndarray]:
        """The kernels, float64; refuses NaN and infinity by name."""
        self._check_built()
        return [
            check_matrix(
                keras.ops.convert_to_numpy(kernel).astype(np.float64),
                f"{kernel.name} of layer {self.name!r}",
                square=False,
            )
            for kernel in self._kernels
        ]

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


def drawn_together(draw: Callable[[], Sequence[Any]], count: int) -> list[Any]:
    """Initializers of several weights that `draw` returns all at once.

    Keras may ask for initial values only once all variables exist.
    """
    drawn = functools.cache(draw)
    return [lambda *_, i=i, **__: drawn()[i] for i in range(count)]


def _solved_lipschitz(layer: ODELayer) -> float:
    bound = layer._euclidean_bound()
    if bound.step is None:
        raise ValueError(
            "No Lipschitz constant is known for what the solver of layer "
            f"{layer.name!r} computes. Expected: explicit Euler or Runge-Kutta "
            f"on a fixed grid. Received: a bound for {bound.holds_for}"
        )
    return bound.value


def _after_solve(
    layer: Any, state: Computed, unit: float, shape: tuple[int, ...]
) -> Computed | None:
    """The state after a solve by explicit Euler; None for other solvers."""
    del shape
    if type(layer.solver) is not solvers.Euler or not layer.activation.proven:
        return None
    kernels = layer._kernel_values()
    biases = [
        keras.ops.convert_to_numpy(bias).astype(np.float64)
        for bias in layer._biases
    ]
    damping = getattr(layer, "damping", 0.0)
    steps = layer.solver.num_steps
    size = layer.terminal_time / steps
    # |u_k| for the solution from the origin.
    origin = np.zeros((1, len(biases[-1])))
    norms = [0.0]
    for _ in range(steps):
        value = origin
        for kernel, bias in zip(kernels, biases, strict=True):
            value = layer.activation(tf.constant(value @ kernel.T + bias))
            value = value.numpy()
        origin = origin + size * (value - damping * origin)
        norms.append(float(np.linalg.norm(origin)))
    step = layer._euclidean_bound().step
    return after_euler(state, kernels, biases, damping, size, step, norms, unit)


# The rule of certification of layers that solve one equation.
BY_SOLVER: dict[str, Any] = {
    "lipschitz": _solved_lipschitz,
    "rounding": _after_solve,
}


def _refuse_argument(argument, given, layer_type, activation, solver):
    """Says where an argument belongs that the layer does not have."""
    received = f"{argument}={given[argument]!r}"
    for name, part in (("solver", solver), ("activation", activation)):
        cls = type(part)
        if argument in inspect.signature(cls.__init__).parameters:
            raise TypeError(
                f"`{argument}` is an argument of the {name}, not of the layer: "
                f"give {name}={cls.__name__}({received}). Received: {received}"
            )
    raise TypeError(
        f"`{argument}` is not an argument of {layer_type.__name__}, nor of its "
        f"solver {type(solver).__name__} or its activation "
        f"{type(activation).__name__}. Received: {received}"
    )


def check_times(times: Iterable[float]) -> list[float]:
    """Returns the times of a trajectory as Python floats >= 0, at least one.

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
