"""Activations whose slopes are known to stay in [alpha, 1].

One class a file; `get` makes them from a name.
"""

from stable_node_tf.activations.activation import BY_NAME, Activation
from stable_node_tf.activations.custom import CustomActivation
from stable_node_tf.activations.leaky_tanh import LeakyTanh
from stable_node_tf.activations.lookup import get
from stable_node_tf.activations.smooth_leaky_relu import SmoothLeakyReLU

NAMES = tuple(sorted(BY_NAME))
"""The names that `get` knows."""

__all__ = [
    "BY_NAME",
    "NAMES",
    "Activation",
    "CustomActivation",
    "LeakyTanh",
    "SmoothLeakyReLU",
    "get",
]
