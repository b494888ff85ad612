import numpy as np
import pytest
import tensorflow as tf
from c_session import Failed, Session
from tensorflow.core.protobuf import meta_graph_pb2

from stable_node_tf import ode_classifier
from stable_node_tf.saved_model import (
    save_classifier,
)
from stable_node_tf.saved_model.signatures import signatures

INVALID_ARGUMENT = 3


def pixels(count, seed=0, shape=(28, 28, 1)):
    rng = np.random.default_rng(seed)
    return rng.integers(256, size=(count, *shape), dtype=np.uint8)


def floats(images):
    return images.astype(np.float32) / np.float32(255)


def png(images, **options):
    return tf.io.encode_png(images, **options).numpy()


class Served:
    """An export in the session that a server would run it in."""

    def __init__(self, version):
        self._session = Session(version)
        meta_graph = meta_graph_pb2.MetaGraphDef.FromString(
            self._session.meta_graph
        )
        self.signatures = meta_graph.signature_def

    def __call__(self, name, images):
        signature = self.signatures[name]
        [tensor] = signature.inputs.values()
        outputs = {key: t.name for key, t in signature.outputs.items()}
        values = self._session.run({tensor.name: images}, outputs.values())
        return dict(zip(outputs, values, strict=True))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    model = ode_classifier(width=13, delta_bar=0.0, solver="rk4")
    directory = tmp_path_factory.mktemp("served")
    return Served(save_classifier(model, directory, max_batch_size=40))


def test_every_signature_of_a_certified_classifier_of_images(served):
    inputs = {
        name: (key, tf.as_dtype(tensor.dtype).name)
        for name, signature in served.signatures.items()
        for key, tensor in signature.inputs.items()
    }
    assert inputs == {
        f"{kind}{suffix}": expected
        for suffix, expected in {
            "_uint8": ("image", "uint8"),
            "_png": ("image_bytes", "string"),
        }.items()
        for kind in ("serving", "certify")
    } | {name: ("image", "float32") for name in ("serving_default", "certify")}
    for name in inputs:
        assert set(served.signatures[name].outputs) == {
            *("label", "logits", "probabilities"),
            *(["certified_radius"] if name.startswith("certify") else []),
        }


@pytest.mark.parametrize("kind", ["serving", "certify"])
def test_bytes_and_files_are_answered_like_pixels(served, kind):
    images = pixels(20)
    default = "certify" if kind == "certify" else "serving_default"
    expected = served(default, floats(images))
    assert len(set(expected["label"])) > 1
    for name, request in (("uint8", images), ("png", png(images))):
        answers = served(f"{kind}_{name}", request)
        assert answers.keys() == expected.keys()
        for key, answer in answers.items():
            np.testing.assert_array_equal(answer, expected[key])


def test_files_of_other_channels_and_depths_are_converted(served):
    images = pixels(4)
    expected = served("serving_png", png(images))
    deep = images.astype(np.uint16) * 257
    for other in (png(images.repeat(3, axis=-1)), png(deep)):
        answers = served("serving_png", other)
        np.testing.assert_array_equal(answers["label"], expected["label"])
        np.testing.assert_allclose(
            answers["logits"], expected["logits"], atol=1e-6
        )


GOOD = {
    "serving_default": floats(pixels(2)),
    "certify": floats(pixels(2)),
    "serving_uint8": pixels(2),
    "serving_png": png(pixels(2)),
}


def with_pixel(value):
    images = floats(pixels(3))
    images[1, 5, 5, 0] = value
    return images


def files(*contents):
    return np.array(contents, object)


@pytest.mark.parametrize(
    ("name", "request_", "message"),
    [
        # As many values as one image: a reshape would swallow them.
        ("serving_default", floats(pixels(4, shape=(14, 14, 1))), "14,14,1"),
        ("serving_default", floats(pixels(28, shape=(28,))), "28,28"),
        ("serving_default", floats(pixels(1)[0]), r"\[28,28,1\]"),
        ("serving_default", np.float32(0.5), r"\[\]"),
        ("serving_default", pixels(2), "float but uint8"),
        ("serving_default", pixels(2) / 255.0, "float but double"),
        ("serving_default", png(pixels(2)), "float but string"),
        ("serving_default", floats(pixels(0)), r"1 to 40.*Received:\] \[0\]"),
        ("serving_default", floats(pixels(41)), r"1 to 40.*\[41\]"),
        ("serving_default", with_pixel(np.nan), "image must be finite"),
        ("certify", with_pixel(-np.inf), "image must be finite"),
        ("serving_default", np.full((1, 28, 28, 1), 3e38, "f4"), "are NaN"),
        ("serving_uint8", pixels(2, shape=(27, 28, 1)), "27,28,1"),
        ("serving_uint8", floats(pixels(2)), "uint8 but float"),
        ("serving_uint8", pixels(0), "1 to 40"),
        ("serving_png", files(), "1 to 40"),
        ("serving_png", png(pixels(41)), "1 to 40"),
        ("serving_png", png(pixels(4)).reshape(2, 2), r"\[2,2\]"),
        ("serving_png", png(pixels(1))[0], r"\[\]"),
        ("serving_png", files(b""), "not a PNG file"),
        ("serving_png", files(b"\xff\xd8\xff" * 99), "not a PNG file"),
        ("serving_png", png(pixels(1, shape=(28, 27, 1))), r"\[\[27 28\]\]"),
        ("serving_png", files(png(pixels(1))[0][:80]), "Invalid PNG"),
        ("serving_png", pixels(2), "string but uint8"),
    ],
)
def test_malformed_requests_are_refused_and_the_next_is_served(
    served, name, request_, message
):
    before = served(name, GOOD[name])
    with pytest.raises(Failed, match=message) as caught:
        served(name, request_)
    assert caught.value.code == INVALID_ARGUMENT
    after = served(name, GOOD[name])
    for key, answer in before.items():
        np.testing.assert_array_equal(after[key], answer)


def test_huge_image_in_a_small_file_is_refused_before_it_is_decoded(served):
    header = bytearray(png(pixels(1))[0])
    header[16:24] = (2**31 - 1).to_bytes(4) * 2
    with pytest.raises(Failed, match="must hold PNG files, 28 wide"):
        served("serving_png", files(bytes(header)))


def test_only_images_have_bytes_and_files():
    def names(*shape, dtype=tf.float32, **options):
        spec = tf.TensorSpec([None, *shape], dtype, "x")
        return set(signatures(tf.identity, spec, **options))

    assert len(names(8, 8, 3)) == len(names(8, 8, 4)) == 3
    assert names(8, 8, 3, pixels=False) == {"serving_default"}
    for shape in ((8,), (8, 8), (8, 8, 2), (None, None, 3)):
        assert names(*shape) == {"serving_default"}
    assert names(8, 8, 3, dtype=tf.int32) == {"serving_default"}


@pytest.mark.parametrize(
    ("size", "error"),
    [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError)],
)
def test_impossible_batch_sizes_are_refused(size, error):
    spec = tf.TensorSpec([None, 2], tf.float32, "x")
    with pytest.raises(error, match="max_batch_size"):
        signatures(tf.identity, spec, max_batch_size=size)
