"""Explicit grids for u' = σ(A u + b), their reverse sweep written by hand.

With y_i = u + h Σ_j a_ij k_j, k_i = σ(A y_i + b) and u⁺ = u + h Σ_i b_i k_i,
and with λ the gradient with respect to u⁺, the sweep over the stages of a step
is, for i = s, ..., 1,

    ζ_i = σ'(A y_i + b) ∘ (h b_i λ + h Σ_{j>i} a_ji η_j),   η_i = Aᵀ ζ_i,

after which the gradients with respect to u, A and b are λ + Σ_i η_i,
Σ_i ζ_i y_iᵀ and Σ_i ζ_i: what automatic differentiation computes, in fewer
operations (Hager, Numer. Math. 87 (2000) 247-282; Sanz-Serna, SIAM Rev. 58
(2016) 3-33). Only y_i and σ' are kept. The sweep consists of differentiable
operations on tensors that depend on the arguments, so that higher derivatives
are true ones as well.
"""

import functools
from typing import Any

import tensorflow as tf

from stable_node_tf.solvers import fixed_grid
from stable_node_tf.solvers.checkpointing import (
    checkpointed_loop,
    sweep_back,
)
from stable_node_tf.solvers.runge_kutta import ButcherTableau


def solve_layer(
    tableau: ButcherTableau,
    activation: Any,
    state: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    terminal_time: float,
    num_steps: int,
    checkpointed: bool = False,
) -> tf.Tensor:
    """Returns u(terminal_time) on a grid of `num_steps` equal steps.

    `state` is u(0), `kernel` A and `bias` b, all of one dtype. If
    `checkpointed`, about √num_steps states are kept for the sweep, and the
    steps between them are taken again.

    >>> from stable_node_tf.activations import LeakyTanh
    >>> from stable_node_tf.solvers.euler import EULER
    >>> u, zero = tf.constant([[3.0]]), tf.zeros(1)
    >>> solve_layer(EULER, LeakyTanh(1.0), u, -tf.eye(1), zero, 1.0, 2).numpy()
    array([[0.75]], dtype=float32)
    """
    settings = tableau, activation, terminal_time / num_steps
    sweep = _sweep(*settings, tf.executing_eagerly())
    if checkpointed:
        for _, length, count in fixed_grid.segments(num_steps):
            state = _solve_segments(sweep, state, (kernel, bias), length, count)
        return state

    run, pull_back = sweep.passes(num_steps)

    @tf.custom_gradient
    def solve(state, kernel, bias):
        end, record = run(state, kernel, bias, num_steps)

        # Not a lambda: TensorFlow would take 0.1 s to read its source.
        def gradient(upstream):
            return pull_back(upstream, record, kernel)

        return end, gradient

    return solve(state, kernel, bias)


def _solve_segments(
    sweep: "_Sweep",
    state: tf.Tensor,
    weights: tuple[tf.Tensor, tf.Tensor],
    length: int,
    count: int,
) -> tf.Tensor:
    run, pull_back = sweep.passes(length)

    def segment(index, state, weights):
        return run(state, *weights, length)[0]

    def pull_segment_back(index, state, weights, upstream):
        _, record = run(state, *weights, length)
        start, *sums = pull_back(upstream, record, weights[0])
        return start, tuple(sums)

    return checkpointed_loop(segment, pull_segment_back, state, weights, count)


