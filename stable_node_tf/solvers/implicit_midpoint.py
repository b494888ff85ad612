"""The implicit midpoint rule on a fixed grid, B-stable."""

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.solvers.fixed_grid import FixedGrid
from stable_node_tf.solvers.nan_where import nan_where

_MAX_FACTORIZATIONS = 50
# How many lengths each of the three iterations that share a Jacobian may try.
_LENGTHS = (6, 1, 1)


@keras.saving.register_keras_serializable(package="stable_node_tf")
class ImplicitMidpoint(FixedGrid):
    """u⁺ = u + h f(t + h/2, (u + u⁺)/2): order 2, B-stable.

    If the exact flow brings any two solutions closer, so does every step, of
    any size (Butcher, BIT 15 (1975) 358-361), up to rounding and the tolerance
    of the iteration. Each row of a state (batch, d) is solved for by Newton's
    method, so `ode_fn` must treat rows independently; a d x d matrix is
    inverted per row and step, two to three times: far more work than an
    explicit step. Rows with NaN give NaN.

    Newton's method is damped: a Jacobian serves three iterations, none of which
    may increase the residual of a row; in the first one, rows whose residual is
    not halved by the full length try 1/4, 1/16, ..., 1/1024 of it as well.

    Gradients are those of the implicit equation, first and second derivatives
    alike. See `FixedGrid`.

    Args:
      num_steps: steps per interval between solution times, at least 1.
      checkpointed: see `FixedGrid`.

    Raises:
      TypeError: if `num_steps` is not an integer.
      ValueError: if it is below 1, or a state is not a tensor (batch, d).
      tf.errors.InvalidArgumentError: if the iteration of a row does not
        converge; compiled by XLA, which has no errors, the row is NaN.

    >>> decay = lambda t, u: -4.0 * u
    >>> solver = ImplicitMidpoint(num_steps=1)
    >>> results = solver.solve(decay, 0.0, tf.ones((1, 1)), [1.0])
    >>> float(results.states[0, 0, 0])
    -0.333...
    """

    name = "implicit_midpoint"
    num_stages = 1
    unrolls = False

    def _step(self, ode_fn, jacobian_fn, time, size, state):
        if not tf.is_tensor(state) or state.shape.rank != 2:
            raise ValueError(
                "The state of `ImplicitMidpoint` must be a tensor of shape "
                f"(batch, d). Received: {state!r}"
            )
        half, middle = size / 2, time + size / 2
        rows = tf.reduce_all(tf.math.is_finite(state), axis=1, keepdims=True)
        state = tf.where(rows, state, tf.zeros_like(state))

        def residual_at(y, u):
            return y - u - half * ode_fn(middle, y)

        def inverse_at(y):
            if jacobian_fn is None:
                jacobian = _jacobian_by_tape(lambda u: ode_fn(middle, u), y)
            else:
                jacobian = jacobian_fn(middle, y)
            # The inverse stops the program at NaN, and says nothing of the row.
            finite = tf.math.is_finite(jacobian)
            jacobian = tf.where(finite, jacobian, tf.zeros_like(jacobian))
            eye = tf.eye(tf.shape(y)[1], dtype=y.dtype)
            return tf.stop_gradient(tf.linalg.inv(eye - half * jacobian))

        fixed = tf.stop_gradient(state)
        tolerance = 100 * np.finfo(state.dtype.as_numpy_dtype).eps

        def newton(count, y, residual, done):
            inverse = inverse_at(y)
            for lengths in _LENGTHS:
                change = tf.linalg.matvec(inverse, residual)
                arrived = _largest(change) <= tolerance * (1 + _largest(y))
                tried, y, residual = _shortened(
                    lambda y: residual_at(y, fixed),
                    y,
                    residual,
                    change,
                    lengths,
                    waiting=~done,
                    hopeless=arrived,
                )
                count += tried
                done |= arrived
            return count, y, residual, done

        count, y, _, done = tf.while_loop(
            lambda count, y, residual, done: ~tf.reduce_all(done),
            newton,
            (tf.constant(1), fixed, residual_at(fixed, fixed), ~rows),
            maximum_iterations=_MAX_FACTORIZATIONS,
        )
        check = tf.debugging.Assert(
            tf.reduce_all(done),
            [
                "Newton's method did not solve the equation of a step of "
                "`ImplicitMidpoint`. Raise num_steps. Received: steps of size",
                size,
            ],
        )
        with tf.control_dependencies([check]):
            y = tf.stop_gradient(y)
        # With the Jacobian held fixed, each of these makes one more derivative
        # of y exact.
        inverse = inverse_at(y)
        for _ in range(2):
            y = y - tf.linalg.matvec(inverse, residual_at(y, state))
        return nan_where(~(rows & done), 2 * y - state), count + 2


def _shortened(residual_at, y, residual, change, lengths, waiting, hopeless):
    """Returns evaluations, y less a `change` of the best length, its residual.

    A row takes the best of the lengths up to the first that halves its residual
    and stays where it is if none is better, whatever other rows do; `hopeless`
    rows try the full length only.
    """
    start, goal = y, _length(residual) / 2

    def attempt(tried, y, residual, waiting):
        quarter = tf.constant(0.25, y.dtype)
        ahead = start - change * tf.pow(quarter, tf.cast(tried, y.dtype))
        left = residual_at(ahead)
        better = waiting & (_length(left) < _length(residual))
        y = tf.where(better, ahead, y)
        residual = tf.where(better, left, residual)
        return tried + 1, y, residual, waiting & (_length(residual) > goal)

    tried, y, residual, waiting = attempt(tf.constant(0), y, residual, waiting)
    if lengths == 1:
        return tried, y, residual
    return tf.while_loop(
        lambda tried, y, residual, waiting: tf.reduce_any(waiting),
        attempt,
        (tried, y, residual, waiting & ~hopeless),
        maximum_iterations=lengths - 1,
    )[:3]


def _largest(x):
    return tf.reduce_max(tf.abs(x), axis=1, keepdims=True)


def _length(x):
    return tf.norm(x, axis=1, keepdims=True)


def _jacobian_by_tape(function, state):
    with tf.GradientTape() as tape:
        tape.watch(state)
        value = function(state)
    return tape.batch_jacobian(value, state)
