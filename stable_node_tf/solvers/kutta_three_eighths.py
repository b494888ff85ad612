"""Kutta's 3/8 rule."""

import keras

from stable_node_tf.solvers.runge_kutta import (
    ButcherTableau,
    ExplicitRungeKutta,
)

# Kutta, Z. Math. Phys. 46 (1901) 435-453: more operations than RungeKutta4.
KUTTA_THREE_EIGHTHS = ButcherTableau(
    nodes=(0.0, 1 / 3, 2 / 3, 1.0),
    coefficients=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    weights=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
)


@keras.saving.register_keras_serializable(package="stable_node_tf")
class KuttaThreeEighths(ExplicitRungeKutta):
    """Kutta's 3/8 rule, order 4, on a fixed grid.

    Four stages like `RungeKutta4`, and usually half its error. See
    `FixedGrid`.

    >>> from stable_node_tf.solvers import integrate
    >>> float(integrate(KuttaThreeEighths(1), lambda t, u: -u, [[1.0]])[0, 0])
    0.375
    """

    name = "rk38"
    tableau = KUTTA_THREE_EIGHTHS
