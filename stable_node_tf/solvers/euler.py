"""The explicit Euler method."""

import keras

from stable_node_tf.solvers.runge_kutta import (
    ButcherTableau,
    ExplicitRungeKutta,
)

# Euler, Institutionum calculi integralis I (1768), section 650.
EULER = ButcherTableau((0.0,), ((),), (1.0,))


@keras.saving.register_keras_serializable(package="stable_node_tf")
class Euler(ExplicitRungeKutta):
    """The explicit Euler method, order 1, on a fixed grid; see `FixedGrid`.

    >>> from stable_node_tf.solvers import integrate
    >>> float(integrate(Euler(1), lambda t, u: -u, [[1.0]])[0, 0])
    0.0
    """

    name = "euler"
    tableau = EULER
