"""Training for certificates in the ∞-norm: a loss on boxes."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from stable_node_tf.certification.box_certifier import BoxCertifier, box_around
from stable_node_tf.certification.network import certified_network
from stable_node_tf.checks import check_count, check_positive


class BoxTrained(keras.Model):
    """A classifier that `fit` trains on the worst images of boxes.

    Its layers are those of the classifier, and so are its answers; it is there
    for training, and the classifier is what to save. The loss it is compiled
    with is asked twice,

        κ loss(y, logits) + (1 - κ) loss(y, worst logits),

    where the worst logits of class j are minus the lower bound of
    logit_y - logit_j over the box of all images within ε, as `certifier` has
    it. Over the first steps ε and 1 - κ rise from 0. In `evaluate` the loss is
    that of the images alone. (Gowal et al., arXiv 1810.12715.)

    Args:
      classifier: a model that `certifier` accepts with norm="inf", of two
        logits at least.
      epsilon: ε > 0.
      ramp_steps: optimizer steps after which ε and κ are as given, >= 1.
      clean_share: κ, in [0, 1].
      bounds: the smallest and the largest value of a pixel, or None.

    Raises:
      ValueError: naming the layer, if one carries no box.

    >>> from stable_node_tf import ode_classifier
    >>> classifier = ode_classifier(width=8, delta_bar=0.0)
    >>> trained = BoxTrained(classifier, epsilon=0.1, ramp_steps=100)
    >>> trained.weights[0] is classifier.weights[0]
    True
    """

    def __init__(
        self,
        classifier: keras.Model,
        epsilon: float,
        ramp_steps: int,
        clean_share: float = 0.5,
        bounds: Sequence[float] | None = (0.0, 1.0),
    ) -> None:
        network = certified_network(classifier)
        super().__init__(
            classifier.inputs, classifier.outputs, name=classifier.name
        )
        self._boxes = BoxCertifier(network._replace(unit=0.0), bounds)
        self._epsilon = check_positive(epsilon, "epsilon")
        self._ramp_steps = check_count(ramp_steps, "ramp_steps")
        if classifier.outputs[0].shape[-1] < 2 or not 0.0 <= clean_share <= 1.0:
            raise ValueError(
                "`classifier` must have two logits at least, and `clean_share` "
                f"be in [0, 1]. Received: {classifier.outputs[0].shape[-1]} "
                f"logits and clean_share={clean_share}"
            )
        self._clean_share = float(clean_share)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns the loss of a batch; see the class."""
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return loss
        steps = tf.cast(self.optimizer.iterations, tf.float32)
        ramp = tf.minimum(steps / self._ramp_steps, 1.0)
        [images] = keras.tree.flatten(x)
        box = box_around(
            tf.cast(images, tf.float32),
            ramp * self._epsilon,
            self._boxes.bounds,
            0.0,
        )
        labels = tf.cast(tf.reshape(y, [-1]), tf.int64)
        worst = super().compute_loss(
            x, y, -self._boxes.margins(box, labels), sample_weight, training
        )
        share = (1.0 - self._clean_share) * ramp
        return (1.0 - share) * loss + share * worst
