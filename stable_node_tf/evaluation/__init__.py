"""Accuracy under attack, and checks of whether the figures can be believed."""

from stable_node_tf.evaluation.accuracy import (
    AccuracyCurve,
    accuracy_curve,
    margins,
    separation,
)
from stable_node_tf.evaluation.comparison import Comparison, compare

__all__ = [
    "AccuracyCurve",
    "Comparison",
    "accuracy_curve",
    "compare",
    "margins",
    "separation",
]
