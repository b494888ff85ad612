"""Clipped convolutions, against matrices and against the nearest kernels."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf.stability.clipping.convolution import clip_convolution
from stable_node_tf.stability.convolution_norm import convolution_norm


def matrix(kernel, size, strides=1):
    """The convolution of images with `size` pixels an axis, all zeros around.

    Of shape (outputs, inputs).
    """
    *taps, inputs, outputs = kernel.shape
    pixels = list(itertools.product(range(size), repeat=len(taps)))
    reach = size + max(taps)
    rows = itertools.product(
        range(-max(taps) * strides, reach, strides), repeat=len(taps)
    )
    blocks = []
    for row in rows:
        block = np.zeros((outputs, len(pixels), inputs))
        for number, pixel in enumerate(pixels):
            tap = np.subtract(pixel, row)
            if np.all((tap >= 0) & (tap < taps)):
                block[:, number] = kernel[tuple(tap)].T
        blocks.append(block.reshape(outputs, -1))
    return np.concatenate(blocks)


@pytest.mark.parametrize(
    "shape, strides",
    [
        ((3, 3, 2, 3), 1),
        ((5, 3, 1), 1),
        ((2, 3, 1, 4), 1),
        ((2, 2, 2, 2, 1), 1),
        ((3, 3, 2, 2), 2),
        ((2, 2, 1, 3), 2),
    ],
)
def test_the_matrix_stays_below_the_limit(shape, strides):
    generator = np.random.default_rng(0)
    clip = tf.function(
        lambda kernel: clip_convolution(kernel, 0.7, strides), autograph=False
    )
    for scale in (0.3, 1.0, 30.0):
        kernel = scale * generator.standard_normal(shape)
        result = clip(tf.constant(kernel, tf.float32)).numpy()
        wide = result.astype(np.float64)
        norms = [
            np.linalg.norm(matrix(wide, size, strides), 2)
            for size in (1, 2, 4 if len(shape) == 5 else 9)
        ]
        assert max(norms) <= 0.7
        # Small images do not hold the wave that is amplified most.
        assert norms == sorted(norms) and norms[-1] >= 0.55
        bound = convolution_norm(wide, strides)
        assert bound <= 0.7 and (bound >= 0.97 * 0.7 or scale < 1.0)


def nearest(kernel, limit, grid=12, steps=200):
    """Dykstra's projections: symbols in the ball, and those of 3×3 kernels."""
    waves = 2 * np.pi * np.indices((grid, grid)).reshape(2, -1).T / grid
    waves = np.exp(1j * waves @ np.indices((3, 3)).reshape(2, -1))
    moved, residue = kernel.reshape(9, -1), 0.0
    for _ in range(steps):
        symbol = (waves @ moved).reshape(-1, *kernel.shape[2:]) + residue
        left, values, right = np.linalg.svd(symbol, full_matrices=False)
        inside = left * np.minimum(values, limit)[:, None] @ right
        residue = symbol - inside
        back = waves.conj().T @ inside.reshape(grid**2, -1)
        moved = back.real / grid**2
    return moved.reshape(kernel.shape)


@pytest.mark.parametrize("norm", [1.5, 4.0])
def test_it_is_near_the_nearest(norm):
    generator = np.random.default_rng(1)
    limit = convolution_norm(np.ones((3, 3, 1, 1))) / 9  # of the grid's bound
    for _ in range(3):
        kernel = generator.standard_normal((3, 3, 4, 4))
        kernel *= norm / convolution_norm(kernel)
        least = np.linalg.norm(nearest(kernel, 1.0 / limit) - kernel)
        moved = clip_convolution(tf.constant(kernel), 1.0).numpy() - kernel
        assert least * 0.97 <= np.linalg.norm(moved) <= 1.25 * least


def test_training_for_gain_reaches_more_than_scaling_does():
    """Steps along C: scaled kernels would end at C over its norm."""
    gain = np.random.default_rng(0).standard_normal((3, 3, 6, 6))
    gain /= np.linalg.norm(gain)
    clip = tf.function(
        lambda kernel: clip_convolution(kernel, 1.0), autograph=False
    )
    kernel = tf.zeros(gain.shape, tf.float64)
    for _ in range(150):
        kernel = clip(kernel + 0.2 * gain)
    reached = float(tf.reduce_sum(gain * kernel))
    print(reached * convolution_norm(gain))
    assert reached >= 1.3 / convolution_norm(gain)
    assert 0.97 <= convolution_norm(kernel.numpy()) <= 1.0
