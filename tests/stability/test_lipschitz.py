import decimal
from fractions import Fraction

import numpy as np
import pytest

from stable_node_tf import worst_case_log_norm
from stable_node_tf.stability.lipschitz import (
    euler_lipschitz,
    euler_step_lipschitz,
    flow_lipschitz,
    implicit_midpoint_step_lipschitz,
    network_lipschitz,
    runge_kutta_step_lipschitz,
    spectral_norm_bound,
    ssprk3_step_lipschitz,
)
from stable_node_tf.stability.rounding import largest_eigenvalue_above


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (40, 20)])
@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_spectral_norm_bound(shape, scale):
    matrix = scale * np.random.default_rng(0).standard_normal(shape)
    norm = scale * np.linalg.norm(matrix / scale, 2)
    bound = spectral_norm_bound(matrix)
    assert norm * (1 - 1e-14) <= bound <= norm * (1 + 1e-10)


def test_spectral_norm_bound_is_proven():
    """|(1, 1)ᵀ/3 · ...|² is rational: compared without rounding."""
    matrix = np.full((3, 1), 1 / 3)
    exact_square = sum(Fraction(float(x)) ** 2 for x in matrix[:, 0])
    assert Fraction(spectral_norm_bound(matrix)) ** 2 >= exact_square
    assert spectral_norm_bound(np.zeros((2, 2))) == 0.0


@pytest.mark.parametrize("size", [1, 5, 60])
def test_largest_eigenvalue_above(size):
    matrix = np.random.default_rng(size).standard_normal((size, size))
    symmetric = (matrix + matrix.T) / 2
    bound = largest_eigenvalue_above(symmetric, 0.0)
    value = np.linalg.eigvalsh(symmetric)[-1]
    assert value <= bound <= value + 1e-11
    assert largest_eigenvalue_above(symmetric, 0.5) >= bound + 0.49


def test_euler_bound_holds_for_euler():
    alpha, steps = 0.1, 20
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((8, 8)) / np.sqrt(8)
    bound = euler_lipschitz(
        worst_case_log_norm(matrix, alpha).upper,
        spectral_norm_bound(matrix),
        1.0,
        steps,
    )
    worst = 0.0
    for _ in range(200):
        difference = generator.standard_normal(8)
        start = np.linalg.norm(difference)
        for _ in range(steps):
            image = matrix @ difference
            slopes = np.where(difference * image > 0, 1.0, alpha)
            difference = difference + slopes * image / steps
        worst = max(worst, np.linalg.norm(difference) / start)
    assert 0.5 * bound < worst <= bound


def test_flow_and_network():
    assert flow_lipschitz(1.0, 2.0) == pytest.approx(np.exp(2.0))
    assert flow_lipschitz(1.0, 2.0) >= np.exp(2.0)
    assert network_lipschitz(2.0, 0.5, 3.0) >= 3.0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: flow_lipschitz(np.nan, 1.0), "delta"),
        (lambda: flow_lipschitz(1.0, 0.0), "terminal_time"),
        (lambda: euler_lipschitz(0.0, 1.0, 1.0, 0), "num_steps"),
        (lambda: euler_lipschitz(0.0, -1.0, 1.0, 1), "spectral_norm"),
        (lambda: euler_step_lipschitz(0.0, -1.0), "step"),
        (lambda: ssprk3_step_lipschitz(-1.0), "euler_step"),
        (
            lambda: implicit_midpoint_step_lipschitz(0.0, -1.0, 1.0),
            "spectral_norm",
        ),
        (lambda: implicit_midpoint_step_lipschitz(0.0, 1.0, -1.0), "step"),
        (
            lambda: runge_kutta_step_lipschitz(1.0, 1.0, -1.0, ((),), (1.0,)),
            "step",
        ),
        (
            lambda: runge_kutta_step_lipschitz(1.0, 1.0, 1.0, (), ()),
            "weights",
        ),
        (lambda: spectral_norm_bound([1.0]), "matrix"),
        (lambda: spectral_norm_bound([[np.inf]]), "matrix"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("num_steps", [2.5, True, "2"])
def test_steps_that_are_no_count(num_steps):
    with pytest.raises(TypeError, match="num_steps"):
        euler_lipschitz(0.0, 1.0, 1.0, num_steps)


def test_bounds_are_not_below_exact_arithmetic():
    """Against 60 digits, where cancellation and underflow are worst."""
    generator = np.random.default_rng(3)
    with decimal.localcontext(prec=60):
        exact = decimal.Decimal
        for _ in range(500):
            delta, norm = generator.uniform(-30, 30), generator.uniform(0, 3)
            time = generator.uniform(0.1, 10.0)
            flow = (exact(delta) * exact(time)).exp()
            assert exact(flow_lipschitz(delta, time)) >= flow
            # Steps that nearly annihilate: 1 + 2hδ + h²|A|² close to 0.
            steps = int(generator.integers(1, 9))
            norm = steps / time * (1 + 1e-13 * generator.normal())
            h = exact(time) / steps
            square = 1 - 2 * h * exact(norm) + (h * exact(norm)) ** 2
            bound = euler_lipschitz(-norm, norm, time, steps)
            assert exact(bound) >= abs(square) ** (exact(steps) / 2)


def test_overflow_is_infinite_and_underflow_positive():
    assert flow_lipschitz(10.0, 100.0) == np.inf
    assert euler_lipschitz(10.0, 10.0, 1e3, 1000) == np.inf
    assert euler_lipschitz(1.0, 1e200, 1.0, 1) == np.inf
    assert 1.0 <= implicit_midpoint_step_lipschitz(-1.0, 1e200, 1.0) < 1.01
    assert euler_lipschitz(-0.4, 0.5, 4000.0, 4000) > 0.0
    assert network_lipschitz(1e-200, 1e-200) > 0.0
    assert network_lipschitz(np.inf, 0.0) == 0.0
    assert spectral_norm_bound([[5e-324], [5e-324]]) > 5e-324
