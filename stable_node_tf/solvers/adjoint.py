"""The adjoint method for TFP's solvers, exact in every order of derivative.

With λ the gradient with respect to u(T), integrate backwards from time T

    u' = f(t, u, θ),   λ' = -λ ∂f/∂u,   γ' = -λ ∂f/∂θ,   γ(T) = 0,

then λ(0) and γ(0) are the gradients with respect to u(0) and θ (Chen et al.,
arXiv 1806.07366, appendix B). TFP does that once: it closes over u(T) and θ in
the system above, so that a derivative of a gradient silently misses what they
contribute. Here the system is solved by a flow with an adjoint of its own,
which is traced only if a derivative of the gradient is asked for, and so on.
"""

import functools
import weakref
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow_probability.python.math import ode

from stable_node_tf.solvers.capped import capped
from stable_node_tf.solvers.checked_field import (
    checked_field,
    is_self_contained,
)
from stable_node_tf.solvers.solver import OdeFn

_FLOWS: weakref.WeakKeyDictionary[ode.Solver, dict[OdeFn, "Flow"]] = (
    weakref.WeakKeyDictionary()
)


def flow_of(solver: ode.Solver, ode_fn: OdeFn) -> "Flow":
    """Returns the flow of a vector field, solved by one of TFP's solvers.

    Self-contained fields are traced once for each solver and shape, however
    often graphs hold their flow.
    """
    if not is_self_contained(ode_fn):
        return Flow(capped(solver), checked_field(ode_fn))
    flows = _FLOWS.setdefault(solver, {})
    if ode_fn not in flows:
        flows[ode_fn] = Flow(capped(solver), checked_field(ode_fn), shared=True)
    return flows[ode_fn]


