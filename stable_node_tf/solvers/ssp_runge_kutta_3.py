"""Shu and Osher's scheme of order 3."""

import keras

from stable_node_tf.solvers.runge_kutta import (
    ButcherTableau,
    ExplicitRungeKutta,
)

# Shu, Osher, J. Comput. Phys. 77 (1988) 439-471, equation (2.18): strong
# stability preserving, a convex combination of Euler steps of the same size.
SSP_RUNGE_KUTTA_3 = ButcherTableau(
    nodes=(0.0, 1.0, 1 / 2),
    coefficients=((), (1.0,), (1 / 4, 1 / 4)),
    weights=(1 / 6, 1 / 6, 2 / 3),
)


@keras.saving.register_keras_serializable(package="stable_node_tf")
class SSPRungeKutta3(ExplicitRungeKutta):
    """Shu and Osher's strong-stability-preserving scheme, order 3.

    A step is a convex combination of the state, one Euler step and three in a
    row, all of the full size: a norm that no Euler step increases, no step
    increases. See `FixedGrid`.

    >>> from stable_node_tf.solvers import integrate
    >>> float(integrate(SSPRungeKutta3(1), lambda t, u: -u, [[1.0]])[0, 0])
    0.333...
    """

    name = "ssprk3"
    tableau = SSP_RUNGE_KUTTA_3
