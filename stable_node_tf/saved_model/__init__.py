"""Classifiers as SavedModels, for TensorFlow Serving and for evaluation."""
