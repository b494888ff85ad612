"""What others do for robust neural ODEs, to be compared with in one harness.

A penalty and a constraint on the matrix A of u' = σ(Au + b), and models that
are trained on perturbed images.
"""

from typing import Any

import keras
import tensorflow as tf

from stable_node_tf.attacks.gradients import logits_and_gradient
from stable_node_tf.checks import (
    check_alpha,
    check_number,
    check_positive,
)


class InfinityLogNormPenalty(keras.regularizers.Regularizer):
    """Penalizes rows of A whose share in the ∞-logarithmic norm is positive.

    The penalty is weight · Σ_i max(0, a_ii + Σ_{j≠i} |a_ij|). It vanishes if
    and only if μ∞(A) <= 0, and then μ∞(DA) <= 0 for every diagonal D >= 0: the
    flow contracts in the maximum norm (Davydov, Proskurnikov, Bullo, arXiv
    2110.08298). A penalty asks for that and does not enforce it.

    Args:
      weight: positive and finite.

    >>> A = tf.constant([[-1.0, 3.0], [0.5, -2.0]])
    >>> float(InfinityLogNormPenalty(0.25)(A))
    0.5
    """

    def __init__(self, weight: float) -> None:
        self.weight = check_positive(weight, "weight")

    def __call__(self, x):
        """Returns the penalty of a matrix of shape (d, d), a scalar."""
        matrix = tf.convert_to_tensor(x)
        diagonal = tf.linalg.diag_part(matrix)
        absolute = tf.reduce_sum(tf.abs(matrix), axis=1)
        rows = absolute - tf.abs(diagonal) + diagonal
        return self.weight * tf.reduce_sum(tf.nn.relu(rows))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {"weight": self.weight}


class ShiftConstraint(keras.constraints.Constraint):
    """Brings the worst-case logarithmic norm below δ̄ by A - cI.

    With m = (1+α)/2, r = (1-α)/2 and the certificate T = tI of docs/theory.md,
    δ(A - cI) <= 0 as soon as |A + (mt/r - c) I|₂ <= t √α / r. In terms of
    s = mt/r - c the smallest such c is

        c(s) = (m/√α) |A + sI|₂ - s,

    c(s) is convex; a golden-section search looks for its least value, and every
    further shift by c' >= 0 lowers δ by at least αc'.

    Args:
      delta_bar: δ̄ <= 0.
      alpha: smallest slope of the activation, in (0, 1).

    >>> shifted = ShiftConstraint(0.0, 0.25)(tf.constant([[0., 4.], [-4., 0.]]))
    >>> shifted.numpy().round(3)
    array([[-3.,  4.],
           [-4., -3.]], dtype=float32)
    """

    def __init__(self, delta_bar: float, alpha: float) -> None:
        self.delta_bar = check_number(delta_bar, "delta_bar")
        self.alpha = check_alpha(alpha)
        if self.delta_bar > 0.0 or self.alpha == 1.0:
            raise ValueError(
                "`delta_bar` must not be positive, and `alpha` below 1. "
                f"Received: delta_bar={delta_bar}, alpha={alpha}"
            )

    def __call__(self, w):
        """Returns A - cI, of the shape (d, d) and dtype of `w`."""
        matrix = tf.convert_to_tensor(w)
        identity = tf.eye(matrix.shape[0], dtype=matrix.dtype)
        gain = (1.0 + self.alpha) / 2.0 / self.alpha**0.5
        norm = _spectral_norm(matrix)

        def enough(s):
            return gain * _spectral_norm(matrix + s * identity) - s

        bound = _least_value(enough, -norm, 4.0 * norm)
        # Above the rounding errors of the eigenvalues.
        bound += 1e-5 * gain * norm
        shift = tf.maximum(bound - self.delta_bar / self.alpha, 0.0)
        return matrix - shift * identity

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {"delta_bar": self.delta_bar, "alpha": self.alpha}


class PerturbedTraining(keras.Model):
    """A functional model whose train step sees perturbed images.

    Layers and weights are those of the model that it is made from; predictions
    and evaluations are not perturbed. The random numbers of a step depend on
    the seed and on the number of the step, so that a run that is resumed draws
    what it would have drawn.

    Args:
      model: a functional model that maps images to logits.
      strength: how much is changed, positive and finite.
      seed: an integer >= 0.
    """

    def __init__(self, model: keras.Model, strength: float, seed: int) -> None:
        super().__init__(model.inputs, model.outputs, name=model.name)
        self._strength = check_positive(strength, "strength")
        self._noise_seed = seed

    def perturb(self, images: Any, labels: Any, seed: Any) -> Any:
        """Returns the images to train on; `seed` differs in every step."""
        raise NotImplementedError

    def train_step(self, data):
        """One step of the optimizer on perturbed images."""
        images, labels = data
        step = tf.cast(self.optimizer.iterations, tf.int64)
        seed = tf.stack([tf.cast(self._noise_seed, tf.int64), step])
        return super().train_step((self.perturb(images, labels, seed), labels))


class GaussianNoiseTraining(PerturbedTraining):
    """Adds normal noise of standard deviation `strength` to every pixel."""

    def perturb(self, images, labels, seed):
        """Returns the images plus noise, not clipped."""
        noise = tf.random.stateless_normal(tf.shape(images), seed)
        return images + self._strength * noise


class FgsmTraining(PerturbedTraining):
    """Trains on images under FGSM from a random start, ε = `strength`.

    One step of length 1.25 ε along the sign of the gradient, from a uniform
    draw out of the ball of the maximum norm, and back into the ball (Wong,
    Rice, Kolter, arXiv 2001.03994).
    """

    def perturb(self, images, labels, seed):
        """Returns the attacked images, in [0, 1]."""
        epsilon = self._strength
        start = images + tf.random.stateless_uniform(
            tf.shape(images), seed, -epsilon, epsilon
        )
        start = tf.clip_by_value(start, 0.0, 1.0)
        _, gradient = logits_and_gradient(self, "cross_entropy", start, labels)
        offset = start + 1.25 * epsilon * tf.sign(gradient) - images
        offset = tf.clip_by_value(offset, -epsilon, epsilon)
        attacked = tf.clip_by_value(images + offset, 0.0, 1.0)
        return tf.stop_gradient(attacked)


def _least_value(function, left, right, iterations=14):
    """The least value seen of a convex function, by golden sections."""
    share = (5.0**0.5 - 1.0) / 2.0
    low, high = right - share * (right - left), left + share * (right - left)
    at_low, at_high = function(low), function(high)
    for _ in range(iterations):
        falls = at_low < at_high
        left, right = tf.where(falls, left, low), tf.where(falls, high, right)
        width = share * (right - left)
        asked = tf.where(falls, right - width, left + width)
        value = function(asked)
        low, high = tf.where(falls, asked, high), tf.where(falls, low, asked)
        at_low, at_high = (
            tf.where(falls, value, at_high),
            tf.where(falls, at_low, value),
        )
    return tf.minimum(at_low, at_high)


def _spectral_norm(matrix):
    gram = tf.matmul(matrix, matrix, transpose_a=True)
    return tf.sqrt(tf.linalg.eigvalsh(gram)[-1])
