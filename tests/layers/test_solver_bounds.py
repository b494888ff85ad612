import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import solvers, worst_case_log_norm
from stable_node_tf.activations import LeakyTanh
from stable_node_tf.layers.solver_bounds import solver_lipschitz

ALPHA = 0.2
WITH_BOUND = [
    solvers.Euler,
    solvers.SSPRungeKutta3,
    solvers.RungeKutta4,
    solvers.KuttaThreeEighths,
    solvers.ImplicitMidpoint,
]


def draw(seed, shift):
    generator = np.random.default_rng(seed)
    matrix = generator.standard_normal((5, 5)) - shift * np.eye(5)
    return matrix, 0.1 * generator.standard_normal(5), generator


@pytest.mark.parametrize("solver_class", WITH_BOUND)
@pytest.mark.parametrize("shift", [-1.0, 0.0, 4.0])
@pytest.mark.parametrize("num_steps", [4, 30])
def test_no_two_solutions_violate_the_bound(solver_class, shift, num_steps):
    matrix, bias, generator = draw(3, shift)
    solver = solver_class(num_steps)
    delta = worst_case_log_norm(matrix, ALPHA).upper
    bound = solver_lipschitz(solver, matrix, ALPHA, 1.0, delta)
    start = generator.standard_normal((64, 5))
    nearby = start + 1e-3 * generator.standard_normal((64, 5))
    end = solvers.integrate(
        solver,
        solvers.LayerField(LeakyTanh(ALPHA)),
        tf.constant(np.concatenate([start, nearby])),
        1.0,
        {"kernel": matrix, "bias": bias},
    ).numpy()
    stretch = np.linalg.norm(end[:64] - end[64:], axis=1)
    stretch /= np.linalg.norm(start - nearby, axis=1)
    assert stretch.max() <= bound.value * (1 + 1e-9)
    assert bound.step**num_steps == pytest.approx(bound.value)
    assert f"{solver_class.__name__} with {num_steps} steps" in bound.holds_for


@pytest.mark.parametrize(
    "solver_class, excess",
    [
        (solvers.Euler, 0.2),
        (solvers.SSPRungeKutta3, 0.2),
        (solvers.RungeKutta4, 0.4),
        (solvers.KuttaThreeEighths, 0.8),
        (solvers.ImplicitMidpoint, 1e-3),
    ],
)
def test_bounds_tend_to_that_of_the_flow(solver_class, excess):
    matrix, _, _ = draw(4, 0.5)
    delta = worst_case_log_norm(matrix, ALPHA).upper
    flow = np.exp(delta)
    bounds = [
        solver_lipschitz(solver_class(n), matrix, ALPHA, 1.0, delta).value
        for n in (40, 400)
    ]
    coarse, fine = np.abs(np.array(bounds) / flow - 1.0)
    assert fine < min(excess, 0.2 * coarse)


def subclassed(cls):
    """May compute anything."""
    return type("Mine", (cls,), {"_step": cls._step})(20)


@pytest.mark.parametrize(
    "solver",
    [
        *map(subclassed, WITH_BOUND),
        solvers.DormandPrince5(20),
        solvers.PerSampleDormandPrince(),
        solvers.get("dormand_prince"),
        solvers.get("bdf"),
    ],
)
def test_others_say_that_their_bound_is_of_the_flow(solver):
    bound = solver_lipschitz(solver, -np.eye(2), ALPHA, 1.0, -ALPHA)
    assert bound.holds_for == "exact flow (not its discretization)"
    assert bound.step is None
    assert bound.value == pytest.approx(np.exp(-ALPHA))
