"""What a step control did for each row of a batch."""

from typing import NamedTuple

import tensorflow as tf


class StepStatistics(NamedTuple):
    """What the step control of each row did.

    Attributes:
      num_ode_fn_evaluations: evaluations of the vector field spent on the row,
        of shape (batch,).
      accepted: accepted steps, of shape (batch,).
      rejected: rejected steps, of shape (batch,).
      last_step: size of the last accepted step, of shape (batch,).
      status: 0 where the row reached the last time, -1 where not, of shape
        (batch,).
    """

    num_ode_fn_evaluations: tf.Tensor
    accepted: tf.Tensor
    rejected: tf.Tensor
    last_step: tf.Tensor
    status: tf.Tensor


def total_statistics(parts: list[StepStatistics]) -> StepStatistics:
    """Sums the statistics of solves one after another, each from the last end.

    Args:
      parts: at least one, all for the same batch.
    """
    evaluations, accepted, rejected, last_steps, status = zip(
        *parts, strict=True
    )
    return StepStatistics(
        tf.add_n(evaluations),
        tf.add_n(accepted),
        tf.add_n(rejected),
        last_steps[-1],
        tf.reduce_min(tf.stack(status), axis=0),
    )
