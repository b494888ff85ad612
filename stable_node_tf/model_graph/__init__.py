"""Reads Keras models as graphs of their layers."""
