"""Adversarial attacks as pure functions of (model, images, labels, epsilons).

An attack takes the whole list of budgets at once and answers with a pair
(adversarial, success), one entry per budget. Behind each attack stands a
generator that yields one batch at a time, so that an evaluation over many
images and budgets never holds all adversarial images in memory.

`fgsm` is one step along the sign of the gradient, `pgd` many projected steps
in the l-infinity or the 2-norm, on the cross-entropy or on a margin; `square`
needs no gradient.
"""

from stable_node_tf.attacks.checks import check_epsilons
from stable_node_tf.attacks.fast_gradient import fgsm, fgsm_batches
from stable_node_tf.attacks.outcome import Attack, AttackedBatch, Classifier
from stable_node_tf.attacks.projected_gradient import pgd, pgd_batches
from stable_node_tf.attacks.square_search import square, square_batches

__all__ = [
    "Attack",
    "AttackedBatch",
    "Classifier",
    "check_epsilons",
    "fgsm",
    "fgsm_batches",
    "pgd",
    "pgd_batches",
    "square",
    "square_batches",
]
