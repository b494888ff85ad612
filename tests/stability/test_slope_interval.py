import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_node_tf import (
    attained_log_norm,
    certified_log_norm,
    largest_slope_interval,
    worst_case_log_norm,
)


def log_norm(matrix):
    return np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]


def brute_force(matrix, alpha):
    vertices = itertools.product([alpha, 1.0], repeat=len(matrix))
    return max(log_norm(np.array(d)[:, None] * matrix) for d in vertices)


def stable(size, seed):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((size, size)) - 2 * np.eye(size)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 7), st.integers(0, 10**6), st.floats(1e-3, 3.0))
def test_agrees_with_brute_force(size, seed, gap):
    matrix = stable(size, seed)
    c = log_norm(matrix) + gap
    interval = largest_slope_interval(matrix, c)
    alpha = interval.alpha
    assert certified_log_norm(matrix, alpha, interval.certificate) <= c
    assert brute_force(matrix, alpha) <= c
    assert 0.0 <= interval.alpha_lower_bound <= alpha <= 1.0
    if interval.alpha_lower_bound > 0.0:
        assert brute_force(matrix, 0.999 * interval.alpha_lower_bound) > c


@pytest.mark.parametrize("size, gap", [(8, 0.05), (24, 0.02), (48, 0.02)])
def test_alpha_is_the_smallest_certified(size, gap):
    matrix = stable(size, 0) / np.sqrt(size)
    c = log_norm(matrix) + gap
    interval = largest_slope_interval(matrix, c)
    assert interval.alpha > 0.01
    smaller = worst_case_log_norm(matrix, 0.999 * interval.alpha)
    assert smaller.upper > c
    refuted = attained_log_norm(matrix, interval.alpha, interval.witness)
    assert refuted <= c


def test_one_by_one_by_hand():
    """For A = -1 the value is μ2(DA) = -α: the answer is -c."""
    interval = largest_slope_interval([[-1.0]], -0.25)
    assert interval.alpha == pytest.approx(0.25, rel=1e-9)
    assert interval.alpha_lower_bound == pytest.approx(0.25, rel=1e-9)


def test_every_slope_qualifies():
    interval = largest_slope_interval([[-1.0, 0.5], [0.0, -1.0]], 10.0)
    assert interval.alpha < 1e-300
    assert interval.alpha_lower_bound == 0.0


@pytest.mark.parametrize("scale", [1e-300, 1e-100, 1e100, 1e300])
def test_scales(scale):
    matrix = stable(5, 1)
    c = log_norm(matrix) + 0.3
    plain = largest_slope_interval(matrix, c)
    scaled = largest_slope_interval(matrix * scale, c * scale)
    assert scaled.alpha == pytest.approx(plain.alpha, rel=1e-6)


@pytest.mark.parametrize(
    "matrix, c, message",
    [
        ([[1.0]], 0.5, r"c=0.5 and a matrix with μ2 <= 1.0"),
        ([[0.0, 1.0], [-1.0, 0.0]], 0.0, r"c=0.0 .* μ2 <= [1-9].*e-1\d$"),
        ([[1.0, 2.0]], 0.5, "square"),
        ([[np.nan]], 0.5, "finite"),
        ([[-1.0]], np.inf, "`c` must be finite"),
    ],
)
def test_refuses(matrix, c, message):
    with pytest.raises(ValueError, match=message):
        largest_slope_interval(matrix, c)
