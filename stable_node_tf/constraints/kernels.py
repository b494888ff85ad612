"""What the constraints of kernels share."""

import tensorflow as tf

# How far averages move inside. To swap variables by sums and differences, as
# `keras.callbacks.SwapEMAWeights` does, rounds them.
AVERAGE_MARGIN = 1e-5


def check_kernel(constraint, shape, has_it, kernel):
    """Raises ValueError unless a kernel has that shape and is a float."""
    if not has_it or kernel.dtype not in (tf.float32, tf.float64):
        raise ValueError(
            f"The kernel of a `{constraint}` must be {shape}, and float32 or "
            f"float64. Received: {kernel.dtype.name} of shape {kernel.shape}"
        )


def apply_constraints(variables):
    """Moves variables inside their constraints.

    Keras does so after optimizer steps only, not when weights are set.

    Args:
      variables: Keras variables, those of a layer or a model for example.
    """
    for variable in variables:
        if variable.constraint is not None:
            variable.assign(variable.constraint(variable))
