"""Keras constraint: a budget of the worst-case logarithmic norm."""

import math
from typing import Any

import keras
import tensorflow as tf

from stable_node_tf.checks import (
    check_alpha,
    check_norm,
    check_not_negative,
    check_number,
)
from stable_node_tf.constraints.kernels import AVERAGE_MARGIN, check_kernel
from stable_node_tf.read_only_settings import ReadOnlySettings
from stable_node_tf.stability.certificate import best_certificate
from stable_node_tf.stability.clipping.inf_norm import clip_rows
from stable_node_tf.stability.clipping.log_norm import (
    certificate_range,
    clip_log_norm,
    smallest_certificate,
)
from stable_node_tf.stability.inf_log_norm import row_bounds
from stable_node_tf.stability.shared_traces import call_traced

_LARGEST_NORM = 1e140


@keras.saving.register_keras_serializable(package="stable_node_tf")
class LogNormConstraint(ReadOnlySettings, keras.constraints.Constraint):
    """Keeps the worst-case logarithmic norm of a square matrix below δ̄.

    Called with A it returns A + Δ with a certificate T such that
    δ(A + Δ) <= δ_T(A + Δ) <= δ̄ (arXiv 2501.10740 for the problem,
    docs/theory.md for the certificate), whatever finite numbers A holds. A
    matrix that is certified already is returned as it is; so is one with NaN
    or infinity, for which no bound holds. By itself the constraint has no state
    and computes T anew each time. A layer that owns three non-trainable weights
    for it calls `attach`: T is then carried from step to step at almost no
    cost, and saved with the model.

    With norm="inf" the result is the nearest matrix with δ <= δ̄ in the ∞-norm,
    up to rounding, and no T is needed. A row with NaN or infinity then gets NaN
    on the diagonal.

    Args:
      delta_bar: δ̄, any finite number; the flow on [0, T] then has Lipschitz
        constant at most exp(δ̄T).
      alpha: smallest slope of the activation, in (0, 1].
      step: 0 for the flow; the step size h of explicit Euler to bound δ_h
        instead of δ (see `euler_log_norm`), after which exp(δ̄T) bounds the
        discretized block as well, because (1 + 2hδ̄)^(N/2) <= exp(δ̄T).
      norm: that of δ, "2" or "inf", see `worst_case_log_norm`.

    Raises:
      TypeError: if an argument is not a real number.
      ValueError: if one is out of range, or no matrix satisfies the bound: h is
        too large, or, in floating point, `alpha` below 1e-6 with `delta_bar`
        <= 0, or numbers are at the ends of the range of float64.

    >>> constraint = LogNormConstraint(delta_bar=0.0, alpha=0.5)
    >>> bool(constraint(tf.eye(2))[0, 0] <= 0.0)
    True
    """

    def __init__(
        self,
        delta_bar: float,
        alpha: float,
        step: float = 0.0,
        norm: str | float = "2",
    ) -> None:
        self.delta_bar = check_number(delta_bar, "delta_bar")
        self.alpha = check_alpha(alpha)
        self.step = check_not_negative(step, "step")
        self.norm = check_norm(norm)
        self._certificate = None
        self._proposal = None
        self._total_perturbation = None
        if self.norm == "inf":
            row_bounds(self.delta_bar, self.alpha, self.step)
            return
        if (
            smallest_certificate(self.delta_bar, self.alpha, self.step)
            == math.inf
        ):
            ratio = (1.0 - self.alpha) / (1.0 + self.alpha)
            raise ValueError(
                "`delta_bar` must satisfy 1 + 2 step delta_bar > "
                f"((1 - alpha) / (1 + alpha))² = {ratio**2:.6g}: no step of "
                "Euler contracts more. "
                f"Received: delta_bar={delta_bar}, step={step}"
            )
        if self.alpha < 1.0 or self.step > 0.0:
            certificate_range(self.delta_bar, self.alpha, self.step, tf.float64)

    def attach(self, certificate, proposal, total_perturbation) -> None:
        """Hands over the weights that carry the state between the steps.

        The ∞-norm needs `total_perturbation` only; the others may be None.

        Args:
          certificate: float64 variable of shape (d,), t of the last result.
          proposal: float64 variable of shape (d,), t for the next call.
          total_perturbation: float64 scalar variable, the sum of all |Δ|_F.
        """
        self._certificate, self._proposal = certificate, proposal
        self._total_perturbation = total_perturbation

    def __call__(self, w):
        """Returns A + Δ, of the shape (d, d) and dtype of `w`."""
        matrix = tf.convert_to_tensor(w)
        square = matrix.shape.rank == 2 and matrix.shape[0] == matrix.shape[1]
        check_kernel("LogNormConstraint", "square", square, matrix)
        if self.norm == "inf":
            nearest = self._nearest(matrix)
            if self._total_perturbation is not None:
                moved = tf.cast(tf.norm(nearest - matrix), tf.float64)
                self._total_perturbation.assign_add(
                    tf.where(tf.math.is_finite(moved), moved, 0.0)
                )
            return nearest
        if self._certificate is None:
            certificate = self._cold_certificate(matrix)
        else:
            certificate = tf.convert_to_tensor(self._proposal)
        clipped = call_traced(
            clip_log_norm,
            matrix,
            certificate,
            delta_bar=self.delta_bar,
            alpha=self.alpha,
            step=self.step,
        )
        if self._certificate is not None:
            self._certificate.assign(clipped.certificate)
            self._proposal.assign(clipped.proposal)
            self._total_perturbation.assign_add(clipped.distance)
        return clipped.matrix

    def _nearest(self, matrix, margin=0.0):
        """The nearest matrix in the ∞-norm, its row sums inside by a margin."""
        bound, opposite = row_bounds(self.delta_bar, self.alpha, self.step)
        return call_traced(
            clip_rows,
            matrix,
            bound=bound - margin,
            opposite=opposite - margin,
        )

    def _cold_certificate(self, matrix):
        largest = _LARGEST_NORM
        if self.step > 0.0:
            # No matrix inside has a norm beyond about 2 / h.
            largest = min(largest, 4.0 / self.step)
        return best_certificate(
            matrix, self.alpha, 1e-5, self.step, largest_norm=largest
        )

    def constrain_average(self, average, average_of) -> None:
        """Moves an average of kernels inside, by a little more than rounding.

        The certificate of the last result proves the bound of the average as
        well; the state stays as it is.
        """
        del average_of
        matrix = tf.convert_to_tensor(average)
        margin = AVERAGE_MARGIN * float(tf.norm(tf.cast(matrix, tf.float64)))
        margin = margin if math.isfinite(margin) else 0.0
        if self.norm == "inf":
            average.assign(self._nearest(matrix, margin))
            return
        if self._certificate is None:
            certificate = self._cold_certificate(matrix)
        else:
            certificate = tf.convert_to_tensor(self._certificate)
        clipped = clip_log_norm(
            matrix,
            certificate,
            self.delta_bar - margin,
            self.alpha,
            self.step,
        )
        average.assign(clipped.matrix)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            "delta_bar": self.delta_bar,
            "alpha": self.alpha,
            "step": self.step,
            "norm": self.norm,
        }
