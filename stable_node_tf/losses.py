"""Losses for training classifiers with large certified radii."""

from typing import Any

import keras

from stable_node_tf.checks import check_not_negative, check_positive


@keras.saving.register_keras_serializable(package="stable_node_tf")
class MarginCrossentropy(keras.losses.Loss):
    """Cross-entropy that asks for margins, with a scale and an offset.

    With s the scale, o the offset and y the true class it is

        CE(s (logits - o onehot(y))) / s
            = (1/s) log(1 + Σ_{j≠y} exp(s (o - (logit_y - logit_j)))),

    a smooth maximum of 0 and of how far the margins are below o. In a network
    with a fixed Lipschitz constant, margins are certified radii. The offset is
    the margin that is asked for. The scale decides whose margins count: with a
    large one, images whose margins exceed o by a few 1/s no longer matter,
    which gains accuracy; with a small one, the margins of all keep growing,
    which gains radius. The plain cross-entropy has s = 1 and o = 0.

    Source: Prach and Lampert, arXiv 2208.03160, section 4, whose temperature is
    1 / s.

    Args:
      scale: s > 0, in units of 1 / margin.
      offset: o >= 0, in units of a margin.
      **kwargs: those of `keras.losses.Loss`.

    >>> logits, labels = keras.ops.array([[1.0, 0.0]]), keras.ops.array([0])
    >>> round(float(MarginCrossentropy(scale=2.0)(labels, logits)), 4)
    0.0635
    >>> loss = MarginCrossentropy(scale=2.0, offset=1.0)
    >>> round(float(loss(labels, logits)), 4)
    0.3466
    """

    def __init__(
        self, scale: float, offset: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.scale = check_positive(scale, "scale")
        self.offset = check_not_negative(offset, "offset")

    def call(self, y_true, y_pred):
        """Returns the loss of every image, of shape (batch,)."""
        own = keras.ops.one_hot(
            keras.ops.cast(y_true, "int32"),
            y_pred.shape[-1],
            dtype=y_pred.dtype,
        )
        own = keras.ops.reshape(own, keras.ops.shape(y_pred))
        loss = keras.losses.sparse_categorical_crossentropy(
            y_true, self.scale * (y_pred - self.offset * own), from_logits=True
        )
        return loss / self.scale

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            "scale": self.scale,
            "offset": self.offset,
        }
