"""Losses for training classifiers with large certified radii."""

from typing import Any

import keras

from stable_node_tf.stability.checks import check_positive


@keras.saving.register_keras_serializable(package="stable_node_tf")
class MarginCrossentropy(keras.losses.Loss):
    """Cross-entropy of logits times a scale, divided by the scale.

    With s the scale it is (1/s) log Σ_j exp(s (logit_j - logit_y)), a smooth
    maximum of the negative margins. In a network whose Lipschitz constant is
    fixed, margins are certified radii, and the scale decides whose margins
    count: a large one asks no more of an image with a margin of a few 1/s, and
    gains accuracy; a small one goes on raising the margins of all, and gains
    radius (Prach and Lampert, arXiv 2208.03160, §4, on the temperature).

    Args:
      scale: s > 0, in units of 1 / margin.
      **kwargs: of `keras.losses.Loss`.

    Raises:
      TypeError: if `scale` is not a real number.
      ValueError: if it is not finite and positive.

    >>> loss = MarginCrossentropy(scale=2.0)
    >>> logits = keras.ops.array([[1.0, 0.0]])
    >>> round(float(loss(keras.ops.array([0]), logits)), 4)
    0.0635
    """

    def __init__(self, scale: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = check_positive(scale, "scale")

    def call(self, y_true, y_pred):
        """Returns the loss of every image, of shape (batch,)."""
        loss = keras.losses.sparse_categorical_crossentropy(
            y_true, self.scale * y_pred, from_logits=True
        )
        return loss / self.scale

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "scale": self.scale}
