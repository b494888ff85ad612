"""Explicit Runge-Kutta schemes on a fixed grid.

A scheme is a class with a `tableau` and a `name`, in a file of its own.
"""

import itertools
import math
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from stable_node_tf.solvers.fixed_grid import FixedGrid


class ButcherTableau(NamedTuple):
    """An explicit Runge-Kutta scheme with s stages.

    Stage i is k_i = f(t + h c_i, u + h Σ_{j<i} a_ij k_j), and the step is
    u + h Σ_i b_i k_i. Notation of Hairer, Norsett, Wanner, Solving Ordinary
    Differential Equations I, 2nd ed., section II.1.

    Attributes:
      nodes: c, of length s.
      coefficients: the strictly lower triangle of a, row i of length i.
      weights: b, of length s.
    """

    nodes: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    def is_consistent(self) -> bool:
        """Whether the parts fit, c_i = Σ_j a_ij, and the weights sum to 1."""
        nodes, rows, weights = self
        return (
            len(nodes) == len(weights)
            and list(map(len, rows)) == list(range(len(nodes)))
            and math.isclose(sum(weights), 1.0, abs_tol=1e-12)
            and all(
                math.isclose(node, sum(row), abs_tol=1e-12)
                for node, row in zip(nodes, rows, strict=True)
            )
        )

    def euler_weights(self) -> np.ndarray:
        """Weights that make the stages, and the step, of steps of Euler.

        With E(y) = y + hf(y), stage i is w_i0 u + Σ_(j<=i) w_ij E(stage j), and
        row s is the step itself. If no weight is negative, all are convex
        combinations (Gottlieb, Ketcheson, Shu, Strong Stability Preserving
        Runge-Kutta and Multistep Time Discretizations, 2011, section 3.1, for
        the radius 1).

        Returns:
          An array of shape (s + 1, s + 1), the weights of u in column 0.

        >>> ButcherTableau((0, 1), ((), (1,)), (1 / 2, 1 / 2)).euler_weights()
        array([[1. , 0. , 0. ],
               [0. , 1. , 0. ],
               [0.5, 0. , 0.5]])
        """
        stages = len(self.weights)
        rows = np.zeros((stages + 1, stages + 1))
        for row, given in zip(
            rows, (*self.coefficients, self.weights), strict=True
        ):
            row[: len(given)] = given
        # y = u + A(E(y) - y) for all stages y together.
        inverse = np.linalg.inv(np.eye(stages + 1) + rows)
        return np.column_stack([inverse.sum(1), (inverse @ rows)[:, :-1]])


class ExplicitRungeKutta(FixedGrid, settings=("tableau",)):
    """The scheme of `tableau` on a fixed grid; see `FixedGrid`.

    A scheme of your own is a subclass with a tableau, and a `name` if `get` is
    to know it. To be saved it must be registered with Keras.

    >>> class Heun(ExplicitRungeKutta):
    ...     tableau = ButcherTableau((0, 1), ((), (1,)), (1 / 2, 1 / 2))
    >>> decay = lambda t, u: -u
    >>> Heun(1).solve(decay, 0.0, tf.ones(1), [1.0]).states.numpy()
    array([[0.5]], dtype=float32)
    """

    tableau: ClassVar[ButcherTableau]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        tableau = vars(cls).get("tableau")
        if isinstance(tableau, ButcherTableau) and not tableau.is_consistent():
            raise ValueError(
                "`tableau` must have s nodes, rows of length 0 to s - 1 that "
                "sum to the nodes, and s weights that sum to 1. "
                f"Received: {tableau} of {cls.__name__}"
            )

    @property
    def num_stages(self) -> int:  # type: ignore[override]
        """Evaluations of the vector field in a step."""
        return len(self.tableau.weights)

    def _step(self, ode_fn, jacobian_fn, time, size, state):
        nodes, coefficients, weights = self.tableau
        slopes: list[Any] = []
        for node, row in zip(nodes, coefficients, strict=True):
            stage = _combine(state, size, row, slopes)
            slopes.append(ode_fn(time + node * size, stage))
        return _combine(state, size, weights, slopes), self.num_stages


def computes_tableau(solver: Any) -> bool:
    """Whether a solver takes the steps of its `tableau`, and nothing else.

    So it is if its class, a subclass of `ExplicitRungeKutta`, overrides no
    method: others may take any steps.
    """
    if not isinstance(solver, ExplicitRungeKutta):
        return False
    own = itertools.takewhile(
        lambda cls: cls is not ExplicitRungeKutta, type(solver).__mro__
    )
    return type(getattr(type(solver), "tableau", None)) is ButcherTableau and (
        not any(
            callable(getattr(ExplicitRungeKutta, name, None))
            or isinstance(vars(ExplicitRungeKutta).get(name), property)
            for cls in own
            for name in vars(cls)
        )
    )


def _combine(state, size, row, slopes):
    """Returns state + size Σ_j row_j slopes_j, without the zeros of `row`."""
    terms = [(a, k) for a, k in zip(row, slopes, strict=True) if a]

    def combine(u, *ks):
        for (a, _), k in zip(terms, ks, strict=True):
            u = u + tf.cast(size * a, u.dtype) * k
        return u

    return tf.nest.map_structure(combine, state, *(k for _, k in terms))
