"""StableODELayer: a neural ODE as a Keras layer, with a bound on its flow."""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability.python.math import ode

from stable_node_tf import activations, solvers
from stable_node_tf.constraints import LogNormConstraint
from stable_node_tf.solver_bounds import LipschitzBound, solver_lipschitz
from stable_node_tf.stability.checks import check_number
from stable_node_tf.stability.clipping import clip_log_norm
from stable_node_tf.stability.log_norm import (
    certified_log_norm,
    euler_log_norm,
    worst_case_log_norm,
)
from stable_node_tf.stability.nearest import nearest_stable


class StabilityReport(NamedTuple):
    """What is proven about the stability of a `StableODELayer`.

    Attributes:
      delta_lower: attained value of max μ2(DA), alpha <= D_ii <= 1.
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


@keras.saving.register_keras_serializable(package="stable_node_tf")
class StableODELayer(keras.layers.Layer):
    """Maps u(0) to u(T) where u'(t) = σ(A u(t) + b).

    Input and output have shape (batch, d). The kernel is A itself: for rows,
    u' = σ(u Aᵀ + b). The flow has Lipschitz constant at most exp(δT), 2-norm,
    with δ = max μ2(DA) over diagonal D with slopes of σ on the diagonal
    (arXiv 2501.10740). With a `delta_bar` the kernel starts with δ <= δ̄ and a
    `LogNormConstraint` keeps it there in training.

    Under mixed precision the variables, the solve and the constraint stay in
    float32; only the output has the compute dtype.

    Args:
      activation: σ, a name of `stable_node_tf.activations`, an activation with
        slope bounds, or its config; its `alpha` is the smallest slope.
      delta_bar: δ̄, any finite number, or None to leave A free.
      terminal_time: T, positive.
      solver: a name of `stable_node_tf.solvers.get` ("euler", "rk4",
        "dormand_prince" ...), a `tfp.math.ode.Solver`, or its config.
      kernel_initializer: Keras initialiser of A, before it is made feasible.
      bias_initializer: Keras initialiser of b.
      discrete: whether δ̄ bounds δ_h >= δ, h being the step of explicit Euler,
        see `euler_log_norm`. exp(δ̄T) then bounds the block as it runs too.
      **kwargs: of `keras.layers.Layer`, `name` and `dtype` for example.

    Raises:
      TypeError: if `delta_bar` or `terminal_time` is not a real number.
      ValueError: if `delta_bar` is not finite, `terminal_time` not positive,
        the activation or the solver unknown, the input not (batch, d), or
        `discrete` set for a solver other than Euler.

    >>> layer = StableODELayer(delta_bar=0.1, solver="rk4")
    >>> layer(np.ones((2, 3), "float32")).shape
    TensorShape([2, 3])
    >>> layer.stability().delta_upper <= 0.1
    True
    """

    def __init__(
        self,
        activation="smooth_leaky_relu",
        delta_bar: float | None = None,
        terminal_time: float = 1.0,
        solver="euler",
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        discrete: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.activation = activations.get(activation)
        self.delta_bar = (
            None if delta_bar is None else check_number(delta_bar, "delta_bar")
        )
        self.terminal_time = check_number(terminal_time, "terminal_time")
        if self.terminal_time <= 0.0:
            raise ValueError(
                "`terminal_time` must be positive. "
                f"Received: terminal_time={terminal_time}"
            )
        self._field = solvers.LayerField(self.activation)
        self.solver = solvers.get(solver)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.discrete = bool(discrete)
        if self.discrete and not isinstance(self.solver, solvers.Euler):
            raise ValueError(
                "`discrete` needs the solver to be explicit Euler. "
                f"Received: solver={solver!r}"
            )
        self.input_spec = keras.layers.InputSpec(ndim=2)
        self.supports_jit = not isinstance(self.solver, ode.BDF)

    @property
    def alpha(self) -> float:
        """Smallest slope of the activation."""
        return self.activation.alpha

    def build(self, input_shape) -> None:
        """Creates A, b and, with a `delta_bar`, the certificate weights."""
        size = input_shape[-1]
        if size is None:
            raise ValueError(
                "`StableODELayer` needs the last dimension of its input. "
                f"Received: input_shape={input_shape}"
            )
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: size})
        if self.delta_bar is None:
            constraint, initializer = None, self.kernel_initializer
        else:
            if self.variable_dtype not in ("float32", "float64"):
                raise ValueError(
                    "`dtype` must be 'float32', 'float64' or a mixed policy "
                    "if `delta_bar` is given. "
                    f"Received: dtype={self.variable_dtype!r}"
                )
            constraint = LogNormConstraint(
                self.delta_bar, self.alpha, self._constrained_step()
            )
            start = _FeasibleStart(self.kernel_initializer, constraint)
            initializer = start.kernel
        self.kernel = self.add_weight(
            name="kernel",
            shape=(size, size),
            initializer=initializer,
            constraint=constraint,
            autocast=False,
        )
        self.bias = self.add_weight(
            name="bias",
            shape=(size,),
            initializer=self.bias_initializer,
            autocast=False,
        )
        if constraint is not None:
            # Attributes, all: TensorFlow's checkpoints see nothing else.
            self.certificate, self.certificate_proposal = (
                self._add_state(name, (size,), start.certificate)
                for name in ("certificate", "certificate_proposal")
            )
            self.total_perturbation = self._add_state("total_perturbation")
            constraint.attach(
                self.certificate,
                self.certificate_proposal,
                self.total_perturbation,
            )

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
        """Returns u(T) for u(0) = inputs, of the same shape (batch, d)."""
        return self._solve(inputs, self.terminal_time)

    def trajectory(self, inputs, times) -> tf.Tensor:
        """Returns u at several times, each reached by a solve of its own.

        Args:
          inputs: u(0), of shape (batch, d).
          times: numbers that are not negative.

        Returns:
          Tensor of shape (len(times), batch, d).

        Raises:
          ValueError: if a time is negative or not finite, or the layer has no
            weights yet.
        """
        self._check_built()
        times = [check_number(time, "times") for time in times]
        if min(times, default=0.0) < 0.0:
            raise ValueError(
                f"`times` must not be negative. Received: times={times}"
            )
        inputs = tf.cast(inputs, self.compute_dtype)
        return tf.stack(
            [self._solve(inputs, time) if time else inputs for time in times]
        )

    def solver_statistics(self, inputs) -> solvers.StepStatistics:
        """Says what the step control did for each row of a batch.

        Args:
          inputs: u(0), finite, of shape (batch, d).

        Returns:
          `solvers.StepStatistics`, whose tensors have the shape (batch,).

        Raises:
          ValueError: if the solver is not `PerSampleDormandPrince`.
        """
        if not isinstance(self.solver, solvers.PerSampleDormandPrince):
            raise ValueError(
                "`solver` must be PerSampleDormandPrince to have statistics of "
                f"each row. Received: solver={self.solver!r}"
            )
        self._check_built()
        return self.solver.solve(
            self._field,
            0.0,
            tf.cast(inputs, self.variable_dtype),
            [self.terminal_time],
            constants=self._constants(),
        ).diagnostics

    def _constants(self):
        return {
            "kernel": tf.convert_to_tensor(self.kernel),
            "bias": tf.convert_to_tensor(self.bias),
        }

    def _solve(self, inputs, terminal_time):
        state = tf.cast(inputs, self.variable_dtype)
        state = solvers.integrate(
            self.solver,
            self._field,
            state,
            terminal_time,
            self._constants(),
        )
        return tf.cast(state, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """Returns the shape of the input."""
        return input_shape

    def stability(self, **kwargs) -> StabilityReport:
        """Bounds δ from below and above and says what follows from it.

        The Lipschitz bound is one of the discretised block where
        `solver_lipschitz` has one, and one of the exact flow elsewhere; it says
        which. float32 rounding of the forward pass is in neither.

        Args:
          **kwargs: of `worst_case_log_norm`, `exact=True` for example.

        Raises:
          ValueError: if the layer has no weights yet, or A is not finite.
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

    def delta_bounds(self, **kwargs) -> tuple[float, float]:
        """Bounds δ from below and above, for less than `stability` costs.

        Args:
          **kwargs: of `worst_case_log_norm`, `exact=True` for example.

        Raises:
          ValueError: if the layer has no weights yet, or A is not finite.
        """
        kernel = self._kernel_value()
        lower, upper, *_ = worst_case_log_norm(kernel, self.alpha, **kwargs)
        if self.delta_bar is not None:
            upper = min(upper, self._certified_upper(kernel))
        return lower, upper

    def lipschitz_bound(self, delta: float | None = None) -> LipschitzBound:
        """Bounds the Lipschitz constant of the layer in real arithmetic.

        Args:
          delta: an upper bound of δ(A), if one is known already.

        Raises:
          ValueError: if the layer has no weights yet, or A is not finite.
        """
        kernel, step = self._kernel_value(), self._constrained_step()
        if delta is None and self.delta_bar is not None:
            delta = self._certified_upper(kernel)
        if delta is None:
            delta = worst_case_log_norm(kernel, self.alpha, starts=1).upper
        step_log_norm = None
        if self.delta_bar is not None and step > 0.0:
            known = self._certified_upper(kernel, step)
            if known <= self.delta_bar:  # else there may be a better one
                step_log_norm = known
        return solver_lipschitz(
            self.solver,
            kernel,
            self.alpha,
            self.terminal_time,
            delta,
            step_log_norm,
        )

    def assert_constraints(self) -> None:
        """Raises unless δ(A) <= δ̄ is proven for A as it is now.

        Keras applies constraints after optimiser steps only; weights that were
        set or loaded by hand may violate them. Does nothing without δ̄.

        Raises:
          ValueError: with the bounds of δ, if the bound does not hold; if the
            layer has no weights yet, or A is not finite.
        """
        if self.delta_bar is None:
            return
        kernel, step = self._kernel_value(), self._constrained_step()
        if self._certified_upper(kernel, step) <= self.delta_bar:
            return
        if step > 0.0:
            lower, upper = -np.inf, euler_log_norm(kernel, self.alpha, step)[0]
        else:
            lower, upper, *_ = worst_case_log_norm(kernel, self.alpha)
        if upper > self.delta_bar:
            raise ValueError(
                f"The kernel of layer {self.name!r} must satisfy "
                f"δ <= delta_bar={self.delta_bar}. Received: a kernel with δ "
                f"in [{lower}, {upper}]. Constraints act in "
                "optimiser steps only; after setting weights by hand, call "
                "`layer.kernel.assign(layer.kernel.constraint(layer.kernel))`."
            )

    def _check_built(self):
        if not self.built:
            raise ValueError(
                f"Layer {self.name!r} has no weights yet. Call it, or its "
                "`build`, first."
            )

    def _kernel_value(self):
        self._check_built()
        return keras.ops.convert_to_numpy(self.kernel).astype(np.float64)

    def _constrained_step(self):
        """The step size that δ̄ is a bound for; 0 stands for the flow."""
        if self.delta_bar is None or not self.discrete:
            return 0.0
        return self.terminal_time / self.solver.num_steps

    def _certified_upper(self, kernel, step=0.0):
        certificate = keras.ops.convert_to_numpy(self.certificate)
        return certified_log_norm(kernel, self.alpha, certificate, step)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialised."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "activation": serialize(self.activation),
            "delta_bar": self.delta_bar,
            "terminal_time": self.terminal_time,
            "solver": solvers.serialize(self.solver),
            "kernel_initializer": serialize(self.kernel_initializer),
            "bias_initializer": serialize(self.bias_initializer),
            "discrete": self.discrete,
        }


class _FeasibleStart:
    """Initialisers of A and T: what was drawn, moved to the nearest certified.

    Callables, because Keras may defer them until the variables exist.
    """

    def __init__(self, initializer, constraint):
        self._initializer = initializer
        self._constraint = constraint

    def kernel(self, shape, dtype=None):
        constraint = self._constraint
        delta_bar, alpha = constraint.delta_bar, constraint.alpha
        step = constraint.step
        with tf.init_scope():
            drawn = keras.ops.convert_to_numpy(
                self._initializer(shape, dtype="float32")
            )
            nearest = nearest_stable(drawn, delta_bar, alpha)
            matrix, found = nearest.matrix, nearest.certificate
            if step > 0.0:
                _, found = euler_log_norm(matrix, alpha, step)
            clipped = clip_log_norm(
                tf.constant(matrix, dtype),
                tf.constant(found),
                delta_bar,
                alpha,
                step,
            )
            self._certificate = clipped.certificate.numpy()
        return clipped.matrix

    def certificate(self, shape, dtype=None):
        return tf.reshape(tf.constant(self._certificate, dtype), shape)
