"""Explicit Runge-Kutta schemes as constants, each with its source."""

from typing import NamedTuple


class ButcherTableau(NamedTuple):
    """An explicit Runge-Kutta scheme with s stages.

    Stage i is k_i = f(t + h c_i, u + h sum_{j<i} a_ij k_j), and the step is
    u + h sum_i b_i k_i. Notation of Hairer, Norsett, Wanner, Solving Ordinary
    Differential Equations I, 2nd ed., section II.1.

    Attributes:
      nodes: c, of length s.
      coefficients: the strictly lower triangle of a, row i of length i.
      weights: b, of length s.
    """

    nodes: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


# Euler, Institutionum calculi integralis I (1768), section 650.
EULER = ButcherTableau((0.0,), ((),), (1.0,))

# Shu, Osher, J. Comput. Phys. 77 (1988) 439-471, equation (2.18): strong
# stability preserving, a convex combination of Euler steps of the same size.
SSP_RUNGE_KUTTA_3 = ButcherTableau(
    nodes=(0.0, 1.0, 1 / 2),
    coefficients=((), (1.0,), (1 / 4, 1 / 4)),
    weights=(1 / 6, 1 / 6, 2 / 3),
)

# Kutta, Z. Math. Phys. 46 (1901) 435-453.
RUNGE_KUTTA_4 = ButcherTableau(
    nodes=(0.0, 1 / 2, 1 / 2, 1.0),
    coefficients=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    weights=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
)

# The "3/8 rule", same source: more operations a step, and a smaller error.
KUTTA_THREE_EIGHTHS = ButcherTableau(
    nodes=(0.0, 1 / 3, 2 / 3, 1.0),
    coefficients=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    weights=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
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

# The weights of order 5 minus those of order 4, the seventh stage being the
# derivative at the end of the step; the same source.
DORMAND_PRINCE_ERROR = (
    71 / 57600,
    0.0,
    -71 / 16695,
    71 / 1920,
    -17253 / 339200,
    22 / 525,
    -1 / 40,
)
