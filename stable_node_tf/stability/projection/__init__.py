"""The nearest matrix whose worst-case logarithmic norm is bounded."""
