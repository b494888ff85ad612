"""FGSM: one step along the sign of the gradient."""

import dataclasses

import numpy as np

from stable_node_tf.attacks.base import Attack, register
from stable_node_tf.attacks.batch import Batch
from stable_node_tf.attacks.gradients import Classifier


@dataclasses.dataclass(frozen=True)
class FGSM(Attack):
    """The fast gradient sign method, in the l-infinity norm.

    For cross-entropy CE on logits and true labels y,

        x' = clip(x + epsilon * sign(grad_x CE(model(x), y)), 0, 1),

    Goodfellow, Shlens, Szegedy (2015), arXiv 1412.6572, section 4. The sign
    is that of the log odds log((1 - p_y) / p_y), whose gradient is that of the
    cross-entropy divided by 1 - p_y > 0: the same in exact arithmetic, but it
    does not vanish in float32 where the model is confident. The gradient is
    computed once and serves all budgets.

    Example:
        >>> import tensorflow as tf
        >>> weights = tf.constant([[-1.0, 1.0]])  # one pixel, two classes
        >>> result = FGSM()(
        ...     lambda x: (x - 0.5) @ weights, [[0.75]], [1], epsilons=[0, 0.5]
        ... )
        >>> result.adversarial[:, 0, 0].tolist(), result.success.tolist()
        ([0.75, 0.25], [[False], [True]])
    """

    style = {"color": "#E69F00", "marker": "o"}
    loss = "cross_entropy"

    def perturb(self, model: Classifier, batch: Batch) -> np.ndarray:
        """One step, for each budget."""
        steps = np.multiply.outer(
            batch.epsilons.astype(np.float32), np.sign(batch.gradient)
        )
        return np.clip(batch.images + steps, *batch.bounds)


register(FGSM())
