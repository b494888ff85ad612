"""Classifiers with neural ODEs, and models made of other models."""
