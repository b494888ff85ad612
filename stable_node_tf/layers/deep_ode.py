"""DeepODELayer: a neural ODE whose vector field has several layers."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.certification.rules import register_rule
from stable_node_tf.checks import check_count, check_not_negative
from stable_node_tf.constraints.product_log_norm import ProductLogNormConstraint
from stable_node_tf.layers.ode_layer import (
    BY_SOLVER,
    ODELayer,
    drawn_together,
)
from stable_node_tf.layers.solver_bounds import (
    LipschitzBound,
    field_lipschitz,
    remembered,
)
from stable_node_tf.solvers.fields import DeepField
from stable_node_tf.stability import lipschitz
from stable_node_tf.stability.clipping.product_scaling import scale_into_bound
from stable_node_tf.stability.product_log_norm import (
    certified_product_log_norm,
    product_log_norm,
)


@keras.saving.register_keras_serializable(package="stable_node_tf")
class DeepODELayer(ODELayer, settings=("kernels", "biases")):
    """Maps u(0) to u(T) where u' = σ(A_k σ(⋯ σ(A_1 u + b_1) ⋯) + b_k) - cu.

    Input and output have shape (batch, d). The flow has Lipschitz constant at
    most exp(δT), 2-norm, with δ = max μ2(D_k A_k ⋯ D_1 A_1) - c over diagonal
    D_i with slopes of σ on the diagonal (Guglielmi, De Marinis, Savostianov,
    Tudisco, arXiv 2402.13092, for c = 0). With a `delta_bar` the kernels start
    with δ <= δ̄, and a `ProductLogNormConstraint` keeps them there in training
    by scaling them. Scaling alone makes no product contract, so δ̄ + c must be
    positive: for δ̄ <= 0, add damping c. The constraint is that of A_k: with A_k
    frozen and others not, nothing keeps δ <= δ̄.

    Variables, solve and constraint stay in float32 under mixed precision.
    Gradients of fixed grids are taken through the grid.

    Args:
      widths: m_1, ..., m_(k-1), the sizes of the inner layers, at least one.
      activation: σ, see `StableODELayer`.
      delta_bar: δ̄, any number above -damping, or None to leave A_i free.
      damping: c >= 0.
      terminal_time: T, positive.
      solver: see `StableODELayer`.
      kernel_initializer: draws the A_i, which are then scaled.
      bias_initializer: draws the b_i.
      **kwargs: those of `keras.layers.Layer`, `name` and `dtype` for example.

    All are read-only afterwards; `CertifiedLayer` says how to change one.

    >>> layer = DeepODELayer(widths=(5,), delta_bar=0.0, damping=1.0)
    >>> layer(np.ones((2, 3), "float32")).shape
    TensorShape([2, 3])
    >>> layer.stability().delta_upper <= 0.0
    True
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation="smooth_leaky_relu",
        delta_bar: float | None = None,
        damping: float = 0.0,
        terminal_time: float = 1.0,
        solver="euler",
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
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
        if not isinstance(widths, Iterable):
            raise TypeError(
                "`widths` must be a sequence of integers. "
                f"Received: widths={widths!r}"
            )
        self.widths = tuple(check_count(width, "widths") for width in widths)
        if not self.widths:
            raise ValueError(
                "`widths` must name at least one inner layer; StableODELayer "
                f"has none. Received: widths={widths!r}"
            )
        self.damping = check_not_negative(damping, "damping")
        if self.delta_bar is not None and self.delta_bar + self.damping <= 0.0:
            raise ValueError(
                "`delta_bar` must be above -damping: kernels are scaled, "
                "which makes none contract. Raise `damping`. Received: "
                f"delta_bar={delta_bar}, damping={damping}"
            )

    @property
    def _kernels(self):
        return self.kernels

    @property
    def _biases(self):
        return self.biases

    @property
    def _field(self):
        return DeepField(self.activation, self.damping)

    def build(self, input_shape) -> None:
        """Creates A_i, b_i and, with a `delta_bar`, the certificate."""
        size = self._size_of(input_shape)
        constraint = None
        if self.delta_bar is not None:
            constraint = ProductLogNormConstraint(
                self.delta_bar + self.damping, self.alpha
            )
        heights = (*self.widths, size)
        shapes = list(zip(heights, (size, *self.widths), strict=True))

        *initializers, theta = drawn_together(
            lambda: self._start(shapes, constraint), len(shapes) + 1
        )
        self.kernels = tuple(
            self.add_weight(
                name=f"kernel_{index + 1}",
                shape=shape,
                initializer=initializers[index],
                constraint=constraint if shape is shapes[-1] else None,
                autocast=False,
            )
            for index, shape in enumerate(shapes)
        )
        self.biases = tuple(
            self.add_weight(
                name=f"bias_{index + 1}",
                shape=shape[:1],
                initializer=self.bias_initializer,
                autocast=False,
            )
            for index, shape in enumerate(shapes)
        )
        if constraint is not None:
            self.certificate = self._add_state(
                "certificate", (sum(heights),), theta
            )
            self.total_perturbation = self._add_state("total_perturbation")
            constraint.attach(
                self.kernels[:-1], self.certificate, self.total_perturbation
            )

    def _start(self, shapes, constraint):
        """What the initializer draws, scaled into the bound, and its θ."""
        kernels = []
        with tf.init_scope():
            for index, shape in enumerate(shapes):
                initializer = self.kernel_initializer
                if isinstance(initializer, keras.initializers.Initializer):
                    config = initializer.get_config()
                    if isinstance(config.get("seed"), int):
                        config["seed"] += index  # else kernels are drawn alike
                    initializer = type(initializer).from_config(config)
                kernel = initializer(shape, dtype=self.variable_dtype)
                kernels.append(keras.ops.convert_to_numpy(kernel))
            if constraint is None:
                return kernels
            kernels, theta = _scaled(kernels, constraint)
            return [*kernels, theta]

    def _constants(self):
        return DeepField.constants(self.kernels, self.biases)

    def _nearest(self, source):
        del source  # whose kernels this layer has
        kernels = map(keras.ops.convert_to_numpy, self.kernels)
        return _scaled(list(kernels), self.kernels[-1].constraint)

    def delta_bounds(self, **kwargs) -> tuple[float, float]:
        """Bounds δ from below and above.

        Args:
          **kwargs: passed to `product_log_norm`.
        """
        kernels = self._kernel_values()
        lower, upper, *_ = product_log_norm(kernels, self.alpha, **kwargs)
        if self.delta_bar is not None:
            upper = min(upper, self._constrained_upper(kernels))
        return (
            float(np.nextafter(lower - self.damping, -np.inf)),
            self._damped(upper),
        )

    def lipschitz_bound(self, delta: float | None = None) -> LipschitzBound:
        """See `StableODELayer.lipschitz_bound`."""
        self._check_computes(self.activation, self.solver)
        kernels = self._kernel_values()
        if delta is None:
            delta = self._damped(
                _log_norm(kernels, self.alpha)
                if self.delta_bar is None
                else self._constrained_upper(kernels)
            )
        product = lipschitz.network_lipschitz(
            *map(lipschitz.spectral_norm_bound, kernels)
        )
        norm = (self.damping + product) * (1 + 1e-12)
        norm = float(np.nextafter(norm, np.inf))
        return field_lipschitz(self.solver, self.terminal_time, delta, norm)

    def _constrained_bounds(self, kernels):
        return product_log_norm(kernels, self.alpha)[:2]

    def _damped(self, upper):
        return float(np.nextafter(upper - self.damping, np.inf))

    def _constrained_upper(self, kernels):
        return certified_product_log_norm(
            kernels, self.alpha, keras.ops.convert_to_numpy(self.certificate)
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        return {
            **super().get_config(),
            "widths": list(self.widths),
            "damping": self.damping,
        }


@remembered
def _log_norm(kernels, alpha):
    return product_log_norm(kernels, alpha, starts=1).upper


def _scaled(kernels, constraint):
    """Kernels that satisfy the constraint, with the θ that prove it."""
    bound, alpha = constraint.bound, constraint.alpha
    best = product_log_norm(kernels, alpha, starts=1).multipliers
    scaled = scale_into_bound(
        [tf.constant(kernel) for kernel in kernels],
        tf.constant(best),
        bound,
        alpha,
    )
    factor = scaled.factor.numpy().astype(kernels[0].dtype)
    return [factor * A for A in kernels], scaled.multipliers.numpy()


register_rule(DeepODELayer, **BY_SOLVER)
