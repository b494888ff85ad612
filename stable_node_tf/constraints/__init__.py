"""Keras constraints: budgets of logarithmic and spectral norms."""
