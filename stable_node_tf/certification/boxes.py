"""Boxes: ranges of all numbers of a tensor, carried through layers.

They hold what the network computes, its rounding errors included. They are
computed with rounding themselves, which is added to their radii. See
docs/theory.md, "Boxes". Their tensors may be of a graph, and can be
differentiated.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from stable_node_tf.certification.forward_rounding import gamma

# Roundings in a function of TensorFlow, relative to its value and to its
# argument times its slope.
_FUNCTION_ROUNDINGS = 32


class Box(NamedTuple):
    """All tensors x with |x - center| <= radius in every entry.

    Attributes:
      center: floats, of shape (batch, ...).
      radius: numbers >= 0, of that shape.
      unit: unit roundoff of the arithmetic of the network, where its rounding
        errors are inside; 0.0 where the box holds in real arithmetic.

    >>> Box.between(tf.constant([0.0]), tf.constant([1.0])).center.numpy()
    array([0.5], dtype=float32)
    """

    center: Any
    radius: Any
    unit: float = 0.0

    @classmethod
    def between(cls, lower: Any, upper: Any, unit: float = 0.0) -> "Box":
        """The box with these ends."""
        center = 0.5 * lower + 0.5 * upper
        radius = tf.maximum(upper - center, center - lower)
        return cls(center, radius * (1.0 + 4.0 * roundoff(center)), unit)

    @property
    def size(self) -> Any:
        """Bounds |x|, up to two roundings."""
        return tf.abs(self.center) + self.radius

    @property
    def ends(self) -> tuple[Any, Any]:
        """The smallest and the largest x, rounded outwards."""
        room = self.radius + 3.0 * roundoff(self.center) * self.size
        return self.center - room, self.center + room


def affine(
    box: Box,
    linear: Callable[[Any], Any],
    absolute: Callable[[Any], Any],
    bias: Any,
    terms: int,
) -> Box:
    """The box of Wx + b.

    A computed sum of n products and a bias is off by at most
    γ_(n+1)(|W||x| + |b|) (Higham, Accuracy and Stability of Numerical
    Algorithms, 2nd ed., §3.1).

    Args:
      box: of x.
      linear: x -> Wx, in the dtype of the box.
      absolute: x -> |W|x.
      bias: b, a tensor that broadcasts, or None.
      terms: n, the most products in a sum.

    >>> box = Box(tf.constant([[1.0, 2.0]]), tf.constant([[0.5, 0.25]]))
    >>> W = tf.constant([[1.0], [-1.0]])
    >>> out = affine(box, lambda x: x @ W, lambda x: x @ abs(W), None, 2)
    >>> out.center.numpy().tolist(), out.radius.numpy().round(5).tolist()
    ([[-1.0]], [[0.75]])
    """
    own = roundoff(box.center)
    off = gamma(terms + 2, box.unit) + gamma(terms + 2, own)
    center = linear(box.center)
    radius = absolute(box.radius + off * box.size)
    if bias is not None:
        center, radius = center + bias, radius + off * tf.abs(bias)
    return Box(center, radius * above(terms, own), box.unit)


def scaled(box: Box, scale: Any, shift: Any) -> Box:
    """The box of x · scale + shift, entry by entry, if scale is a bit off."""
    scale, shift = (tf.cast(x, box.center.dtype) for x in (scale, shift))
    return affine(
        box, lambda x: x * scale, lambda x: x * tf.abs(scale), shift, terms=8
    )


def elementwise(
    box: Box,
    function: Callable[[Any], Any],
    turns: Sequence[float],
    lipschitz: float,
    roundings: int | None,
) -> Box:
    """The box of f(x) for a continuous f that turns at some points.

    Its extrema are at the ends of the range of x and at the turns inside.

    Args:
      box: of x.
      function: f.
      turns: where f goes from rising to falling or back.
      lipschitz: L, a Lipschitz constant of f.
      roundings: if f is computed to this number times uL|x|; else None.
    """
    own, ends = roundoff(box.center), box.ends
    inside = [tf.minimum(tf.maximum(ends[0], turn), ends[1]) for turn in turns]
    values = tf.stack([function(x) for x in (*ends, *inside)])
    lower, upper = tf.reduce_min(values, 0), tf.reduce_max(values, 0)
    steep = lipschitz * box.size
    local = (roundings or 0) * 1.01 * box.unit * steep
    local += _FUNCTION_ROUNDINGS * own * (steep + tf.reduce_max(abs(values), 0))
    unit = 0.0 if roundings is None else box.unit
    return Box.between(lower - local, upper + local, unit)


def stacked(boxes: Sequence[Box]) -> Box:
    """Several boxes of one shape, along a last axis."""
    return Box(
        tf.stack([box.center for box in boxes], -1),
        tf.stack([box.radius for box in boxes], -1),
        min(box.unit for box in boxes),
    )


def moved(box: Box, move: Callable[[Any], Any]) -> Box:
    """The box of numbers that are moved, repeated, dropped or padded by 0."""
    return Box(move(box.center), move(box.radius), box.unit)


def by_ends(boxes: Sequence[Box], increasing: Callable[..., Any]) -> Box:
    """The box of a function that rises in all numbers and does not round."""
    lower, upper = zip(*(box.ends for box in boxes), strict=True)
    unit = min(box.unit for box in boxes)
    return Box.between(increasing(*lower), increasing(*upper), unit)


def roundoff(tensor: Any) -> float:
    """The unit roundoff of the dtype of a tensor."""
    dtype = tf.as_dtype(tensor.dtype).as_numpy_dtype
    return float(np.finfo(dtype).eps) / 2


def above(terms: int, unit: float) -> float:
    """A factor that a sum of numbers >= 0 and few operations stay below."""
    return 1.0 + 2.0 * gamma(terms + 16, unit)
