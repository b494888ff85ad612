import itertools

import keras
import numpy as np
import pytest

LAYERS = [
    ("Conv1D", {"filters": 3}, 40),
    ("Conv2D", {"filters": 2}, 11),
    ("DepthwiseConv1D", {"depth_multiplier": 2}, 40),
    ("DepthwiseConv2D", {"depth_multiplier": 2}, 11),
    ("SeparableConv1D", {"filters": 3}, 40),
    ("SeparableConv2D", {"filters": 2}, 11),
    ("Conv1DTranspose", {"filters": 3}, 30),
    ("Conv2DTranspose", {"filters": 2}, 8),
]
APPLIED = [
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 3, "padding": "valid"},
    {"kernel_size": 4, "padding": "same", "strides": 2},
    {"kernel_size": 2, "padding": "valid", "strides": 2},
    {"kernel_size": 3, "padding": "same", "dilation_rate": 2},
]


def float64(kind, **options):
    return getattr(keras.layers, kind)(dtype="float64", **options)


@pytest.mark.parametrize("kind, options, size", LAYERS)
@pytest.mark.parametrize("applied", APPLIED)
def test_the_bound_is_just_above_the_norm_of_the_matrix(
    kind, options, size, applied, bound_of, norm_of
):
    shape = (size,) * (2 if "2D" in kind else 1) + (2,)
    if "Transpose" in kind and "dilation_rate" in applied:
        pytest.skip("TensorFlow computes none on the CPU")
    layer = float64(kind, bias_initializer="ones", **options, **applied)
    exact = norm_of(layer, shape)
    bound = bound_of(layer, shape)
    assert exact <= bound
    if "Separable" not in kind:  # whose bound is a product
        # Borders of small images take a few per cent away.
        assert bound <= 1.2 * exact


@pytest.mark.parametrize("padding", ["causal", "same", "valid"])
@pytest.mark.parametrize("groups, dilation", [(1, 1), (2, 1), (1, 3)])
def test_paddings_and_groups_of_one_axis(
    padding, groups, dilation, bound_of, norm_of
):
    layer = float64(
        "Conv1D",
        filters=4,
        kernel_size=3,
        padding=padding,
        groups=groups,
        dilation_rate=dilation,
    )
    exact = norm_of(layer, (50, 4))
    assert exact <= bound_of(layer, (50, 4)) <= 1.03 * exact


def test_activations_count(bound_of, largest_ratio):
    for kind, activation in itertools.product(
        ("Conv1D", "Conv1DTranspose", "SeparableConv1D"), ("relu", "sigmoid")
    ):
        layer = float64(kind, filters=3, kernel_size=3, activation=activation)
        linear = float64(kind, filters=3, kernel_size=3)
        linear.build((None, 9, 2))
        ratio = largest_ratio(layer, (9, 2))
        linear.set_weights(layer.get_weights())
        bound = bound_of(layer, (9, 2))
        assert 0.02 * bound < ratio <= bound
        factor = {"relu": 1.0, "sigmoid": 0.25}[activation]
        np.testing.assert_allclose(bound, factor * bound_of(linear, (9, 2)))
