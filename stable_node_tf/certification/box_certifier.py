"""What is proven in the ∞-norm about a classifier: boxes up to its logits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from stable_node_tf.certification.boxes import Box, above, roundoff
from stable_node_tf.certification.forward_rounding import gamma
from stable_node_tf.certification.keras_layers.dense import linear_readout
from stable_node_tf.certification.network import CertifiedNetwork
from stable_node_tf.certification.radius import UNLIMITED, unlimited_to_infinity
from stable_node_tf.certification.rules import box_after
from stable_node_tf.checks import increasing_ends
from stable_node_tf.model_graph.binary_logits import class_logits

# Radii are found up to a factor of 2^(24 / 2^16), or 1.00026, down to 2^-24
# times the largest that there is.
_OCTAVES = 24.0
_BISECTIONS = 16


class BoxCertifier:
    """Carries boxes through one network; called, it certifies images.

    Weights are those that the network has when it is asked. What is in a box
    is computed in float64.

    Attributes:
      num_classes: K.
      bounds: of pixels, in the dtype of images, or None.
      holds_for: what the radii hold for, in words.

    Args:
      network: the network.
      bounds: the smallest and the largest value of a pixel, or None if pixels
        have none. Nothing is said about images with pixels beyond.

    Raises:
      ValueError: naming the layer, if one has no rule for boxes.
    """

    def __init__(
        self, network: CertifiedNetwork, bounds: Sequence[float] | None
    ) -> None:
        self._network = network
        self.bounds = _checked(bounds, network.graph.tensors[0].dtype)
        kernel, _ = linear_readout(network.readout.operation)
        self.num_classes = max(kernel.shape[1], 2)
        shape = (1, *network.graph.tensors[0].shape[1:])
        zeros = tf.zeros(shape, tf.float64)
        unit = self._before_readout(Box(zeros, zeros, network.unit)).unit
        self.holds_for = f"∞-norm, {network.arithmetic(unit)}"

    def check_inside(self, images: np.ndarray) -> None:
        """Raises a ValueError unless all pixels are within the bounds."""
        if self.bounds is None or not images.size:
            return
        (low, high), least, most = self.bounds, images.min(), images.max()
        if least < low or most > high:
            raise ValueError(
                f"`images` must lie in [{low:g}, {high:g}], or other `bounds` "
                f"be given. Received: values from {least:g} to {most:g}"
            )

    def __call__(self, images: Any, logits: Any) -> tf.Tensor:
        """Certifies images whose logits the network has computed.

        Args:
          images: of shape (n, ...).
          logits: of shape (n, K), or (n, 1) for two classes.

        Returns:
          ℓ∞ radii, float64, of shape (n,), infinite where no image within the
          bounds has another class.
        """
        return unlimited_to_infinity(self.limited(images, logits))

    def limited(self, images: Any, logits: Any) -> tf.Tensor:
        """As the call, but `radius.UNLIMITED` for infinity."""
        classes = tf.argmax(class_logits(logits), axis=-1)
        images = tf.cast(images, tf.float64)
        largest = tf.fill(tf.shape(classes), tf.constant(2.0**24, tf.float64))
        octaves = 2.0 * _OCTAVES
        if self.bounds is not None:
            # Farther than that no pixel goes.
            octaves, (low, high) = _OCTAVES, self.bounds
            farthest = tf.maximum(images - low, high - images) * (1.0 + 1e-15)
            largest = tf.reduce_max(
                tf.reshape(farthest, [tf.shape(images)[0], -1]), axis=1
            )

        def body(octave, exponent, radius):
            trial = tf.minimum(largest * 2.0 ** (exponent + octave), largest)
            proven = self._proves(images, classes, trial)
            exponent = tf.where(proven, exponent + octave, exponent)
            return octave / 2.0, exponent, tf.where(proven, trial, radius)

        # The first trial is the largest.
        start = tf.fill(tf.shape(largest), tf.constant(-octaves, tf.float64))
        *_, radius = tf.while_loop(
            lambda *_: True,
            body,
            (tf.constant(octaves, tf.float64), start, tf.zeros_like(largest)),
            maximum_iterations=_BISECTIONS + 1,
        )
        if self.bounds is None:
            return radius
        everywhere = tf.fill(
            tf.shape(radius), tf.constant(UNLIMITED, tf.float64)
        )
        return tf.where(radius == largest, everywhere, radius)

    def within(self, images: Any, logits: Any, radii: Any) -> tf.Tensor:
        """Whether the class is proven at R radii: booleans, shape (R, n)."""
        classes = tf.argmax(class_logits(logits), axis=-1)
        images = tf.cast(images, tf.float64)
        return tf.map_fn(
            lambda radius: self._proves(images, classes, radius),
            tf.cast(radii, tf.float64),
            fn_output_signature=tf.bool,
        )

    def _proves(self, images: Any, classes: Any, radii: Any) -> tf.Tensor:
        """Whether classes are those of all images in a ball around each."""
        box = box_around(images, radii, self.bounds, self._network.unit)
        margins = self.margins(box, classes)
        other = tf.range(self.num_classes, dtype=classes.dtype)
        other = other != classes[:, None]
        return tf.reduce_all(~other | (margins > 0.0), axis=-1)

    def margins(self, box: Box, classes: Any) -> tf.Tensor:
        """Lower bounds of logit_y - logit_j over a box, for all classes j.

        Args:
          box: of images.
          classes: y, integers of shape (n,).

        Returns:
          Bounds of shape (n, K), in the dtype of the box; 0 for j = y, up to
          rounding.
        """
        box = self._before_readout(box)
        layer, dtype = self._network.readout.operation, box.center.dtype
        kernel = tf.cast(layer.kernel, dtype)
        bias = tf.zeros_like(kernel[0])
        if layer.bias is not None:
            bias = tf.cast(layer.bias, dtype)
        if kernel.shape[1] == 1:
            kernel, bias = (
                tf.pad(kernel, [[0, 0], [1, 0]]),
                tf.pad(bias, [[1, 0]]),
            )
        terms, own = kernel.shape[0], roundoff(box.center)
        off = gamma(terms + 2, box.unit) + gamma(terms + 2, own)
        real = tf.matmul(box.center, kernel) + bias
        rounding = off * (tf.matmul(box.size, tf.abs(kernel)) + tf.abs(bias))
        # One radius for each pair of logits, not two that add up.
        apart = tf.abs(kernel[:, :, None] - kernel[:, None, :])
        spread = tf.matmul(
            box.radius, tf.reshape(apart, [terms, self.num_classes**2])
        )
        spread = tf.reshape(spread, [-1, self.num_classes, self.num_classes])
        spread = tf.gather(spread, classes, batch_dims=1)

        def of_classes(numbers):
            return tf.gather(numbers, classes, batch_dims=1)[:, None]

        allowance = spread + of_classes(rounding) + rounding
        allowance += 4.0 * own * (of_classes(tf.abs(real)) + tf.abs(real))
        return of_classes(real) - real - allowance * above(terms, own)

    def _before_readout(self, box: Box) -> Box:
        reached = {0: box}
        graph, readout, _ = self._network
        for step in graph.steps:
            if step is readout:
                break
            before = [reached[number] for number in step.inputs]
            reached[step.outputs[0]] = box_after(
                step.operation, before, **step.options
            )
        return reached[readout.inputs[0]]


def box_around(
    images: Any, radii: Any, bounds: tuple[float, float] | None, unit: float
) -> Box:
    """The box of all images of the bounds at most that far from some.

    Args:
      images: of shape (n, ...), in the dtype of the box.
      radii: one number, or n.
      bounds: of pixels, or None.
      unit: of the box.

    >>> images = tf.constant([[0.0, 0.5]], tf.float64)
    >>> box_around(images, 0.25, (0.0, 1.0), 0.0).center.numpy().round(3)
    array([[0.125, 0.5  ]])
    """
    radii = tf.cast(radii, images.dtype)
    if radii.shape.rank:
        radii = tf.reshape(radii, [-1] + [1] * (images.shape.rank - 1))
    own = roundoff(images)
    room = radii + 2.0 * own * (tf.abs(images) + radii)
    lower, upper = images - room, images + room
    if bounds is not None:
        # An image with pixels beyond is in its box all the same.
        lower = tf.minimum(images, tf.maximum(lower, bounds[0]))
        upper = tf.maximum(images, tf.minimum(upper, bounds[1]))
    return Box.between(lower, upper, unit)


def _checked(
    bounds: Sequence[float] | None, dtype: str
) -> tuple[float, float] | None:
    """Bounds as the dtype of images has them."""
    if bounds is None:
        return None
    ends = increasing_ends(bounds, tf.as_dtype(dtype).as_numpy_dtype)
    if ends is None:
        raise ValueError(
            "`bounds` must be None or two finite numbers, the smaller one "
            f"first. Received: bounds={bounds!r}"
        )
    return ends
