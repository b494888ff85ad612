"""Accuracy under attack, and checks of whether the figures can be believed."""

from stable_node_tf.evaluation.accuracy import (
    AccuracyCurve,
    accuracy_curve,
    margins,
    separation,
)

__all__ = [
    "AccuracyCurve",
    "accuracy_curve",
    "margins",
    "separation",
]
