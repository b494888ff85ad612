"""What a step control did for each row of a batch."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf


class StepStatistics(NamedTuple):
    """What the step control of each row did; all of shape (batch,).

    Attributes:
      num_ode_fn_evaluations: evaluations of the vector field for the row.
      accepted: accepted steps.
      rejected: rejected steps.
      last_step: size of the last accepted step.
      status: 0 where the row reached the last time, -1 where not.
    """

    num_ode_fn_evaluations: tf.Tensor
    accepted: tf.Tensor
    rejected: tf.Tensor
    last_step: tf.Tensor
    status: tf.Tensor


def total_statistics(parts: Sequence[StepStatistics]) -> StepStatistics:
    """Sums up solves one after another, at least one, of the same batch."""
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
