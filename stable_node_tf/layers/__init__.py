"""Keras layers that solve neural ODEs."""