class _Sweep:
    """Steps forwards, which record stages and slopes, and backwards.

    In a graph each kind of step is a function of its own, traced once for all
    solves of such shapes and called for every step. TensorFlow replaces the
    calls by its body, so that the graph that runs is the one that the
    operations would have made one by one, which takes Python several times as
    long.
    """

    def __init__(
        self,
        tableau: ButcherTableau,
        activation: Any,
        size: float,
        eagerly: bool,
    ) -> None:
        self.step, self.step_back = self._step, self._step_back
        if not eagerly:
            self.step = tf.function(self._step, autograph=False)
            self.step_back = tf.function(self._step_back, autograph=False)
        self.activation = activation
        self.coefficients = [
            [size * a for a in row] for row in tableau.coefficients
        ]
        self.weights = [size * b for b in tableau.weights]

    def passes(self, num_steps: int) -> tuple[Any, Any]:
        """Returns the forward and the backward pass that suit `num_steps`.

        (u, A, b, num_steps) -> (end, record), and (gradient with respect to
        the end, record, A) -> gradients with respect to u, A and b.
        """
        if num_steps * len(self.weights) <= fixed_grid.MAX_UNROLLED_STAGES:
            return self._run_unrolled, self._pull_back_unrolled
        return self._run_looped, self._pull_back_looped

    def _step(self, state, transposed, bias):
        """Returns u⁺, the stages y_i and the slopes σ'(A y_i + b)."""
        stages: list[tf.Tensor] = []
        slopes: list[tf.Tensor] = []
        values: list[tf.Tensor] = []
        for row in self.coefficients:
            stages.append(_combine(state, row, values))
            affine = tf.nn.bias_add(tf.matmul(stages[-1], transposed), bias)
            value, slope = self.activation.value_and_slope(affine)
            values.append(value)
            slopes.append(slope)
        return _combine(state, self.weights, values), stages, slopes

    def _step_back(self, upstream, stages, slopes, kernel):
        """Returns the gradients with respect to u, A and b."""
        num_stages = len(self.weights)
        zetas = [upstream] * num_stages
        etas = [upstream] * num_stages
        for i in reversed(range(num_stages)):
            later = range(i + 1, num_stages)
            column = [self.coefficients[j][i] for j in later]
            weighted = _combine(
                self.weights[i] * upstream, column, etas[i + 1 :]
            )
            zetas[i] = weighted * slopes[i]
            etas[i] = tf.matmul(zetas[i], kernel)
        # One matrix product over all stages together took up to a fifth longer.
        products = [
            tf.matmul(zeta, y, transpose_a=True)
            for zeta, y in zip(zetas, stages, strict=True)
        ]
        return (
            tf.add_n([upstream, *etas]),
            tf.add_n(products),
            tf.reduce_sum(tf.add_n(zetas), axis=0),
        )

    def _run_unrolled(self, state, kernel, bias, num_steps):
        transposed = tf.transpose(kernel)
        record = []
        for _ in range(num_steps):
            state, *of_step = self.step(state, transposed, bias)
            record.append(of_step)
        return state, record

    def _pull_back_unrolled(self, upstream, record, kernel):
        products, sums = [], []
        for stages, slopes in reversed(record):
            upstream, product, row = self.step_back(
                upstream, stages, slopes, kernel
            )
            products.append(product)
            sums.append(row)
        return upstream, tf.add_n(products), tf.add_n(sums)

    def _run_looped(self, state, kernel, bias, num_steps):
        """Records stages and slopes of shape (num_steps, s, batch, d)."""
        transposed = tf.transpose(kernel)

        def body(index, state, stages, slopes):
            state, ys, sigmas = self.step(state, transposed, bias)
            return (
                index + 1,
                state,
                stages.write(index, tf.stack(ys)),
                slopes.write(index, tf.stack(sigmas)),
            )

        shape = [len(self.weights), *state.shape]
        records = [
            tf.TensorArray(state.dtype, num_steps, element_shape=shape)
            for _ in range(2)
        ]
        _, end, stages, slopes = tf.while_loop(
            lambda index, *_: index < num_steps,
            body,
            (tf.constant(0), state, *records),
            maximum_iterations=num_steps,
        )
        return end, (stages.stack(), slopes.stack())

    def _pull_back_looped(self, upstream, record, kernel):
        stages, slopes = record
        num_steps = stages.shape[0]

        def pull_back(index, upstream):
            ys, sigmas = tf.unstack(stages[index]), tf.unstack(slopes[index])
            upstream, *terms = self.step_back(upstream[0], ys, sigmas, kernel)
            return upstream, terms

        return sweep_back(
            pull_back,
            num_steps,
            [upstream],
            (kernel, kernel[0]),
            maximum_iterations=num_steps,
        )


_remembered = functools.lru_cache(maxsize=64)(_Sweep)


def _sweep(*settings: Any) -> _Sweep:
    """One for all solves alike: Keras traces a training step twice."""
    try:
        return _remembered(*settings)
    except TypeError:  # not hashable
        return _Sweep(*settings)


def _combine(state, row, values):
    """Returns state + Σ_j row_j values_j, skipping the zeros of `row`."""
    terms = [a * value for a, value in zip(row, values, strict=True) if a]
    return tf.add_n([state, *terms])
