"""Initial matrices for neural ODEs."""

from typing import Any

import keras

from stable_node_tf.checks import check_not_negative
from stable_node_tf.read_only_settings import ReadOnlySettings


@keras.saving.register_keras_serializable(package="stable_node_tf")
class SkewSymmetric(ReadOnlySettings, keras.initializers.Initializer):
    """Draws a skew-symmetric matrix of a given spectral norm, minus damping.

    The flow of u' = Au with skew-symmetric A is a rotation: it mixes the
    coordinates without stretching distances. From a large one, a neural ODE
    that must stay stable can use its activation many times over [0, T]; from a
    Glorot matrix that was shrunk to the same bound it cannot.

    Args:
      spectral_norm: |A|₂ before damping, not negative.
      seed: Python integer or `keras.random.SeedGenerator`; None draws one.
      damping: c >= 0; cI is subtracted from the skew-symmetric matrix.

    >>> A = SkewSymmetric(2.0, seed=0)((3, 3))
    >>> bool(keras.ops.all(A == -keras.ops.transpose(A)))
    True
    """

    def __init__(
        self, spectral_norm: float = 1.0, seed: Any = None, damping: float = 0.0
    ) -> None:
        self.spectral_norm = check_not_negative(spectral_norm, "spectral_norm")
        self.damping = check_not_negative(damping, "damping")
        try:
            self._normal = keras.initializers.RandomNormal(
                stddev=1.0, seed=seed
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                "`seed` must be an integer, a keras.random.SeedGenerator or "
                f"None. Received: seed={seed!r}"
            ) from error
        self.seed = self._normal.seed

    def __call__(self, shape, dtype=None):
        """Returns a tensor of shape (d, d); refuses other shapes."""
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(
                "A skew-symmetric matrix must be square. "
                f"Received: shape={tuple(shape)}"
            )
        drawn = self._normal(shape, dtype=dtype)
        skew = drawn - keras.ops.transpose(drawn)
        norm = keras.ops.norm(skew, 2)
        scale = self.spectral_norm / keras.ops.maximum(norm, 1e-30)
        skew *= keras.ops.cast(scale, skew.dtype)
        return skew - self.damping * keras.ops.eye(shape[0], dtype=skew.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            "spectral_norm": self.spectral_norm,
            "seed": self._normal.get_config()["seed"],
            "damping": self.damping,
        }
