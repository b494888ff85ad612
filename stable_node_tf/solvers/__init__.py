"""Solvers of u' = f(t, u), each a `tfp.math.ode.Solver`.

On fixed grids: explicit Runge-Kutta schemes and the implicit midpoint rule.
Adaptive: TFP's `DormandPrince` and `BDF` with a step cap, and
`PerSampleDormandPrince`, whose rows do not depend on each other. `get` makes
them from a name; `integrate` is the one call that a layer needs.
"""

from stable_node_tf.solvers.dormand_prince_5 import DormandPrince5
from stable_node_tf.solvers.euler import Euler
from stable_node_tf.solvers.fields import LayerField
from stable_node_tf.solvers.fixed_grid import FixedGrid
from stable_node_tf.solvers.implicit_midpoint import ImplicitMidpoint
from stable_node_tf.solvers.integrate import integrate
from stable_node_tf.solvers.kutta_three_eighths import KuttaThreeEighths
from stable_node_tf.solvers.per_sample_dormand_prince import (
    PerSampleDormandPrince,
)
from stable_node_tf.solvers.runge_kutta import (
    ButcherTableau,
    ExplicitRungeKutta,
)
from stable_node_tf.solvers.runge_kutta_4 import RungeKutta4
from stable_node_tf.solvers.serialization import get, serialize
from stable_node_tf.solvers.solver import BY_NAME
from stable_node_tf.solvers.ssp_runge_kutta_3 import SSPRungeKutta3
from stable_node_tf.solvers.step_statistics import StepStatistics

NAMES = tuple(sorted(BY_NAME))
"""The names that `get` knows."""

__all__ = [
    "NAMES",
    "ButcherTableau",
    "DormandPrince5",
    "Euler",
    "ExplicitRungeKutta",
    "FixedGrid",
    "ImplicitMidpoint",
    "KuttaThreeEighths",
    "LayerField",
    "PerSampleDormandPrince",
    "RungeKutta4",
    "SSPRungeKutta3",
    "StepStatistics",
    "get",
    "integrate",
    "serialize",
]
