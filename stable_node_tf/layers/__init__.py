"""Keras layers that solve neural ODEs, and what is proven of them."""

from stable_node_tf.layers.deep_ode import DeepODELayer
from stable_node_tf.layers.ode_layer import StabilityReport
from stable_node_tf.layers.piecewise_ode import PiecewiseODELayer
from stable_node_tf.layers.solver_bounds import LipschitzBound
from stable_node_tf.layers.stable_ode import StableODELayer

__all__ = [
    "DeepODELayer",
    "LipschitzBound",
    "PiecewiseODELayer",
    "StabilityReport",
    "StableODELayer",
]
