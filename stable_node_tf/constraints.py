"""Keras constraints: worst-case logarithmic norm and spectral norm budgets.

Keras applies a constraint after every optimiser step, inside the compiled train
step, and only there: not at initialisation, not in `set_weights`, not when a
file is loaded or an optimiser with `use_ema=True` ends `fit` by storing its
average. `StableODELayer` therefore starts from a feasible matrix, export checks
again, and the callback `StabilityMonitor` applies the constraints to averages.
"""

from math import inf
from typing import Any

import keras
import tensorflow as tf

from stable_node_tf.read_only_settings import ReadOnlySettings
from stable_node_tf.stability.certificate_search import minimise_certificate
from stable_node_tf.stability.checks import (
    check_alpha,
    check_not_negative,
    check_number,
    check_positive,
)
from stable_node_tf.stability.clipping import (
    clip_log_norm,
    smallest_certificate,
)
from stable_node_tf.stability.singular_value_clipping import (
    clip_singular_values,
)


@keras.saving.register_keras_serializable(package="stable_node_tf")
class LogNormConstraint(ReadOnlySettings, keras.constraints.Constraint):
    """Keeps the worst-case logarithmic norm of a square matrix below δ̄.

    Called with A it returns A + Δ with a certificate T such that
    δ(A + Δ) <= δ_T(A + Δ) <= δ̄ (arXiv 2501.10740 for the problem,
    docs/theory.md for the certificate). A matrix that is certified already is
    returned as it is. By itself the constraint has no state and computes T anew
    each time; a layer that owns three non-trainable weights for it calls
    `attach`, after which T is carried from step to step at almost no cost and
    saved with the model.

    Args:
      delta_bar: δ̄, any finite number; the flow on [0, T] then has Lipschitz
        constant at most exp(δ̄T).
      alpha: smallest slope of the activation, in (0, 1].
      step: 0 for the flow; the step size h of explicit Euler to bound δ_h in
        the place of δ (see `euler_log_norm`), after which exp(δ̄T) bounds the
        discretised block as well, because (1 + 2hδ̄)^(N/2) <= exp(δ̄T).

    Raises:
      TypeError: if an argument is not a real number.
      ValueError: if `delta_bar` is not finite, `alpha` not in (0, 1], `step`
        negative, or no matrix satisfies the bound because h is too large.

    >>> constraint = LogNormConstraint(delta_bar=0.0, alpha=0.5)
    >>> bool(constraint(tf.eye(2))[0, 0] <= 0.0)
    True
    """

    def __init__(
        self, delta_bar: float, alpha: float, step: float = 0.0
    ) -> None:
        self.delta_bar = check_number(delta_bar, "delta_bar")
        self.alpha = check_alpha(alpha)
        self.step = check_not_negative(step, "step")
        if smallest_certificate(self.delta_bar, self.alpha, self.step) == inf:
            ratio = (1.0 - self.alpha) / (1.0 + self.alpha)
            raise ValueError(
                "`delta_bar` must satisfy 1 + 2 step delta_bar > "
                f"((1 - alpha) / (1 + alpha))² = {ratio**2:.6g}: no step of "
                "Euler contracts more. "
                f"Received: delta_bar={delta_bar}, step={step}"
            )
        self._certificate = None
        self._proposal = None
        self._total_perturbation = None

    def attach(self, certificate, proposal, total_perturbation) -> None:
        """Hands over the weights that carry the state between the steps.

        Args:
          certificate: float64 variable of shape (d,), t of the last result.
          proposal: float64 variable of shape (d,), t for the next call.
          total_perturbation: float64 scalar variable, the sum of all |Δ|_F.
        """
        self._certificate, self._proposal = certificate, proposal
        self._total_perturbation = total_perturbation

    def __call__(self, w):
        """Returns A + Δ, of the shape (d, d) and dtype of `w`.

        Raises:
          ValueError: if `w` is not square, or not float32 or float64.
        """
        matrix = tf.convert_to_tensor(w)
        square = matrix.shape.rank == 2 and matrix.shape[0] == matrix.shape[1]
        _check_kernel("LogNormConstraint", "square", square, matrix)
        if self._certificate is None:
            certificate = self._cold_certificate(matrix)
        else:
            certificate = tf.convert_to_tensor(self._proposal)
        clipped = clip_log_norm(
            matrix, certificate, self.delta_bar, self.alpha, self.step
        )
        if self._certificate is not None:
            self._certificate.assign(clipped.certificate)
            self._proposal.assign(clipped.proposal)
            self._total_perturbation.assign_add(clipped.distance)
        return clipped.matrix

    def _cold_certificate(self, matrix):
        matrix = tf.cast(matrix, tf.float64)
        norm = tf.norm(matrix)
        # Eigendecompositions stop the program at NaN; training may go on.
        finite = tf.math.is_finite(norm)
        matrix = tf.where(finite, matrix, 0.0)
        norm = tf.where(finite & (norm > 0.0), norm, 1.0)
        ones = tf.ones_like(matrix[:1])
        certificate = ones
        if self.alpha < 1.0:
            certificate = minimise_certificate(
                (matrix / norm)[None],
                ones,
                self.alpha * ones,
                ones,
                1e-5,
                self.step * norm,
            )
        return certificate[0] * norm

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            "delta_bar": self.delta_bar,
            "alpha": self.alpha,
            "step": self.step,
        }


@keras.saving.register_keras_serializable(package="stable_node_tf")
class SpectralNormConstraint(ReadOnlySettings, keras.constraints.Constraint):
    """Keeps the spectral norm of a kernel below a budget.

    Clips singular values, that is, returns the nearest kernel in the Frobenius
    norm with spectral norm at most `max_norm`. A bound on A alone lets training
    move the gain into the layers around it; budgets on those close that door.

    Args:
      max_norm: positive and finite. Kernels of shape (..., n) count as matrices
        with n columns.

    Raises:
      TypeError: if `max_norm` is not a real number.
      ValueError: if it is not finite and positive.

    >>> kernel = SpectralNormConstraint(1.0)(tf.constant([[3.0, 0.0]]))
    >>> bool(0.999 < kernel[0, 0] <= 1.0)
    True
    """

    def __init__(self, max_norm: float) -> None:
        self.max_norm = check_positive(max_norm, "max_norm")

    def __call__(self, w):
        """Returns the clipped kernel, of the shape and dtype of `w`.

        Raises:
          ValueError: if `w` has no dimension, or is not float32 or float64.
        """
        kernel = tf.convert_to_tensor(w)
        proper = bool(kernel.shape.rank)
        _check_kernel("SpectralNormConstraint", "not scalar", proper, kernel)
        matrix = tf.reshape(kernel, [-1, kernel.shape[-1]])
        wide = matrix.shape[0] < matrix.shape[1]
        if wide:
            matrix = tf.transpose(matrix)
        clipped = clip_singular_values(matrix, self.max_norm).matrix
        if wide:
            clipped = tf.transpose(clipped)
        return tf.reshape(clipped, kernel.shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {"max_norm": self.max_norm}


def _check_kernel(constraint, shape, has_it, kernel):
    if not has_it or kernel.dtype not in (tf.float32, tf.float64):
        raise ValueError(
            f"The kernel of a `{constraint}` must be {shape}, and float32 or "
            f"float64. Received: {kernel.dtype.name} of shape {kernel.shape}"
        )
