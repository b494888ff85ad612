"""Whatever a directory holds: it answers, or one line says why not."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stable_node_tf import ode_classifier
from stable_node_tf.saved_model import (
    load_classifier,
    save_classifier,
)

IMAGES = np.random.default_rng(0).uniform(size=(3, 28, 28, 1))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An export; and a directory for copies of it."""
    directory = tmp_path_factory.mktemp("damaged")
    model = ode_classifier(width=4)
    return save_classifier(
        model, directory / "model"
    ).parent, directory / "copy"


def remove(path, _):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def empty(path, _):
    remove(path, _)
    path.touch()


def truncate(path, fraction):
    if path.is_file():
        os.truncate(path, int(fraction * path.stat().st_size))


def flip(path, fraction):
    if path.is_file() and path.stat().st_size:
        content = bytearray(path.read_bytes())
        position = int(fraction * len(content))
        content[position] ^= 1 << position % 8
        path.write_bytes(content)


def scramble(path, fraction):
    if path.is_file():
        seed = int(fraction * 1000)
        path.write_bytes(np.random.default_rng(seed).bytes(300))


def make_directory(path, _):
    remove(path, _)
    path.mkdir()


def rename(path, _):
    path.rename(path.with_name(f"{path.name}~"))


damages = st.tuples(
    st.sampled_from(
        [remove, empty, truncate, flip, scramble, make_directory, rename]
    ),
    st.integers(0, 10),
    st.floats(0, 1, exclude_max=True),
)


def check(directory):
    try:
        answers = load_classifier(directory).predict(IMAGES)
    except (ValueError, FileNotFoundError) as error:
        assert str(directory) in str(error)
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
        return
    assert answers["label"].shape == (3,)
    assert answers["logits"].shape == (3, 10)


@settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", 30)),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(damaged=st.lists(damages, min_size=1, max_size=3))
def test_damaged_directories(model, damaged):
    source, copy = model
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    for damage, place, fraction in damaged:
        places = sorted(copy.rglob("*"))
        if places:
            damage(places[place % len(places)], fraction)
    check(copy)


@settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", 20)), deadline=None)
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_one_bit_of_the_graph(model, fraction):
    """Without checksums, TensorFlow aborts on some of these."""
    source, copy = model
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    flip(copy / "1" / "saved_model.pb", fraction)
    with pytest.raises(ValueError, match="saved_model.pb must have the check"):
        load_classifier(copy)


def test_without_checksums_the_risk_is_named(model):
    source, copy = model
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    (copy / "1" / "SHA256SUMS").unlink()
    with pytest.warns(UserWarning, match="has no SHA256SUMS: .*may end the"):
        reloaded = load_classifier(copy)
    assert reloaded.predict(IMAGES)["label"].shape == (3,)


def test_file_instead_of_a_directory(tmp_path):
    (tmp_path / "model").write_text("not a directory")
    with pytest.raises(FileNotFoundError, match="must not be a file"):
        load_classifier(tmp_path / "model")
    (tmp_path / "1").write_text("not a version")
    with pytest.raises(FileNotFoundError, match="must hold a SavedModel"):
        load_classifier(tmp_path)


class Labels(tf.Module):
    """Answers with logits of another shape, or takes something else."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image")])
    def text(self, image):
        return self._answers(tf.zeros([tf.size(image), 10]))

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, "image")])
    def scalar(self, image):
        return self._answers(tf.zeros([1, 10]) * image)

    @tf.function(input_signature=[tf.TensorSpec([None, 2], name="image")])
    def flat(self, image):
        return self._answers(image[:, 0])

    @tf.function(input_signature=[tf.TensorSpec([None, 2], name="image")])
    def integers(self, image):
        return self._answers(tf.cast(image, tf.int32))

    def _answers(self, logits):
        return {"logits": logits, "probabilities": logits, "label": logits}


@pytest.mark.parametrize(
    ("name", "received"),
    [
        ("text", "string"),
        ("scalar", r"float32 \(\) to"),
        ("flat", r"to float32 \(None,\)"),
        ("integers", "to int32"),
    ],
)
def test_signatures_of_other_types_are_refused(tmp_path, name, received):
    module = Labels()
    tf.saved_model.save(
        module, str(tmp_path / "1"), signatures=getattr(module, name)
    )
    with pytest.raises(ValueError, match=rf"must map numbers.*{received}"):
        load_classifier(tmp_path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("an image", "must be an array of numbers"),
        (None, "must be an array of numbers"),
        ([[1.0], [2.0, 3.0]], "must be an array of numbers"),
        (np.zeros([2, 14, 14, 1]), r"must have shape \(None, 28, 28, 1\)"),
        (np.zeros([0, 28, 28, 1]), "must hold 1 to 16384 images. Received: 0"),
        (np.full([1, 28, 28, 1], np.nan), "image must be finite"),
        (np.full([1, 28, 28, 1], 3e38), "logits of an image are NaN"),
    ],
)
def test_malformed_images(model, images, message):
    reloaded = load_classifier(model[0])
    with pytest.raises(ValueError, match=message) as caught:
        reloaded.predict(images)
    assert "\n" not in str(caught.value)
    assert reloaded.predict(IMAGES)["label"].shape == (3,)
