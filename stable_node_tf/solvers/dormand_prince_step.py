"""One step of Dormand and Prince's scheme, with an estimate of its error."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from stable_node_tf.solvers.tableaux import (
    DORMAND_PRINCE_5,
    DORMAND_PRINCE_ERROR,
)


def advanced(
    function: Callable[..., Any],
    time: tf.Tensor,
    size: tf.Tensor,
    state: tf.Tensor,
    slope: tf.Tensor,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns the state at `time + size`, of order 5, and the six slopes.

    Args:
      function: of a time and a state; returns the derivative of the state.
      time: of `state`; like `size` it is broadcast with `state`.
      size: of the step.
      state: floating tensor.
      slope: derivative of `state`, the first of the six slopes.
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
    """Returns the difference to the embedded solution of order 4.

    Args:
      size: of the step.
      slopes: the six slopes.
      last: derivative at the end of the step.
    """
    return size * _weighted(DORMAND_PRINCE_ERROR, [*slopes, last])


def _weighted(
    weights: Sequence[float], slopes: Sequence[tf.Tensor]
) -> tf.Tensor:
    pairs = zip(weights, slopes, strict=True)
    return tf.add_n([a * k for a, k in pairs if a])
