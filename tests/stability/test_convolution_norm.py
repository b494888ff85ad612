import itertools

import numpy as np
import pytest

from stable_node_tf.stability.convolution_norm import convolution_norm


def matrix(kernel, size, stride, dilation, groups):
    """Zero-padded on all sides, by the definition, entry by entry."""
    *sizes, inputs, outputs = kernel.shape
    axes = len(sizes)
    reach = (np.array(sizes) - 1) * dilation
    counts = (size + reach) // stride + 1
    shape = (*counts, outputs, *[size] * axes, inputs * groups)
    found = np.zeros(shape)
    share = outputs // groups
    for place in itertools.product(*map(range, counts)):
        for tap in itertools.product(*map(range, sizes)):
            where = np.array(place) * stride + np.array(tap) * dilation - reach
            if np.all((where >= 0) & (where < size)):
                for group in range(groups):
                    made = slice(group * share, (group + 1) * share)
                    given = slice(group * inputs, (group + 1) * inputs)
                    found[(*place, made, *where, given)] = kernel[tap][
                        :, made
                    ].T
    return found.reshape(np.prod(counts) * outputs, -1)


@pytest.mark.parametrize(
    "sizes, stride, dilation, groups, size",
    [
        ((3,), 1, 1, 1, 60),
        ((4,), 2, 1, 2, 60),
        ((3,), 1, 3, 1, 60),
        ((5,), 3, 2, 1, 90),
        ((2,), 3, 1, 3, 40),
        ((3, 3), 1, 1, 1, 14),
        ((3, 2), 2, 1, 1, 16),
        ((2, 2), 2, 1, 2, 12),
        ((1, 1), 1, 1, 2, 3),
    ],
)
def test_it_bounds_dense_matrices_by_a_few_per_cent(
    sizes, stride, dilation, groups, size
):
    for seed in range(3):
        generator = np.random.default_rng(seed)
        kernel = generator.normal(size=(*sizes, 2, 2 * groups))
        exact = np.linalg.norm(
            matrix(kernel, size, stride, dilation, groups), 2
        )
        bound = convolution_norm(kernel, stride, dilation, groups)
        assert exact <= bound <= 1.05 * exact


def test_it_is_the_largest_value_of_the_symbol():
    """Many kernels against a much finer grid of frequencies."""
    generator = np.random.default_rng(0)
    for trial in range(200):
        sizes = generator.integers(1, 5, size=1 + trial % 2)
        channels = generator.integers(1, 4, size=2)
        kernel = generator.normal(size=(*sizes, *channels))
        kernel *= 10.0 ** generator.integers(-20, 20)
        axes = tuple(range(len(sizes)))
        symbol = np.fft.fftn(kernel, [97] * len(sizes), axes=axes)
        exact = np.linalg.norm(symbol, 2, axis=(-2, -1)).max()
        assert exact * (1 - 1e-12) <= convolution_norm(kernel) <= 1.02 * exact


def test_it_scales_and_vanishes():
    assert convolution_norm(np.zeros((3, 3, 2, 2))) < 1e-300
    assert 0.3 <= convolution_norm(np.full((1, 1, 1), 0.3)) < 0.3 * (1 + 1e-9)


@pytest.mark.parametrize(
    "kernel, groups",
    [(np.ones(3), 1), (np.full((2, 1, 1), np.nan), 1), (np.ones((2, 1, 3)), 2)],
)
def test_what_is_no_kernel_is_refused(kernel, groups):
    with pytest.raises(ValueError, match="`kernel` must be a finite array"):
        convolution_norm(kernel, groups=groups)
