"""DeepODELayer: a neural ODE whose vector field has several layers."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.checks import check_count, check_not_negative
from stable_node_tf.constraints.product_log_norm import ProductLogNormConstraint
from stable_node_tf.layers.ode_layer import ODELayer
from stable_node_tf.layers.solver_bounds import LipschitzBound, field_lipschitz
from stable_node_tf.solvers.fields import DeepField
from stable_node_tf.stability.clipping.product_scaling import scale_into_bound
from stable_node_tf.stability.lipschitz import (
    network_lipschitz,
    spectral_norm_bound,
)
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
    positive: where δ̄ <= 0 is wanted, the damping c provides it. It is the
    constraint of A_k: with A_k frozen and others not, nothing keeps δ <= δ̄.

    Variables, solve and constraint stay in float32 under mixed precision.
    Gradients of fixed grids are taken through the grid.

    Args:
      widths: m_1, ..., m_(k-1), the sizes of the inner layers, at least one.
      activation: σ, see `StableODELayer`.
      delta_bar: δ̄, any number above -damping, or None to leave A_i free.
      damping: c >= 0.
      terminal_time: T, positive.
      solver: see `StableODELayer`.
      kernel_initializer: Keras initializer of the A_i, before they are scaled.
      bias_initializer: Keras initializer of the b_i.
      **kwargs: of `keras.layers.Layer`, `name` and `dtype` for example.

    All of them are read-only afterwards, see `StableODELayer`.

    Raises:
      TypeError: if an argument that is a number is not, or a width no integer.
      ValueError: if `widths` is empty or holds one below 1, `damping` is
        negative, `delta_bar` not above -damping, `terminal_time` not positive,
        or activation or solver unknown.

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
        start = _ScaledStart(
            self.kernel_initializer, constraint, shapes, self.variable_dtype
        )
        self.kernels = tuple(
            self.add_weight(
                name=f"kernel_{index + 1}",
                shape=shape,
                initializer=start.kernel(index),
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
                "certificate", (sum(heights),), start.certificate
            )
            self.total_perturbation = self._add_state("total_perturbation")
            constraint.attach(
                self.kernels[:-1], self.certificate, self.total_perturbation
            )

    def _constants(self):
        return DeepField.constants(self.kernels, self.biases)

    def _assign_nearest(self, source: "DeepODELayer") -> None:
        """Takes the weights of another layer, kernels scaled if need be."""
        for mine, other in (
            *zip(self.kernels, source.kernels, strict=True),
            *zip(self.biases, source.biases, strict=True),
        ):
            mine.assign(other)
        if self.delta_bar is None:
            return
        if source.delta_bar is not None:
            self.certificate.assign(source.certificate)
            upper = self._certified_upper(self._kernel_values())
            if upper <= self.delta_bar + self.damping:
                return
        kernels, certificate = _scaled(
            [keras.ops.convert_to_numpy(kernel) for kernel in self.kernels],
            self.kernels[-1].constraint,
        )
        for mine, kernel in zip(self.kernels, kernels, strict=True):
            mine.assign(kernel)
        self.certificate.assign(certificate)

    def delta_bounds(self, **kwargs) -> tuple[float, float]:
        """Bounds δ from below and above.

        Args:
          **kwargs: of `product_log_norm`.
        """
        kernels = self._kernel_values()
        lower, upper, *_ = product_log_norm(kernels, self.alpha, **kwargs)
        if self.delta_bar is not None:
            upper = min(upper, self._certified_upper(kernels))
        return (
            float(np.nextafter(lower - self.damping, -np.inf)),
            self._damped(upper),
        )

    def lipschitz_bound(self, delta: float | None = None) -> LipschitzBound:
        """Bounds the Lipschitz constant of the layer in real arithmetic.

        Args:
          delta: an upper bound of δ, if one is known already.
        """
        self._check_computes(self.activation, self.solver)
        kernels = self._kernel_values()
        if delta is None and self.delta_bar is not None:
            delta = self._damped(self._certified_upper(kernels))
        if delta is None:
            upper = product_log_norm(kernels, self.alpha, starts=1).upper
            delta = self._damped(upper)
        product = network_lipschitz(*(spectral_norm_bound(A) for A in kernels))
        norm = (self.damping + product) * (1 + 1e-12)
        norm = float(np.nextafter(norm, np.inf))
        return field_lipschitz(self.solver, self.terminal_time, delta, norm)

    def assert_constraints(self) -> None:
        """Raises unless δ <= δ̄ is proven for the kernels as they are now.

        Does nothing without δ̄; see `StableODELayer.assert_constraints`.

        Raises:
          ValueError: with the bounds of δ, if the bound does not hold.
        """
        if self.delta_bar is None:
            return
        bound = self.delta_bar + self.damping
        kernels = self._kernel_values()
        if self._certified_upper(kernels) <= bound:
            return
        lower, upper, *_ = product_log_norm(kernels, self.alpha)
        if upper > bound:
            raise ValueError(
                f"The kernels of layer {self.name!r} must satisfy "
                f"δ <= delta_bar={self.delta_bar}. Received: kernels with δ in "
                f"[{lower - self.damping}, {upper - self.damping}]. "
                "Constraints act in optimizer steps only; after setting "
                "weights by hand, call `last = layer.kernels[-1]; "
                "last.assign(last.constraint(last))`."
            )

    def _damped(self, upper):
        return float(np.nextafter(upper - self.damping, np.inf))

    def _kernel_values(self):
        self._check_built()
        return [
            keras.ops.convert_to_numpy(kernel).astype(np.float64)
            for kernel in self.kernels
        ]

    def _certified_upper(self, kernels):
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


class _ScaledStart:
    """Initializers of the A_i and of θ: what was drawn, scaled if need be.

    Callables, because Keras may defer them until the variables exist.
    """

    def __init__(self, initializer, constraint, shapes, dtype):
        self._initializer = initializer
        self._constraint = constraint
        self._shapes = shapes
        self._dtype = dtype
        self._drawn = None

    def kernel(self, index):
        return lambda shape, dtype=None: self._draw()[0][index]

    def certificate(self, shape, dtype=None):
        return tf.constant(self._draw()[1], dtype)

    def _draw(self):
        if self._drawn is None:
            with tf.init_scope():
                kernels = [
                    keras.ops.convert_to_numpy(
                        _reseeded(self._initializer, index)(
                            shape, dtype=self._dtype
                        )
                    )
                    for index, shape in enumerate(self._shapes)
                ]
                self._drawn = (
                    (kernels, None)
                    if self._constraint is None
                    else _scaled(kernels, self._constraint)
                )
        return self._drawn


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


def _reseeded(initializer, index):
    """The initializer of the i-th kernel: equal seeds draw equal kernels."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    if isinstance(config.get("seed"), int):
        config["seed"] += index
    return type(initializer).from_config(config)