class Flow:
    """(u(0), constants) -> u(T) with derivatives by the adjoint method.

    If `shared`, solves within graphs share a trace for each shape of their
    arguments; then `ode_fn` must not close over tensors.

    >>> flow = Flow(ode.DormandPrince(), lambda t, u, rate: -rate * u)
    >>> u, constants = tf.ones((1, 1)), {"rate": tf.constant(2.0)}
    >>> flow(0.0, 1.0, u, constants).numpy().round(3)
    array([[0.135]], dtype=float32)
    """

    def __init__(
        self, solver: ode.Solver, ode_fn: OdeFn, shared: bool = False
    ) -> None:
        self._solver = solver
        self._ode_fn = ode_fn
        self._shared = shared
        self._traced_solve = tf.function(
            self._solve, autograph=False, reduce_retracing=True
        )
        self._adjoints: dict[Any, Flow] = {}

    def __call__(
        self,
        start: Any,
        end: Any,
        state: tf.Tensor,
        constants: Mapping[str, tf.Tensor],
    ) -> tf.Tensor:
        """Returns the state at `end` > `start`; times have no gradients.

        `state` and `constants` must be finite.
        """
        start, end = (
            tf.stop_gradient(tf.cast(time, state.dtype))
            for time in (start, end)
        )
        state = _in_reverse_mode(state)
        constants = tf.nest.map_structure(_in_reverse_mode, constants)
        return self._differentiable(start, end, state, constants, None)

    def _differentiable(self, start, end, state, constants, known):
        """Returns the last state, which may be known, with its derivatives."""

        @tf.custom_gradient
        def run(state, *flat):
            fixed = tf.nest.pack_sequence_as(constants, flat)
            if known is None:
                shares = self._shared and not tf.executing_eagerly()
                solve = self._traced_solve if shares else self._solve
                arguments = tf.nest.map_structure(
                    tf.stop_gradient, (state, fixed)
                )
                last = tf.stop_gradient(solve(start, end, *arguments))
            else:
                last = known
                if not self._shared:
                    # `tf.custom_gradient` must see which variables are read.
                    self._ode_fn(start, state, **fixed)

            def gradient(upstream, **watched):
                variables = watched.get("variables", [])
                sums = [*tf.nest.flatten(fixed), *variables]
                # A constant to the tape, made to depend on u(0) and θ.
                moving = self._differentiable(start, end, state, fixed, last)
                shape = _shape(state)
                packed = self._adjoint(shape, variables)(
                    -end,
                    -start,
                    _pack(moving, upstream, [tf.zeros_like(x) for x in sums]),
                    fixed,
                )
                _, first, sums = _unpack(packed, shape, sums)
                gradients = [first, *sums[: len(flat)]]
                if variables:
                    return gradients, sums[len(flat) :]
                return gradients

            return last, gradient

        return run(state, *tf.nest.flatten(constants))

    def _solve(self, start, end, state, constants):
        ode_fn = self._ode_fn
        if self._shared and not tf.executing_eagerly():
            # A stage becomes a call of one function, traced once.
            ode_fn = tf.function(ode_fn, autograph=False)
        ode_fn = functools.partial(ode_fn, **constants)
        if hasattr(self._solver, "advance"):
            return self._solver.advance(ode_fn, start, end, state)
        times = end[tf.newaxis]
        return self._solver._solve(ode_fn, start, state, times).states[0]

    def _adjoint(self, shape, variables):
        """Returns the flow of (u, λ, γ), in the time -t."""

        def system(time, packed, **constants):
            sums = [*tf.nest.flatten(constants), *variables]
            state, adjoint, _ = _unpack(packed, shape, sums)
            with tf.GradientTape() as tape:
                tape.watch((state, constants))
                slope = self._ode_fn(-time, state, **constants)
            adjoint_slope, *sums = tape.gradient(
                slope,
                [state, *sums],
                output_gradients=adjoint,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            return _pack(-slope, adjoint_slope, sums)

        make_solver = self._solver._make_adjoint_solver_fn
        if not self._shared or tf.is_tensor(shape):
            return Flow(make_solver(), system)
        key = tuple(shape)
        if key not in self._adjoints:
            self._adjoints[key] = Flow(make_solver(), system, shared=True)
        return self._adjoints[key]


@tf.custom_gradient
def _in_reverse_mode(tensor):
    """Returns `tensor`, and refuses to be differentiated in forward mode.

    Forward accumulators ask for gradients while no tape records, and would
    take those of `ode_fn` for zero.
    """

    def gradient(upstream):
        one = tf.ones(())
        with tf.GradientTape() as tape:
            tape.watch(one)
            two = one + one
        if tape.gradient(two, one) is None:
            raise NotImplementedError(
                "The adjoint method of 'dormand_prince' and 'bdf' has no "
                "forward-mode derivatives (`tf.autodiff.ForwardAccumulator`). "
                "Nest `tf.GradientTape`s, or use a fixed grid such as 'rk4'."
            )
        return upstream

    return tf.identity(tensor), gradient


def _shape(tensor):
    """Returns what `tf.reshape` takes: no tensor, if that can be."""
    static = tensor.shape
    if static.rank is None or list(static).count(None) > 1:
        return tf.shape(tensor)
    return [-1 if size is None else size for size in static]


def _pack(state, adjoint, sums):
    """Returns one vector: it takes fewer operations than a nest of tensors."""
    parts = [tf.reshape(x, [-1]) for x in (*sums, state, adjoint)]
    return tf.concat([tf.cast(part, state.dtype) for part in parts], axis=0)


def _unpack(packed, shape, sums):
    """Takes `_pack` back; `sums` have the shapes of those that it was given."""
    sums = [tf.convert_to_tensor(x) for x in sums]
    known = [x.shape.num_elements() for x in sums]
    sizes = [
        tf.size(x) if size is None else size
        for x, size in zip(sums, known, strict=True)
    ]
    parts = tf.split(packed[: sum(sizes)], sizes) if sums else []
    pair = packed[sum(sizes) :]
    state, adjoint = (tf.reshape(x, shape) for x in tf.split(pair, 2))
    sums = [
        tf.cast(tf.reshape(part, tf.shape(x)), x.dtype)
        for part, x in zip(parts, sums, strict=True)
    ]
    return state, adjoint, sums
