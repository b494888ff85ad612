"""The classical Runge-Kutta method."""

import keras

from stable_node_tf.solvers.runge_kutta import (
    ButcherTableau,
    ExplicitRungeKutta,
)

# Kutta, Z. Math. Phys. 46 (1901) 435-453.
RUNGE_KUTTA_4 = ButcherTableau(
    nodes=(0.0, 1 / 2, 1 / 2, 1.0),
    coefficients=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    weights=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
)


@keras.saving.register_keras_serializable(package="stable_node_tf")
class RungeKutta4(ExplicitRungeKutta):
    """The classical Runge-Kutta method, order 4, on a fixed grid.

    See `FixedGrid`.

    >>> from stable_node_tf.solvers import integrate
    >>> float(integrate(RungeKutta4(1), lambda t, u: -u, [[1.0]])[0, 0])
    0.37499...
    """

    name = "rk4"
    tableau = RUNGE_KUTTA_4
