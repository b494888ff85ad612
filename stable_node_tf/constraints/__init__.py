"""Keras constraints: budgets of logarithmic and spectral norms.

Keras applies a constraint after every optimizer step, inside the compiled train
step, and only there: not at initialization, not in `set_weights`, not when a
file is loaded or an optimizer with `use_ema=True` ends `fit` by storing its
average. So `StableODELayer` starts from a feasible matrix, saving checks again,
and the callback `StabilityMonitor` applies the constraints to averages.
"""

from stable_node_tf.constraints.kernels import apply_constraints
from stable_node_tf.constraints.log_norm import LogNormConstraint
from stable_node_tf.constraints.product_log_norm import ProductLogNormConstraint
from stable_node_tf.constraints.spectral_norm import SpectralNormConstraint

__all__ = [
    "LogNormConstraint",
    "ProductLogNormConstraint",
    "SpectralNormConstraint",
    "apply_constraints",
]
