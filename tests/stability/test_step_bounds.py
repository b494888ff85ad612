"""Lipschitz constants of steps, against vertices and semidefinite optima."""

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stable_node_tf.stability.lipschitz import (
    euler_lipschitz,
    euler_step_lipschitz,
    implicit_midpoint_step_lipschitz,
    repeated_lipschitz,
    runge_kutta_step_lipschitz,
    spectral_norm_bound,
    ssprk3_step_lipschitz,
)
from stable_node_tf.stability.log_norm import (
    certified_log_norm,
    euler_log_norm,
    worst_case_log_norm,
)

RK4 = ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
MATRICES = dict(
    size=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    alpha=st.sampled_from([0.01, 0.1, 0.5, 1.0]),
    step=st.sampled_from([1e-6, 0.05, 0.5, 3.0]),
)


def gaussian(size, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((size, size)) / np.sqrt(size)


def vertices(size, alpha):
    bits = np.arange(2**size)[:, None] >> np.arange(size) & 1
    return np.where(bits, 1.0, alpha)


def lipsdp(matrix, alpha, step):
    """γ² of one step by the matrix inequality in (γ², Λ), interior point."""
    size, middle = len(matrix), (1 + alpha) / 2
    weights, square = cp.Variable(size, nonneg=True), cp.Variable()
    eye, scaled = np.eye(size), cp.diag(weights) @ matrix
    corner = step * eye + middle * scaled
    inequality = cp.bmat(
        [
            [(1 - square) * eye - alpha * matrix.T @ scaled, corner.T],
            [corner, step**2 * eye - cp.diag(weights)],
        ]
    )
    problem = cp.Problem(
        cp.Minimize(square), [(inequality + inequality.T) / 2 << 0]
    )
    problem.solve(solver="CLARABEL")
    return square.value


@pytest.mark.parametrize("step", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.9])
def test_euler_bound_is_the_semidefinite_optimum(alpha, step):
    matrix = gaussian(6)
    bound, _ = euler_log_norm(matrix, alpha, step)
    assert 1 + 2 * step * bound == pytest.approx(
        lipsdp(matrix, alpha, step), rel=2e-6
    )


@settings(max_examples=20, deadline=None)
@given(**MATRICES)
def test_euler_bound_holds_at_every_vertex(size, seed, alpha, step):
    """|I + hDA|₂ is convex in D: its maximum is at a vertex."""
    matrix = gaussian(size, seed)
    bound, certificate = euler_log_norm(matrix, alpha, step)
    assert certified_log_norm(matrix, alpha, certificate, step) == bound
    steps = np.eye(size) + step * vertices(size, alpha)[:, :, None] * matrix
    attained = np.linalg.norm(steps, 2, axis=(1, 2)).max()
    gamma = euler_step_lipschitz(bound, step)
    assert attained <= gamma * (1 + 1e-12)
    crude = euler_lipschitz(
        worst_case_log_norm(matrix, alpha).upper,
        spectral_norm_bound(matrix),
        step,
        1,
    )
    assert gamma <= crude * (1 + 1e-6)
    if size == 1 or alpha == 1.0:
        assert gamma <= attained * (1 + 1e-6) + 1e-4


@pytest.mark.parametrize("step", [20.0, 1e3, 1e6, 1e12, 1e60, 1e99])
@pytest.mark.parametrize("size", [1, 12])
def test_large_steps(size, step):
    """Then |I + hDA|₂ is about h|A|₂, the largest over D."""
    matrix = gaussian(size)
    bound, _ = euler_log_norm(matrix, 0.1, step)
    attained = np.linalg.norm(np.eye(size) / step + matrix, 2)
    rest = (attained**2 - step**-2) / 2
    assert rest * (1 - 1e-12) <= bound / step <= rest * (1 + 0.1 / step + 1e-6)


def test_steps_too_large():
    with pytest.raises(ValueError, match="1e\\+100.*step=1e\\+101"):
        euler_log_norm(np.eye(2), 0.5, 1e101)


def test_step_log_norm_tends_to_that_of_the_flow():
    matrix = gaussian(12)
    flow = worst_case_log_norm(matrix, 0.1).upper
    for step in (0.0, 1e-9):
        assert euler_log_norm(matrix, 0.1, step)[0] == pytest.approx(
            flow, abs=1e-6
        )
    assert euler_log_norm(np.zeros((3, 3)), 0.1, 0.5)[0] < 1e-12


