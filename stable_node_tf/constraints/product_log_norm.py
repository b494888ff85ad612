"""Keras constraint: the worst-case logarithmic norm of several kernels."""

from typing import Any

import keras
import tensorflow as tf

from stable_node_tf.checks import check_alpha, check_number
from stable_node_tf.constraints.kernels import AVERAGE_MARGIN
from stable_node_tf.read_only_settings import ReadOnlySettings
from stable_node_tf.stability.clipping.product_scaling import scale_into_bound
from stable_node_tf.stability.shared_traces import call_traced


@keras.saving.register_keras_serializable(package="stable_node_tf")
class ProductLogNormConstraint(ReadOnlySettings, keras.constraints.Constraint):
    """Keeps max μ2(D_k A_k ⋯ D_1 A_1), alpha <= entries of D_i <= 1, small.

    It constrains the last kernel A_k: Keras applies it after the optimizer has
    moved all of them. Called, it multiplies A_1, ..., A_k by one factor, the
    largest that its certificate allows (see `scale_into_bound`); A_1 to A_(k-1)
    are assigned, A_k is returned. The result is always inside the bound, but is
    not the nearest point inside.

    The layer that owns the kernels hands them over with `attach`, together
    with the certificate, which is carried from step to step.

    Args:
      bound: what max μ2(D_k A_k ⋯ D_1 A_1) must not exceed, positive.
      alpha: smallest slope of the activation, in (0, 1].
    """

    def __init__(self, bound: float, alpha: float) -> None:
        self.bound = check_number(bound, "bound")
        if self.bound <= 0.0:
            raise ValueError(
                "`bound` must be positive: kernels are scaled to satisfy it. "
                f"Received: bound={bound}"
            )
        self.alpha = check_alpha(alpha)
        self._others: list[Any] = []
        self._multipliers = None
        self._total_perturbation = None

    def attach(self, others, multipliers, total_perturbation) -> None:
        """Hands over what the constraint reads and writes beside A_k.

        Args:
          others: the variables A_1, ..., A_(k-1).
          multipliers: float64 variable of shape (n,), θ of the last result.
          total_perturbation: float64 scalar variable, the sum of the lengths
            of all changes of the kernels.
        """
        self._others, self._multipliers = list(others), multipliers
        self._total_perturbation = total_perturbation

    def __call__(self, w):
        """Returns A_k times the factor, of the shape and dtype of `w`."""
        if self._multipliers is None:
            raise ValueError(
                "`ProductLogNormConstraint` must be attached to the other "
                "kernels first: call `attach`"
            )
        kernels = [tf.convert_to_tensor(A) for A in (*self._others, w)]
        scaled = self._scaled(kernels)
        factor = tf.cast(scaled.factor, kernels[-1].dtype)
        for variable, kernel in zip(self._others, kernels, strict=False):
            variable.assign(factor * kernel)
        self._multipliers.assign(scaled.multipliers)
        self._total_perturbation.assign_add(scaled.distance)
        return factor * kernels[-1]

    def constrain_average(self, average, average_of) -> None:
        """Scales averages of the kernels a little farther than into the bound.

        Args:
          average: variable, the average of A_k.
          average_of: maps a variable to the one that holds its average.
        """
        averages = [*map(average_of, self._others), average]
        kernels = [tf.convert_to_tensor(A) for A in averages]
        factor = self._scaled(kernels).factor * (1.0 - AVERAGE_MARGIN)
        for variable, kernel in zip(averages, kernels, strict=True):
            variable.assign(tf.cast(factor, kernel.dtype) * kernel)

    def _scaled(self, kernels):
        multipliers = tf.convert_to_tensor(self._multipliers)
        return call_traced(
            scale_into_bound,
            kernels,
            multipliers,
            bound=self.bound,
            alpha=self.alpha,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {"bound": self.bound, "alpha": self.alpha}
