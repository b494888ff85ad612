"""Projections that run inside a compiled train step."""