def test_twenty_steps_between_closed_form_and_attained():
    matrix, steps = gaussian(8), 20
    bound, _ = euler_log_norm(matrix, 0.1, 1 / steps)
    sharp = repeated_lipschitz(euler_step_lipschitz(bound, 1 / steps), steps)
    closed = euler_lipschitz(
        worst_case_log_norm(matrix, 0.1).upper,
        spectral_norm_bound(matrix),
        1.0,
        steps,
    )
    assert sharp == pytest.approx(2.1906, abs=1e-4)
    assert 2.1564 < sharp < closed


def stage_slope(matrix, alpha, generator):
    """D A v, with a D in every call that is the worst or a random one."""

    def slope(vector, towards):
        image = matrix @ vector
        if generator.random() < 0.3:
            return generator.choice([alpha, 1.0], len(vector)) * image
        return np.where(towards * image > 0, 1.0, alpha) * image

    return slope


def shu_osher(e, h, slope):
    first = e + h * slope(e, e)
    second = 0.75 * e + 0.25 * (first + h * slope(first, e))
    return e / 3 + 2 / 3 * (second + h * slope(second, e))


def classical(e, h, slope):
    k1 = slope(e, e)
    k2 = slope(e + h / 2 * k1, e)
    k3 = slope(e + h / 2 * k2, e)
    k4 = slope(e + h * k3, e)
    return e + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


@settings(max_examples=20, deadline=None)
@given(**MATRICES)
def test_runge_kutta_bounds_hold(size, seed, alpha, step):
    """With slopes of their own in every stage, as adversarial as we can."""
    matrix = gaussian(size, seed)
    euler = euler_step_lipschitz(euler_log_norm(matrix, alpha, step)[0], step)
    bounds = {
        shu_osher: ssprk3_step_lipschitz(euler),
        classical: runge_kutta_step_lipschitz(
            euler, spectral_norm_bound(matrix), step, *RK4
        ),
    }
    generator = np.random.default_rng(seed)
    slope = stage_slope(matrix, alpha, generator)
    for scheme, bound in bounds.items():
        for _ in range(50):
            e = generator.standard_normal(size)
            growth = np.linalg.norm(scheme(e, step, slope))
            assert growth <= bound * np.linalg.norm(e) * (1 + 1e-12)


def test_runge_kutta_bound_of_order_four_in_closed_form():
    z = 0.3
    bound = runge_kutta_step_lipschitz(1.0, 3.0, 0.1, *RK4)
    assert bound == pytest.approx(1 + z**2 / 2 + z**3 / 6 + z**4 / 24)
    with pytest.raises(ValueError, match="weights"):
        runge_kutta_step_lipschitz(1.0, 1.0, 0.1, ((), (1.0,)), (2.0, -1.0))


@settings(max_examples=20, deadline=None)
@given(**MATRICES)
def test_implicit_midpoint_bound_holds(size, seed, alpha, step):
    matrix = gaussian(size, seed) - (seed % 3) * np.eye(size)
    delta = worst_case_log_norm(matrix, alpha, starts=8).upper
    assume(step * delta < 1.9)
    bound = implicit_midpoint_step_lipschitz(
        delta, spectral_norm_bound(matrix), step
    )
    eye = np.eye(size)
    for slopes in vertices(size, alpha):
        half = step / 2 * slopes[:, None] * matrix
        growth = np.linalg.norm(np.linalg.solve(eye - half, eye + half), 2)
        assert growth <= bound * (1 + 1e-12)
    if delta <= 0.0:
        assert bound <= 1.0 + 1e-12


def test_implicit_midpoint_bound_is_attained_and_ends():
    assert implicit_midpoint_step_lipschitz(1.0, 1.0, 1.0) == pytest.approx(3)
    assert implicit_midpoint_step_lipschitz(-1.0, 1.0, 1.0) == pytest.approx(
        1 / 3
    )
    assert implicit_midpoint_step_lipschitz(-2.0, 2.0, 1.0) < 1e-6
    assert implicit_midpoint_step_lipschitz(2.0, 2.0, 1.0) == np.inf
