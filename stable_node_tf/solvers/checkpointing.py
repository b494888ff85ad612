"""Back-propagation that keeps the start of each segment and nothing else."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Segment = Callable[[Any, Any, Any], Any]
PullBack = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


def checkpointed_loop(
    segment: Segment,
    pull_back: PullBack,
    state: Any,
    constants: Any,
    num_segments: int,
) -> Any:
    """Applies `segment` for the indices 0, ..., num_segments - 1.

    The gradient computes each segment again from its start, the last one
    first (Griewank, Optim. Methods Softw. 1 (1992) 35-54, with one level). So
    about √n segments of √n steps keep about √n states and √n steps in memory,
    instead of n, for one more forward pass. The loop over the segments is a
    `tf.while_loop`, so that no compiler merges the two passes, and takes one
    segment at a time: it could compute several again ahead of time.

    Args:
      segment: (index, state, constants) -> state of the same shape.
      pull_back: (index, state, constants, gradient of the end) -> gradients
        with respect to state and constants.
      state: nest of tensors; it has gradients.
      constants: nest of tensors with gradients, unlike what `segment` closes
        over.
      num_segments: at least 1.

    >>> double = lambda index, u, c: 2 * u
    >>> u, pull_back = tf.constant(3.0), pull_back_by_tape(double)
    >>> float(checkpointed_loop(double, pull_back, u, (), 2))
    12.0
    """
    pack = tf.nest.pack_sequence_as
    width = len(tf.nest.flatten(state))

    @tf.custom_gradient
    def run(*arguments):
        start, fixed = arguments[:width], arguments[width:]
        fixed = pack(constants, fixed)

        def forward(index, current, saved):
            saved = [
                s.write(index, u) for s, u in zip(saved, current, strict=True)
            ]
            current = segment(index, pack(state, current), fixed)
            return index + 1, tf.nest.flatten(current), saved

        arrays = [
            tf.TensorArray(u.dtype, num_segments, element_shape=u.shape)
            for u in start
        ]
        _, end, arrays = tf.while_loop(
            lambda index, *_: index < num_segments,
            forward,
            (tf.constant(0), list(start), arrays),
            maximum_iterations=num_segments,
            parallel_iterations=1,
        )
        # Plain tensors: a SavedModel could not keep the arrays themselves.
        starts = [array.stack() for array in arrays]

        def gradient(*upstream):
            def pull_segment_back(index, upstream):
                start = pack(state, [u[index] for u in starts])
                return pull_back(index, start, fixed, pack(state, upstream))

            return sweep_back(
                pull_segment_back,
                num_segments,
                list(upstream),
                arguments[width:],
                maximum_iterations=num_segments,
                parallel_iterations=1,
            )

        return tuple(end), gradient

    end = run(*tf.nest.flatten(state), *tf.nest.flatten(constants))
    return pack(state, tf.nest.flatten(end))


def sweep_back(
    pull_back: Callable[[Any, Any], tuple[Any, Any]],
    count: Any,
    upstream: list[tf.Tensor],
    constants: Sequence[tf.Tensor],
    **options: Any,
) -> list[tf.Tensor]:
    """Pulls gradients back through `count` steps, the last one first.

    `pull_back` takes the index of a step and the gradients of its end to those
    of its start and of the constants. Returns the gradients of the first start,
    and the sums of those of the constants.
    """

    def body(index, upstream, sums):
        upstream, terms = pull_back(index, upstream)
        terms = tf.nest.flatten(terms)
        sums = [s + t for s, t in zip(sums, terms, strict=True)]
        return index - 1, tf.nest.flatten(upstream), sums

    zeros = [tf.zeros_like(c) for c in constants]
    _, upstream, sums = tf.while_loop(
        lambda index, *_: index >= 0,
        body,
        (count - 1, upstream, zeros),
        **options,
    )
    return [*upstream, *sums]


def pull_back_by_tape(segment: Segment) -> PullBack:
    """Returns the `pull_back` of `segment` by automatic differentiation."""

    def pull_back(index, state, constants, upstream):
        with tf.GradientTape() as tape:
            tape.watch((state, constants))
            end = segment(index, state, constants)
        return tape.gradient(
            end,
            (state, constants),
            output_gradients=upstream,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    return pull_back
