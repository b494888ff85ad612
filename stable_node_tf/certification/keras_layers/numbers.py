"""What layers compute with, as arrays."""

from typing import Any

import numpy as np
import tensorflow as tf


def float64(values: Any) -> np.ndarray:
    """Returns a weight, or numbers that a layer was given, in float64.

    >>> float64([0.5, 2])
    array([0.5, 2. ])
    """
    array: np.ndarray = tf.convert_to_tensor(values).numpy()
    return array.astype(np.float64)
