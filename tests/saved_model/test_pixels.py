"""Bytes stand for the numbers that a model takes for pixels."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf.certification.certifier import certified_radii
from stable_node_tf.model_graph.ends import changed_pixels
from stable_node_tf.model_graph.graph import model_graph
from stable_node_tf.saved_model import (
    load_classifier,
    save_classifier,
)


def with_pixels(*first, dtype="float32"):
    image = keras.Input((2, 3, 1), name="image", dtype=dtype)
    x = image
    for layer in first:
        x = layer(x)
    logits = keras.layers.Dense(3, bias_initializer="normal")
    return keras.Model(image, logits(keras.layers.Flatten()(x)))


def adapted():
    return keras.layers.Normalization(axis=None, mean=127.0, variance=50.0**2)


SCALES = {
    "Rescaling": lambda: keras.layers.Rescaling(1 / 255),
    "to -1": lambda: keras.layers.Rescaling(1 / 127.5, -1),
    "Normalization": adapted,
    "TrueDivide": lambda: lambda x: x / 255.0,
    "Multiply": lambda: lambda x: keras.ops.multiply(x, 1 / 255),
    "Lambda": lambda: keras.layers.Lambda(lambda x: x / 255),
    "nested": lambda: keras.Sequential(
        [keras.Input((2, 3, 1)), keras.layers.Rescaling(1 / 255)]
    ),
    "after a reshape": lambda: (
        lambda x: keras.layers.Rescaling(1 / 255)(keras.layers.Flatten()(x))
    ),
}


@pytest.mark.parametrize("name", SCALES)
def test_what_may_scale_pixels_is_named(name):
    assert changed_pixels(model_graph(with_pixels(SCALES[name]())))


@pytest.mark.filterwarnings("ignore:.*gets no signature certify")
@pytest.mark.parametrize("name", ["Rescaling", "TrueDivide"])
def test_bytes_are_never_scaled_twice_unasked(name, tmp_path):
    model = with_pixels(SCALES[name]())
    with pytest.warns(UserWarning, match="neither bytes.*may scale pix") as w:
        path = save_classifier(model, tmp_path / "by default")
    assert {str(warned.filename) for warned in w} == {__file__}
    served = tf.saved_model.load(str(path)).signatures
    assert not any("uint8" in kind or "png" in kind for kind in served)
    codes = np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1) * 20
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*bytes")
        path = save_classifier(model, tmp_path / "asked", pixels=(0, 255))
    served = tf.saved_model.load(str(path)).signatures
    np.testing.assert_allclose(
        served["serving_uint8"](image=tf.constant(codes))["logits"],
        model(codes.astype(np.float32)),
        rtol=1e-5,
    )
    files = tf.stack([tf.io.encode_png(image) for image in codes])
    np.testing.assert_array_equal(
        served["serving_png"](image_bytes=files)["logits"],
        served["serving_uint8"](image=tf.constant(codes))["logits"],
    )


@pytest.mark.parametrize("ends", [(0, 1), (-1.0, 1.0)])
def test_bytes_stand_for_the_numbers_that_were_given(ends, tmp_path):
    model = with_pixels()
    path = save_classifier(model, tmp_path, pixels=ends)
    codes = np.array([[0, 255, 51], [1, 254, 128]], np.uint8)[None, ..., None]
    low, high = ends
    served = tf.saved_model.load(str(path)).signatures
    for name in ("serving_uint8", "certify_uint8"):
        np.testing.assert_allclose(
            served[name](image=tf.constant(codes))["logits"],
            model((low + (high - low) * (codes / 255.0)).astype(np.float32)),
            rtol=1e-5,
            atol=1e-5,
        )


class Mirrored(keras.layers.Layer):
    """A layer of which the package has never heard."""

    def call(self, x):
        return x[:, :, ::-1]


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Dropout(0.5),
        keras.layers.MaxPooling2D(1),
        keras.layers.AveragePooling2D(2, padding="same"),
        keras.layers.ZeroPadding2D(1),
        keras.layers.Resizing(5, 4),
        keras.layers.RandomRotation(0.1),
        keras.layers.GaussianNoise(0.5),
        keras.layers.Activation("linear"),
        keras.layers.ReLU(),
        Mirrored(),
        lambda x: x[:, 1:],
        keras.layers.Conv2D(1, 1),
        keras.layers.BatchNormalization(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_other_layers_leave_pixels_as_they_are(layer):
    assert changed_pixels(model_graph(with_pixels(layer))) is None


def test_a_model_that_pools_takes_bytes(tmp_path):
    model = with_pixels(keras.layers.MaxPooling2D(1))
    path = save_classifier(model, tmp_path)
    served = tf.saved_model.load(str(path)).signatures
    assert {"serving_uint8", "serving_png", "certify"} <= set(served)


@pytest.mark.parametrize("pixels", [(1, 0), (0, np.inf), 255, "ab", (0, 1, 2)])
def test_pixels_that_are_no_range(pixels, tmp_path):
    with pytest.raises(ValueError, match="`pixels` must be True, False or two"):
        save_classifier(with_pixels(), tmp_path / "new", pixels=pixels)
    assert not (tmp_path / "new").exists()


def test_an_input_of_bytes_takes_no_fractions(tmp_path):
    model = with_pixels(dtype="uint8")
    exported = load_classifier(save_classifier(model, tmp_path))
    codes = np.arange(12).reshape(2, 2, 3, 1) * 20
    labels, radii = certified_radii(model, codes)
    answers = exported.certify(codes)
    np.testing.assert_array_equal(answers["label"], labels)
    np.testing.assert_allclose(answers["certified_radius"], radii, rtol=1e-4)
    assert radii.max() > 0.0
    for wrong in (codes / 255.0, codes + 256, -codes):
        with pytest.raises(ValueError, match="numbers of uint8"):
            certified_radii(model, wrong)
        with pytest.raises(ValueError, match="numbers that uint8 can hold"):
            exported.predict(wrong)
