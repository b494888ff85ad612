"""Solvers of u' = f(t, u), each a `tfp.math.ode.Solver`.

On fixed grids: explicit Runge-Kutta schemes and the implicit midpoint rule.
Adaptive: TFP's `DormandPrince` and `BDF` with a step cap, and
`PerSampleDormandPrince`, whose rows do not depend on each other. `get` makes
them from a name; `integrate` is the one call that a layer needs.
"""

from stable_node_tf.solvers.fixed_grid import FixedGrid
from stable_node_tf.solvers.implicit_midpoint import ImplicitMidpoint
from stable_node_tf.solvers.integrate import integrate
from stable_node_tf.solvers.layer_field import LayerField
from stable_node_tf.solvers.per_sample import PerSampleDormandPrince
from stable_node_tf.solvers.runge_kutta import (
    DormandPrince5,
    Euler,
    ExplicitRungeKutta,
    KuttaThreeEighths,
    RungeKutta4,
    SSPRungeKutta3,
)
from stable_node_tf.solvers.serialization import NAMES, get, serialize
from stable_node_tf.solvers.step_statistics import StepStatistics

__all__ = [
    "NAMES",
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
