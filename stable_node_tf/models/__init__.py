"""Classifiers with neural ODEs, and models made from other models."""

from stable_node_tf.models.box_trained import BoxTrained
from stable_node_tf.models.certified_classifier import certified_classifier
from stable_node_tf.models.finer_solver import with_finer_solver
from stable_node_tf.models.ode_classifier import ode_classifier
from stable_node_tf.models.stabilize import (
    ChangedLayer,
    StabilizationReport,
    Stabilized,
    stabilize,
)

__all__ = [
    "BoxTrained",
    "ChangedLayer",
    "StabilizationReport",
    "Stabilized",
    "certified_classifier",
    "ode_classifier",
    "stabilize",
    "with_finer_solver",
]
