"""Thousands of random layers: none is steeper than its rule says."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stable_node_tf.certification.rules import lipschitz_after
from stable_node_tf.stability.convolution_norm import convolution_norm

layers = keras.layers
F64 = {"dtype": "float64"}
COUNTS = st.integers(1, 4)
WEIGHTS = 10  # random weights of each layer

RANDOM = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def weights(layer, generator):
    """Of any size, sparse or not, with positive variances."""
    values, size = [], 10.0 ** generator.uniform(-3, 3)
    for weight in layer.weights:
        value = generator.standard_normal(weight.shape)
        value *= generator.random(weight.shape) < generator.choice([0.4, 1.0])
        value *= size
        values.append(np.abs(value) if "variance" in weight.name else value)
    layer.set_weights(values)


@st.composite
def convolutions(draw):
    """A convolution of one or two axes, and a shape that it accepts."""
    axes = draw(st.integers(1, 2))
    kind = draw(st.sampled_from(["", "Depthwise", "Separable", "Transpose"]))
    groups = draw(st.integers(1, 2)) if not kind else 1
    options = {
        "kernel_size": draw(st.integers(1, 4)),
        "padding": draw(st.sampled_from(["same", "valid"])),
    }
    if draw(st.booleans()):
        options["strides"] = draw(st.integers(1, 3))
    elif kind != "Transpose":  # which TensorFlow cannot dilate on the CPU
        options["dilation_rate"] = draw(st.integers(1, 2))
    channels = groups * draw(st.integers(1, 2))
    if kind == "Depthwise":
        options["depth_multiplier"] = draw(COUNTS)
    else:
        options["filters"] = groups * draw(COUNTS)
    if not kind:
        options["groups"] = groups
    name = (
        f"Conv{axes}DTranspose" if kind == "Transpose" else f"{kind}Conv{axes}D"
    )
    layer = getattr(layers, name)(**options, **F64)
    size = draw(st.integers(7, 9)) if axes == 1 else 7
    return layer, (*[size] * axes, channels)


@RANDOM
@given(convolutions(), st.integers(0, 2**32 - 1))
def test_convolutions(bound_of, norm_of, drawn, seed):
    layer, shape = drawn
    layer.build((None, *shape))
    generator = np.random.default_rng(seed)
    for _ in range(WEIGHTS):
        weights(layer, generator)
        exact = norm_of(layer, shape)
        assert exact <= bound_of(layer, shape) * (1 + 1e-9)


@RANDOM
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=2),
    COUNTS,
    COUNTS,
    st.integers(0, 2**32 - 1),
)
def test_the_bound_of_a_kernel_is_reached(sizes, inputs, outputs, seed):
    """On a torus of 64 pixels an axis, to 2.5 per cent."""
    generator = np.random.default_rng(seed)
    for _ in range(WEIGHTS):
        kernel = generator.standard_normal((*sizes, inputs, outputs))
        axes = tuple(range(len(sizes)))
        symbol = np.fft.fftn(kernel, [64] * len(sizes), axes)
        exact = np.linalg.norm(symbol, 2, axis=(-2, -1)).max()
        assert exact <= convolution_norm(kernel) <= 1.025 * exact


@st.composite
def affine(draw):
    """A layer whose bound is its norm, and a shape."""
    shape = (draw(st.integers(2, 5)), draw(st.integers(2, 5)), draw(COUNTS))
    layer = draw(
        st.sampled_from(
            [
                layers.Dense(draw(COUNTS), **F64),
                layers.BatchNormalization(epsilon=0.01, **F64),
                layers.BatchNormalization(axis=1, scale=False, **F64),
                layers.Normalization(mean=1.0, variance=draw(COUNTS), **F64),
                layers.Rescaling(1.0 / draw(COUNTS), -0.5, **F64),
                layers.GlobalAveragePooling2D(keepdims=True, **F64),
                layers.AveragePooling2D(
                    (draw(COUNTS), 1),
                    draw(COUNTS),
                    padding=draw(st.sampled_from(["same", "valid"])),
                    **F64,
                )
                if draw(st.booleans())
                else layers.AveragePooling2D(2, 1, **F64),
                layers.UpSampling2D((draw(COUNTS), draw(COUNTS)), **F64),
                layers.ZeroPadding2D(draw(COUNTS), **F64),
                layers.Cropping2D(((1, 0), (0, 1)), **F64),
                layers.Permute((3, 1, 2), **F64),
            ]
        )
    )
    if isinstance(layer, layers.AveragePooling2D):
        shape = (5, *shape[1:])
    return layer, shape


@RANDOM
@given(affine(), st.integers(0, 2**32 - 1))
def test_affine_layers(bound_of, norm_of, drawn, seed):
    layer, shape = drawn
    layer.build((None, *shape))
    generator = np.random.default_rng(seed)
    for _ in range(WEIGHTS if layer.weights else 1):
        if layer.trainable_weights:
            weights(layer, generator)
        exact, bound = norm_of(layer, shape), bound_of(layer, shape)
        assert exact * (1 - 1e-9) <= bound
        assert bound <= exact * (1 + 1e-6) + 1e-12


@st.composite
def curved(draw):
    """A layer that is not affine, and a shape."""
    slope = draw(st.floats(0.0, 3.0))
    name = draw(
        st.sampled_from(
            "relu6 elu selu celu gelu silu mish tanh sigmoid softplus "
            "hard_sigmoid hard_silu softsign log_sigmoid softmax".split()
        )
    )
    layer = draw(
        st.sampled_from(
            [
                layers.Activation(name, **F64),
                layers.Dense(draw(COUNTS), name, **F64),
                layers.Conv1D(
                    draw(COUNTS), draw(COUNTS), activation=name, **F64
                ),
                layers.PReLU(shared_axes=[1], **F64),
                layers.LeakyReLU(slope, **F64),
                layers.ReLU(draw(COUNTS), slope, **F64),
                layers.ELU(slope, **F64),
                layers.Softmax(**F64),
                layers.MaxPooling1D(draw(COUNTS), draw(COUNTS), **F64),
                layers.GlobalMaxPooling1D(**F64),
            ]
        )
    )
    return layer, (draw(st.integers(4, 6)), draw(COUNTS))


@RANDOM
@given(curved(), st.integers(0, 2**32 - 1))
def test_curved_layers(bound_of, drawn, seed):
    """Pairs of inputs at all distances."""
    layer, shape = drawn
    layer.build((None, *shape))
    generator = np.random.default_rng(seed)
    for _ in range(WEIGHTS):
        weights(layer, generator)
        x = 3.0 * generator.standard_normal((200, *shape))
        sizes = 10.0 ** generator.uniform(-4, 1, (200, 1, 1))
        y = x + sizes * generator.standard_normal(x.shape)
        change = (layer(tf.constant(x)) - layer(tf.constant(y))).numpy()
        moved = np.linalg.norm(change.reshape(200, -1), axis=1)
        apart = np.linalg.norm((x - y).reshape(200, -1), axis=1)
        # What rounds to nothing next to large values is no slope.
        noise = 1e-12 * (1.0 + np.abs(layer(tf.constant(x))).max())
        assert np.all(moved <= bound_of(layer, shape) * apart + noise)


MERGES = [
    layers.Add,
    layers.Subtract,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
    layers.Concatenate,
]


@pytest.mark.parametrize("kind", MERGES)
def test_merging_of_random_branches(kind):
    """Branches x ↦ xW_i: 200 times two or three of them, all at once."""
    generator = np.random.default_rng(0)
    for count in (2, 2 if kind is layers.Subtract else 3):
        merge = kind(**F64)
        W = generator.standard_normal((200, count, 4, 3))
        W *= 10.0 ** generator.uniform(-2, 2, (200, count, 1, 1))
        x, y = generator.standard_normal((2, 200, 50, 4))
        branches = np.einsum("bnx,bcxy->cbny", np.concatenate([x, y], 1), W)
        merged = merge([tf.constant(branch) for branch in branches]).numpy()
        moved = np.linalg.norm(merged[:, :50] - merged[:, 50:], axis=-1)
        ratios = (moved / np.linalg.norm(x - y, axis=-1)).max(axis=1)
        norms = np.linalg.norm(W, 2, axis=(-2, -1))
        bounds = [
            lipschitz_after(merge, [*map(float, row)], [(3,)] * count)
            for row in norms
        ]
        assert np.all(ratios <= np.array(bounds) * (1 + 1e-12))
        assert math.isclose(np.max(ratios / bounds), 1.0, abs_tol=0.4)
