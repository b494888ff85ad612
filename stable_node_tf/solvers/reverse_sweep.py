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

from typing import Any

import tensorflow as tf

from stable_node_tf.solvers import fixed_grid
from stable_node_tf.solvers.checkpointing import checkpointed_loop
from stable_node_tf.solvers.tableaux import ButcherTableau


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

    Args:
      tableau: an explicit Runge-Kutta scheme.
      activation: σ, with `value_and_slope`.
      state: u(0), of shape (batch, d).
      kernel: A, of shape (d, d) and the dtype of `state`.
      bias: b, of shape (d,) and the dtype of `state`.
      terminal_time: a number; there is no gradient with respect to it.
      num_steps: at least 1.
      checkpointed: whether to keep only about √num_steps states for the
        sweep, and to take the steps between them again.

    Returns:
      Tensor with shape and dtype of `state`.

    >>> from stable_node_tf.activations import LeakyTanh
    >>> from stable_node_tf.solvers.tableaux import EULER
    >>> u, zero = tf.constant([[3.0]]), tf.zeros(1)
    >>> solve_layer(EULER, LeakyTanh(1.0), u, -tf.eye(1), zero, 1.0, 2).numpy()
    array([[0.75]], dtype=float32)
    """
    sweep = _Sweep(tableau, activation, terminal_time / num_steps)
    if not checkpointed:
        return _solve_recorded(sweep, state, kernel, bias, num_steps)
    length, num_segments, rest = fixed_grid.segments(num_steps)
    state = _solve_segments(sweep, state, kernel, bias, length, num_segments)
    if rest:
        state = _solve_segments(sweep, state, kernel, bias, rest, 1)
    return state


def _solve_recorded(
    sweep: "_Sweep",
    state: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    num_steps: int,
) -> tf.Tensor:
    run, pull_back = sweep.passes(num_steps)

    @tf.custom_gradient
    def solve(state: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> Any:
        end, stages, slopes = run(state, kernel, bias, num_steps)

        def gradient(upstream: tf.Tensor) -> Any:
            return pull_back(upstream, stages, slopes, kernel)

        return end, gradient

    return solve(state, kernel, bias)


def _solve_segments(
    sweep: "_Sweep",
    state: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    length: int,
    num_segments: int,
) -> tf.Tensor:
    run, pull_back = sweep.passes(length)

    def segment(index: Any, state: tf.Tensor, weights: Any) -> tf.Tensor:
        return run(state, *weights, length)[0]

    def pull_segment_back(
        index: Any, state: tf.Tensor, weights: Any, upstream: tf.Tensor
    ) -> Any:
        _, stages, slopes = run(state, *weights, length)
        start, *sums = pull_back(upstream, stages, slopes, weights[0])
        return start, tuple(sums)

    return checkpointed_loop(
        segment, pull_segment_back, state, (kernel, bias), num_segments
    )


class _Sweep:
    """Steps forwards, which record stages and slopes, and backwards.

    In a graph each kind of step is a function of its own, traced once and
    called for every step. TensorFlow puts its body in the place of the calls,
    so that the graph that runs is the one that the operations would have made
    one by one, which takes Python several times as long.
    """

    def __init__(
        self, tableau: ButcherTableau, activation: Any, size: float
    ) -> None:
        self.step, self.step_back = self._step, self._step_back
        if not tf.executing_eagerly():
            self.step = tf.function(self._step, autograph=False)
            self.step_back = tf.function(self._step_back, autograph=False)
        self.activation = activation
        self.coefficients = [
            [size * a for a in row] for row in tableau.coefficients
        ]
        self.weights = [size * b for b in tableau.weights]

    def passes(self, num_steps: int) -> tuple[Any, Any]:
        """Returns the forward and the backward pass that suit `num_steps`."""
        if num_steps * len(self.weights) <= fixed_grid.MAX_UNROLLED_STAGES:
            return self.run_unrolled, self.pull_back_unrolled
        return self.run_looped, self.pull_back_looped

    def _step(
        self, state: tf.Tensor, transposed: tf.Tensor, bias: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
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

    def _step_back(
        self,
        upstream: tf.Tensor,
        stages: list[tf.Tensor],
        slopes: list[tf.Tensor],
        kernel: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
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

    def run_unrolled(
        self,
        state: tf.Tensor,
        kernel: tf.Tensor,
        bias: tf.Tensor,
        num_steps: int,
    ) -> tuple[tf.Tensor, Any, Any]:
        """Returns the end, and lists of lists of stages and slopes."""
        transposed = tf.transpose(kernel)
        stages, slopes = [], []
        for _ in range(num_steps):
            state, *record = self.step(state, transposed, bias)
            stages.append(record[0])
            slopes.append(record[1])
        return state, stages, slopes

    def pull_back_unrolled(
        self, upstream: tf.Tensor, stages: Any, slopes: Any, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the gradients with respect to state, kernel and bias."""
        products, sums = [], []
        for ys, sigmas in zip(reversed(stages), reversed(slopes), strict=True):
            upstream, *terms = self.step_back(upstream, ys, sigmas, kernel)
            products.append(terms[0])
            sums.append(terms[1])
        return upstream, tf.add_n(products), tf.add_n(sums)

    def run_looped(
        self,
        state: tf.Tensor,
        kernel: tf.Tensor,
        bias: tf.Tensor,
        num_steps: int,
    ) -> tuple[tf.Tensor, Any, Any]:
        """As `run_unrolled`, records of shape (num_steps, s, batch, d)."""
        transposed = tf.transpose(kernel)

        def body(index: Any, state: Any, stages: Any, slopes: Any) -> Any:
            state, ys, sigmas = self.step(state, transposed, bias)
            return (
                index + 1,
                state,
                stages.write(index, tf.stack(ys)),
                slopes.write(index, tf.stack(sigmas)),
            )

        records = [
            tf.TensorArray(
                state.dtype,
                num_steps,
                element_shape=[len(self.weights), *state.shape],
            )
            for _ in range(2)
        ]
        _, end, stages, slopes = tf.while_loop(
            lambda index, *_: index < num_steps,
            body,
            (tf.constant(0), state, *records),
            maximum_iterations=num_steps,
        )
        return end, stages.stack(), slopes.stack()

    def pull_back_looped(
        self, upstream: tf.Tensor, stages: Any, slopes: Any, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """As `pull_back_unrolled`, for the records of `run_looped`."""
        num_steps = stages.shape[0]

        def body(index: Any, upstream: Any, kernel_sum: Any, bias_sum: Any):
            ys, sigmas = tf.unstack(stages[index]), tf.unstack(slopes[index])
            upstream, product, row = self.step_back(
                upstream, ys, sigmas, kernel
            )
            return index - 1, upstream, kernel_sum + product, bias_sum + row

        start = (
            tf.constant(num_steps - 1),
            upstream,
            tf.zeros_like(kernel),
            tf.zeros_like(kernel[0]),
        )
        return tf.while_loop(
            lambda index, *_: index >= 0,
            body,
            start,
            maximum_iterations=num_steps,
        )[1:]


def _combine(
    state: tf.Tensor, row: list[float], values: list[tf.Tensor]
) -> tf.Tensor:
    """Returns state + Σ_j row_j values_j, skipping the zeros of `row`."""
    terms = [a * value for a, value in zip(row, values, strict=True) if a]
    return tf.add_n([state, *terms])
