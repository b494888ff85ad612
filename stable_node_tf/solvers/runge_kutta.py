"""Explicit Runge-Kutta schemes on a fixed grid."""

from typing import Any, ClassVar

import keras
import tensorflow as tf

from stable_node_tf.solvers.fixed_grid import FixedGrid, OdeFn
from stable_node_tf.solvers.tableaux import (
    DORMAND_PRINCE_5,
    EULER,
    KUTTA_THREE_EIGHTHS,
    RUNGE_KUTTA_4,
    SSP_RUNGE_KUTTA_3,
    ButcherTableau,
)

_PACKAGE = "stable_node_tf"


class ExplicitRungeKutta(FixedGrid, settings=("tableau",)):
    """The scheme of `tableau` on a fixed grid; see `FixedGrid`."""

    tableau: ClassVar[ButcherTableau]

    @property
    def num_stages(self) -> int:  # type: ignore[override]
        """Evaluations of the vector field in a step."""
        return len(self.tableau.weights)

    def _step(
        self,
        ode_fn: OdeFn,
        jacobian_fn: OdeFn | None,
        time: tf.Tensor,
        size: tf.Tensor,
        state: Any,
    ) -> tuple[Any, int]:
        del jacobian_fn
        nodes, coefficients, weights = self.tableau
        slopes: list[Any] = []
        for node, row in zip(nodes, coefficients, strict=True):
            stage = _combine(state, size, row, slopes)
            slopes.append(ode_fn(time + node * size, stage))
        return _combine(state, size, weights, slopes), self.num_stages


def _combine(
    state: Any, size: tf.Tensor, row: tuple[float, ...], slopes: list[Any]
) -> Any:
    """Returns state + size sum_j row_j slopes_j, without zeros of `row`."""
    terms = [(a, k) for a, k in zip(row, slopes, strict=True) if a]

    def combine(u: tf.Tensor, *ks: tf.Tensor) -> tf.Tensor:
        total = u
        for (a, _), k in zip(terms, ks, strict=True):
            total = total + tf.cast(size * a, u.dtype) * k
        return total

    return tf.nest.map_structure(combine, state, *(k for _, k in terms))


@keras.saving.register_keras_serializable(package=_PACKAGE)
class Euler(ExplicitRungeKutta):
    """The explicit Euler method, order 1, on a fixed grid.

    See `FixedGrid.solve` for shapes and gradients, `FixedGrid` for arguments.

    >>> decay = lambda t, u: -u
    >>> results = Euler(num_steps=2).solve(decay, 0.0, tf.ones(1), [1.0])
    >>> results.states.numpy().tolist()
    [[0.25]]
    """

    tableau = EULER


@keras.saving.register_keras_serializable(package=_PACKAGE)
class SSPRungeKutta3(ExplicitRungeKutta):
    """Shu and Osher's strong-stability-preserving scheme, order 3.

    A step is a convex combination of the state, one Euler step and three in a
    row, all of the full size: a norm that no Euler step increases, no step
    increases. See `FixedGrid.solve` and `FixedGrid`.

    >>> decay = lambda t, u: -u
    >>> solver = SSPRungeKutta3(num_steps=1)
    >>> results = solver.solve(decay, 0.0, tf.ones(1), [1.0])
    >>> results.states.numpy().round(4).tolist()
    [[0.3332...]]
    """

    tableau = SSP_RUNGE_KUTTA_3


@keras.saving.register_keras_serializable(package=_PACKAGE)
class RungeKutta4(ExplicitRungeKutta):
    """The classical Runge-Kutta method, order 4, on a fixed grid.

    See `FixedGrid.solve` for shapes and gradients, `FixedGrid` for arguments.

    >>> decay = lambda t, u: -u
    >>> solver = RungeKutta4(num_steps=1)
    >>> results = solver.solve(decay, 0.0, tf.ones(1), [1.0])
    >>> results.states.numpy().round(4).tolist()
    [[0.375]]
    """

    tableau = RUNGE_KUTTA_4


@keras.saving.register_keras_serializable(package=_PACKAGE)
class KuttaThreeEighths(ExplicitRungeKutta):
    """Kutta's 3/8 rule, order 4, on a fixed grid.

    Four stages like `RungeKutta4`, and usually half its error. See
    `FixedGrid.solve` for shapes and gradients, `FixedGrid` for arguments.

    >>> decay = lambda t, u: -u
    >>> solver = KuttaThreeEighths(num_steps=1)
    >>> results = solver.solve(decay, 0.0, tf.ones(1), [1.0])
    >>> results.states.numpy().round(4).tolist()
    [[0.375]]
    """

    tableau = KUTTA_THREE_EIGHTHS


@keras.saving.register_keras_serializable(package=_PACKAGE)
class DormandPrince5(ExplicitRungeKutta):
    """Dormand and Prince's scheme of order 5, six stages, on a fixed grid.

    The grid does not adapt: for step control see TFP's `DormandPrince` and
    `PerSampleDormandPrince`. See `FixedGrid.solve` and `FixedGrid`.

    >>> decay = lambda t, u: -u
    >>> solver = DormandPrince5(num_steps=1)
    >>> results = solver.solve(decay, 0.0, tf.ones(1), [1.0])
    >>> results.states.numpy().round(4).tolist()
    [[0.3682...]]
    """

    tableau = DORMAND_PRINCE_5
