"""Dormand and Prince's scheme of order 5."""

import keras

from stable_node_tf.solvers.runge_kutta import (
    ButcherTableau,
    ExplicitRungeKutta,
)

# Dormand, Prince, J. Comput. Appl. Math. 6 (1980) 19-26, RK5(4)7M, without
# the seventh stage, which the solution of order 5 does not use.
DORMAND_PRINCE_5 = ButcherTableau(
    nodes=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0),
    coefficients=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    weights=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)


@keras.saving.register_keras_serializable(package="stable_node_tf")
class DormandPrince5(ExplicitRungeKutta):
    """Dormand and Prince's scheme of order 5, six stages, on a fixed grid.

    The grid does not adapt: for step control see TFP's `DormandPrince` and
    `PerSampleDormandPrince`. See `FixedGrid`.

    >>> from stable_node_tf.solvers import integrate
    >>> float(integrate(DormandPrince5(1), lambda t, u: -u, [[1.0]])[0, 0])
    0.368...
    """

    name = "rk5"
    tableau = DORMAND_PRINCE_5
