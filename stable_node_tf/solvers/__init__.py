"""Solvers of u' = f(t, u), each a `tfp.math.ode.Solver`.

On fixed grids: explicit Runge-Kutta schemes. TFP's adaptive `DormandPrince`
and `BDF` run with a step cap. `get` makes them from a name; `integrate` is the
one call that a layer needs.
"""

from stable_node_tf.solvers.fixed_grid import FixedGrid
from stable_node_tf.solvers.integrate import integrate
from stable_node_tf.solvers.layer_field import LayerField
from stable_node_tf.solvers.runge_kutta import (
    DormandPrince5,
    Euler,
    ExplicitRungeKutta,
    RungeKutta4,
    SSPRungeKutta3,
)
from stable_node_tf.solvers.serialisation import get, serialize

__all__ = [
    "DormandPrince5",
    "Euler",
    "ExplicitRungeKutta",
    "FixedGrid",
    "LayerField",
    "RungeKutta4",
    "SSPRungeKutta3",
    "get",
    "integrate",
    "serialize",
]
