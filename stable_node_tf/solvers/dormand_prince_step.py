"""One step of Dormand and Prince's scheme, with an estimate of its error."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from stable_node_tf.solvers.dormand_prince_5 import DORMAND_PRINCE_5

# The weights of order 5 minus those of order 4, the seventh stage being the
# derivative at the end of the step; the source is that of DORMAND_PRINCE_5.
_ERROR_WEIGHTS = (
    71 / 57600,
    0.0,
    -71 / 16695,
    71 / 1920,
    -17253 / 339200,
    22 / 525,
    -1 / 40,
)


def advanced(
    function: Callable[..., Any],
    time: tf.Tensor,
    size: tf.Tensor,
    state: tf.Tensor,
    slope: tf.Tensor,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns the state at `time + size`, of order 5, and the six slopes.

    `time` and `size` are broadcast with `state`, whose derivative is `slope`.
    """
    slopes = [slope]
    nodes, rows, weights = DORMAND_PRINCE_5
    for node, row in zip(nodes[1:], rows[1:], strict=True):
        stage = state + size * _weighted(row, slopes)
        slopes.append(function(time + node * size, stage))
    return state + size * _weighted(weights, slopes), slopes


def estimated_error(
    size: tf.Tensor, slopes: Sequence[tf.Tensor], last: tf.Tensor
) -> tf.Tensor:
    """Returns the difference to order 4; `last` is the slope at the end."""
    return size * _weighted(_ERROR_WEIGHTS, [*slopes, last])


def step_factor(
    ratio: tf.Tensor, order: int, safety: Any, smallest: Any, largest: Any
) -> tf.Tensor:
    """Returns next / last step size; `ratio` is the error over tolerance."""
    factor = safety * tf.pow(tf.maximum(ratio, 1e-30), -1 / order)
    factor = tf.clip_by_value(factor, smallest, largest)
    return tf.where(tf.math.is_finite(ratio), factor, smallest)


def _weighted(weights, slopes):
    pairs = zip(weights, slopes, strict=True)
    return tf.add_n([a * k for a, k in pairs if a])
