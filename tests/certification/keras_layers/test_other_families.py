"""Moves, pooling, scaling, merging: rules against matrices and pairs."""

import itertools

import keras
import numpy as np
import pytest

from stable_node_tf.certification.rules import lipschitz_after

layers = keras.layers
OPTIONS = {"dtype": "float64"}


@pytest.mark.parametrize(
    "layer, shape, least",
    [
        (layers.Identity(**OPTIONS), (4,), 1.0),
        (layers.Permute((2, 1), **OPTIONS), (4, 3), 1.0),
        (layers.SpatialDropout1D(0.5, **OPTIONS), (4, 3), 1.0),
        (layers.GaussianNoise(0.5, **OPTIONS), (4,), 1.0),
        (layers.Cropping2D(1, **OPTIONS), (4, 5, 2), 1.0),
        (layers.ZeroPadding2D((1, 2), **OPTIONS), (4, 5, 2), 1.0),
        (layers.RepeatVector(5, **OPTIONS), (4,), 1.0),
        (layers.UpSampling1D(3, **OPTIONS), (4, 2), 1.0),
        (layers.UpSampling2D((2, 3), **OPTIONS), (4, 5, 2), 1.0),
        (layers.Rescaling(-1 / 255, 0.5, **OPTIONS), (4, 5, 2), 1.0),
        (layers.Rescaling([0.5, -2.0], [0.5, 3.0], **OPTIONS), (4, 2), 1.0),
        (
            layers.Normalization(mean=3.0, variance=0.25, **OPTIONS),
            (4, 2),
            1.0,
        ),
        (
            layers.Normalization(
                mean=[3.0, 1.0], variance=[0.25, 9.0], invert=True, **OPTIONS
            ),
            (4, 2),
            1.0,
        ),
        (layers.GlobalAveragePooling1D(**OPTIONS), (5, 2), 1.0),
        (layers.GlobalAveragePooling2D(**OPTIONS), (5, 3, 2), 1.0),
    ],
)
def test_the_bound_of_an_affine_layer_is_its_norm(
    layer, shape, least, bound_of, norm_of
):
    exact = norm_of(layer, shape)
    bound = bound_of(layer, shape)
    assert exact * (1 - 1e-12) <= bound <= exact * (1 + 1e-6) / least


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_average_pooling(padding, bound_of, norm_of):
    for pool, stride, size in itertools.product((2, 3), (1, 2, 4), (5, 8)):
        layer = layers.AveragePooling2D(
            (pool, 2), (stride, 2), padding=padding, **OPTIONS
        )
        exact = norm_of(layer, (size, 6, 1))
        bound = bound_of(layer, (size, 6, 1))
        assert exact * (1 - 1e-12) <= bound <= exact * (1 + 1e-6)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("pool, stride", [(2, 2), (3, 1), (3, 2), (2, 3)])
def test_max_pooling(pool, stride, padding, bound_of):
    """A single large pixel is what all windows around it see."""
    layer = layers.MaxPooling1D(pool, stride, padding=padding, **OPTIONS)
    x = np.zeros((12, 12, 1))
    x[np.arange(12), np.arange(12)] = 1.0
    change = np.linalg.norm(layer(x).numpy()[..., 0], axis=1)
    np.testing.assert_allclose(change.max(), bound_of(layer, (12, 1)))


@pytest.mark.parametrize(
    "layer, shape, least",
    [
        (layers.MaxPooling2D(3, 1, **OPTIONS), (5, 5, 2), 0.1),
        (layers.GlobalMaxPooling2D(**OPTIONS), (5, 5, 2), 0.1),
        (layers.ReLU(negative_slope=0.1, **OPTIONS), (6,), 0.3),
        (layers.Softmax(**OPTIONS), (3,), 0.1),
        (layers.PReLU("random_uniform", **OPTIONS), (6,), 0.3),
        (layers.PReLU(keras.initializers.Constant(-3.0), **OPTIONS), (6,), 0.3),
        (layers.Dense(5, "gelu", **OPTIONS), (3, 4), 0.3),
        (layers.Dense(5, layers.LeakyReLU(), **OPTIONS), (4,), 0.3),
    ],
)
def test_no_pair_of_inputs_is_farther_apart(
    layer, shape, least, bound_of, largest_ratio
):
    ratio = largest_ratio(layer, shape)
    bound = bound_of(layer, shape)
    assert least * bound < ratio <= bound * (1 + 1e-9)


def test_batch_normalization_has_constants_at_inference(bound_of, norm_of):
    generator = np.random.default_rng(0)
    for scale, center in itertools.product((True, False), repeat=2):
        layer = layers.BatchNormalization(
            scale=scale, center=center, epsilon=0.01, **OPTIONS
        )
        layer.build((None, 4, 3))
        layer.set_weights([generator.uniform(size=3) for _ in layer.weights])
        exact = norm_of(layer, (4, 3))
        np.testing.assert_allclose(bound_of(layer, (4, 3)), exact, rtol=1e-9)
        assert bound_of(layer, (4, 3)) >= exact * (1 - 1e-12)


@pytest.mark.parametrize(
    "merge",
    [
        layers.Add(**OPTIONS),
        layers.Subtract(**OPTIONS),
        layers.Average(**OPTIONS),
        layers.Concatenate(**OPTIONS),
        layers.Concatenate(axis=1, **OPTIONS),
        layers.Maximum(**OPTIONS),
        layers.Minimum(**OPTIONS),
    ],
)
def test_merging_of_several_paths(merge, largest_ratio):
    """Branches that pull opposite ways stay below the bound of sums."""
    image = keras.Input((3, 4), dtype="float64")
    branches = [layers.Rescaling(f, **OPTIONS)(image) for f in (2.0, -0.5)]
    model = keras.Model(image, merge(branches))
    bound = lipschitz_after(merge, [2.0, 0.5], [(3, 4), (3, 4)])
    exact = {"Add": 1.5, "Average": 0.75}.get(type(merge).__name__)
    ratio = largest_ratio(model, (3, 4))
    if exact:  # opposite branches
        np.testing.assert_allclose(ratio, exact)
        assert ratio < bound
    else:
        assert 0.8 * bound < ratio <= bound * (1 + 1e-9)


@pytest.mark.parametrize(
    "layer, shapes, message",
    [
        (layers.Add(name="sum"), [(2, 2), (1, 2)], "of one shape.*'sum'"),
        (layers.Concatenate(axis=0), [(2,), (2,)], "mix the images.*axis=0"),
        (layers.Concatenate(axis=-2), [(2,), (2,)], "mix the images.*axis=-2"),
        (layers.Softmax(axis=0), [(2,)], "mix the images"),
        (layers.LayerNormalization(), [(2,)], "divides by the size of its own"),
        (layers.Multiply(), [(2,)], "multiplies inputs"),
        (
            layers.UpSampling2D(2, interpolation="bilinear"),
            [(2, 2, 1)],
            "interpolation='bilinear'",
        ),
    ],
)
def test_what_has_no_bound_is_refused(layer, shapes, message):
    with pytest.raises(ValueError, match=message):
        lipschitz_after(layer, [1.0] * len(shapes), shapes)
