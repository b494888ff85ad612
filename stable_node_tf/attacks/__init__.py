"""Adversarial attacks: frozen objects that are called with a model and images.

`FGSM` is one step along the sign of the gradient, `PGD` many projected steps
in the l-infinity or the 2-norm, on one of several losses; `Square` needs no
gradient, `FMN` looks for the smallest change and needs no budget, and
`WorstCase` takes the strongest of several for each image. All are called alike,

    attack(model, images, labels, epsilons=[0.05, 0.1], bounds=(0.0, 1.0))

and answer with an `AttackResult`. `Attack` explains the arguments, and how to
write another one.
"""

from stable_node_tf.attacks.base import Attack, register, registered
from stable_node_tf.attacks.batch import Batch
from stable_node_tf.attacks.fgsm import FGSM
from stable_node_tf.attacks.fmn import FMN
from stable_node_tf.attacks.gradients import Classifier
from stable_node_tf.attacks.pgd import PGD
from stable_node_tf.attacks.result import AttackResult, collect
from stable_node_tf.attacks.square import Square
from stable_node_tf.attacks.worst_case import WorstCase

__all__ = [
    "FGSM",
    "FMN",
    "PGD",
    "Attack",
    "AttackResult",
    "Batch",
    "Classifier",
    "Square",
    "WorstCase",
    "collect",
    "register",
    "registered",
]
