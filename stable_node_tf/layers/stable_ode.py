"""StableODELayer: a neural ODE as a Keras layer, with a bound on its flow."""

import logging
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf import solvers
from stable_node_tf.certification.rules import register_rule
from stable_node_tf.checks import check_norm
from stable_node_tf.constraints.log_norm import LogNormConstraint
from stable_node_tf.layers.ode_boxes import solved_box
from stable_node_tf.layers.ode_layer import (
    BY_SOLVER,
    ODELayer,
    drawn_together,
)
from stable_node_tf.layers.solver_bounds import (
    LipschitzBound,
    inf_solver_lipschitz,
    remembered,
    solver_lipschitz,
)
from stable_node_tf.stability.clipping.log_norm import clip_log_norm
from stable_node_tf.stability.inf_log_norm import inf_euler_log_norm
from stable_node_tf.stability.log_norm import (
    certified_log_norm,
    euler_log_norm,
    worst_case_log_norm,
)
from stable_node_tf.stability.projection.nearest import (
    nearby_stable,
    nearest_stable,
)

# Kernels of this size take several seconds to move inside a bound.
_LARGE = 768


@keras.saving.register_keras_serializable(package="stable_node_tf")
class StableODELayer(ODELayer, settings=("kernel", "bias")):
    """Maps u(0) to u(T) where u'(t) = σ(A u(t) + b).

    Input and output have shape (batch, d). The kernel is A itself: for rows,
    u' = σ(u Aᵀ + b). The flow has Lipschitz constant at most exp(δT), 2-norm,
    with δ = max μ2(DA) over diagonal D with slopes of σ on the diagonal
    (arXiv 2501.10740). With a `delta_bar` the kernel starts with δ <= δ̄ and a
    `LogNormConstraint` keeps it there in training. With norm="inf" all this
    holds for the ∞-norm, that of FGSM, with μ∞ for μ2.

    Under mixed precision the variables, the solve and the constraint stay in
    float32; only the output has the compute dtype.

    Args:
      activation: σ, a name of `stable_node_tf.activations`, an activation with
        slope bounds, or its config; its `alpha` is the smallest slope.
      delta_bar: δ̄, any finite number, or None to leave A free.
      terminal_time: T, positive.
      solver: a name of `stable_node_tf.solvers.get` ("euler", "rk4",
        "dormand_prince" ...), a `tfp.math.ode.Solver`, or its config.
      kernel_initializer: draws A, which is then moved inside the bound.
      bias_initializer: draws b.
      discrete: whether δ̄ bounds δ_h >= δ, with h the step of explicit Euler,
        see `euler_log_norm`. exp(δ̄T) then bounds the block as it runs too.
      norm: that of δ and of the reports, "2" or "inf". Certified ℓ2 radii of a
        model rest on bounds in the 2-norm all the same.
      **kwargs: those of `keras.layers.Layer`, `name` and `dtype` for example.

    All are read-only afterwards; `CertifiedLayer` says how to change one.

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
        norm: str | float = "2",
        **kwargs,
    ) -> None:
        super().__init__(
            activation,
            delta_bar,
            terminal_time,
            solver,
            kernel_initializer,
            bias_initializer,
            **kwargs,
        )
        self.discrete = bool(discrete)
        self.norm = check_norm(norm)
        # A subclass may take other steps.
        if self.discrete and type(self.solver) is not solvers.Euler:
            raise ValueError(
                "`discrete` needs the solver to be explicit Euler, and of no "
                f"subclass. Received: solver={solver!r}"
            )

    @property
    def _kernels(self):
        return (self.kernel,)

    @property
    def _biases(self):
        return (self.bias,)

    @property
    def _field(self):
        return solvers.LayerField(self.activation)

    def build(self, input_shape) -> None:
        """Creates A, b and, with a `delta_bar`, the certificate weights."""
        size = self._size_of(input_shape)
        constraint, initializer = None, self.kernel_initializer
        if self.delta_bar is not None:
            constraint = LogNormConstraint(
                self.delta_bar,
                self.alpha,
                self._constrained_step(),
                self.norm,
            )
            initializer, start = drawn_together(
                lambda: self._start(size, constraint), 2
            )
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
            if self.norm == "2":
                self.certificate, self.certificate_proposal = (
                    self._add_state(name, (size,), start)
                    for name in ("certificate", "certificate_proposal")
                )
            self.total_perturbation = self._add_state("total_perturbation")
            constraint.attach(
                getattr(self, "certificate", None),
                getattr(self, "certificate_proposal", None),
                self.total_perturbation,
            )

    def _start(self, size, constraint):
        """What the initializer draws, moved inside the bound, and its T."""
        delta_bar = constraint.delta_bar
        if size >= _LARGE and self.norm == "2":
            logging.getLogger(__name__).warning(
                "Moving the initial kernel inside delta_bar=%g: at %d x %d "
                "entries this takes a while.",
                *(delta_bar, size, size),
            )
        with tf.init_scope():
            drawn = keras.ops.convert_to_numpy(
                self.kernel_initializer((size, size), dtype="float32")
            )
            if self.norm == "inf":
                return constraint(tf.constant(drawn, self.variable_dtype)), None
            near, found = nearby_stable(drawn, delta_bar, self.alpha)
            start = _clipped(near, found, self.variable_dtype, constraint)
            return start.matrix, start.certificate.numpy()

    def _constants(self):
        return {
            "kernel": tf.convert_to_tensor(self.kernel),
            "bias": tf.convert_to_tensor(self.bias),
        }

    def _nearest(self, source):
        """The nearest certified matrix, up to rounding, with its T.

        For a step of Euler, the nearest matrix of the flow is clipped.
        """
        constraint = self.kernel.constraint
        if self.norm == "inf":
            kernel = tf.cast(source.kernel, self.kernel.dtype)
            inside = self._certified_upper(
                source._kernel_value(), constraint.step
            )
            if inside > self.delta_bar:
                kernel = constraint(kernel)
            return [kernel], None
        nearest = nearest_stable(
            source._kernel_value(), constraint.delta_bar, self.alpha
        )
        matrix, certificate = nearest.matrix, nearest.certificate
        if constraint.step > 0.0:
            _, certificate = euler_log_norm(matrix, self.alpha, constraint.step)
        near = _clipped(matrix, certificate, self.kernel.dtype, constraint)
        return [near.matrix], near.certificate

    def delta_bounds(self, **kwargs) -> tuple[float, float]:
        """Bounds δ from below and above, for less than `stability` costs.

        Args:
          **kwargs: passed to `worst_case_log_norm`, `exact=True` for example.
        """
        kernel = self._kernel_value()
        lower, upper, *_ = worst_case_log_norm(
            kernel, self.alpha, norm=self.norm, **kwargs
        )
        if self.delta_bar is not None:
            upper = min(upper, self._certified_upper(kernel))
        return lower, upper

    def lipschitz_bound(
        self, delta: float | None = None, norm: str | float | None = None
    ) -> LipschitzBound:
        """Bounds the Lipschitz constant of the layer in real arithmetic.

        Args:
          delta: an upper bound of δ(A) in that norm, if one is known already.
          norm: "2" or "inf"; by default that of the layer.

        Raises:
          ValueError: if the layer has no weights yet, A is not finite, or a
            method of the layer, its activation or its solver was replaced.
        """
        self._check_computes(self.activation, self.solver)
        kernel, step = self._kernel_value(), self._constrained_step()
        norm = self.norm if norm is None else check_norm(norm)
        if norm == "inf":
            if delta is None:
                delta = worst_case_log_norm(kernel, self.alpha, norm=norm).upper
            return inf_solver_lipschitz(
                self.solver, kernel, self.alpha, self.terminal_time, delta
            )
        constrained = self.delta_bar is not None and self.norm == "2"
        if delta is None and constrained:
            delta = self._certified_upper(kernel)
        if delta is None:
            delta = _log_norm([kernel], self.alpha)
        step_log_norm = None
        if constrained and step > 0.0:
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

    def _euclidean_bound(self):
        return self.lipschitz_bound(norm="2")

    def _constrained_upper(self, kernels):
        return self._certified_upper(kernels[0], self._constrained_step())

    def _constrained_bounds(self, kernels):
        step = self._constrained_step()
        if self.norm == "inf":
            return inf_euler_log_norm(kernels[0], self.alpha, step)
        if step > 0.0:
            return -np.inf, euler_log_norm(kernels[0], self.alpha, step)[0]
        return worst_case_log_norm(kernels[0], self.alpha)[:2]

    def _kernel_value(self):
        [kernel] = self._kernel_values()
        return kernel

    def _constrained_step(self):
        """The step size that δ̄ is a bound for; 0 stands for the flow."""
        if self.delta_bar is None or not self.discrete:
            return 0.0
        return self.terminal_time / self.solver.num_steps

    def _certified_upper(self, kernel, step=0.0):
        """A proven bound of δ, or of δ_h, for next to no work."""
        if self.norm == "inf":
            return inf_euler_log_norm(kernel, self.alpha, step)[1]
        certificate = keras.ops.convert_to_numpy(self.certificate)
        return certified_log_norm(kernel, self.alpha, certificate, step)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        return {
            **super().get_config(),
            "discrete": self.discrete,
            "norm": self.norm,
        }


@remembered
def _log_norm(kernels, alpha):
    return worst_case_log_norm(kernels[0], alpha, starts=1).upper


def _clipped(matrix, certificate, dtype, constraint):
    """The matrix in its dtype, moved inside what T certifies."""
    return clip_log_norm(
        tf.constant(matrix, dtype),
        tf.constant(certificate),
        constraint.delta_bar,
        constraint.alpha,
        constraint.step,
    )


register_rule(StableODELayer, **BY_SOLVER, box=solved_box)
