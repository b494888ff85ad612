"""Classifiers as SavedModels, for TensorFlow Serving and for evaluation."""

from stable_node_tf.saved_model.loading import ExportedModel, load_classifier
from stable_node_tf.saved_model.saving import save_classifier

__all__ = ["ExportedModel", "load_classifier", "save_classifier"]
