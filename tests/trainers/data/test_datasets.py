import types

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st

from trainers.data import datasets, sources, tfds_sets


def examples(seed, n=12):
    rng = np.random.default_rng(seed)
    return datasets.Split(
        rng.integers(256, size=(n, 28, 28, 1), dtype=np.uint8),
        rng.integers(10, size=n),
    )


class Builder:
    """Looks to `tfds_sets._read` like the builder of a prepared data set."""

    name = "mnist"
    data_path = "/data/mnist/3.0.1"

    def __init__(self, train, test):
        self._splits = {"train": train, "test": test}
        self.info = types.SimpleNamespace(splits=self._splits)

    def as_dataset(self, split, batch_size):
        images, labels = self._splits[split]
        return {"image": tf.constant(images), "label": tf.constant(labels)}


SPLITS = ("train", "test")


@pytest.fixture
def checksums(monkeypatch):
    sums = {s: tfds_sets.checksum(examples(i)) for i, s in enumerate(SPLITS)}
    monkeypatch.setitem(tfds_sets.CHECKSUMS, "mnist", sums)


def test_genuine_content_is_read(checksums):
    builder = Builder(examples(0), examples(1))
    train, test = (tfds_sets._read(builder, split) for split in SPLITS)
    np.testing.assert_array_equal(train.images, examples(0).images)
    np.testing.assert_array_equal(test.labels, examples(1).labels)


@pytest.mark.parametrize("split", SPLITS)
def test_other_content_is_refused_by_name(checksums, split):
    builder = Builder(examples(1), examples(0))
    with pytest.raises(ValueError, match=f"{split} split in /data/mnist/3.0.1"):
        tfds_sets._read(builder, split)


@given(st.integers(0, 99), st.permutations(range(12)))
def test_checksum_ignores_the_order(seed, order):
    images, labels = examples(seed)
    shuffled = datasets.Split(images[order], labels[order])
    assert tfds_sets.checksum(shuffled) == tfds_sets.checksum(examples(seed))


@given(st.integers(0, 12 * 784 - 1), st.integers(1, 255))
def test_checksum_sees_every_pixel(pixel, change):
    images, labels = examples(0)
    images.reshape(-1)[pixel] ^= change
    changed = datasets.Split(images, labels)
    assert tfds_sets.checksum(changed) != tfds_sets.checksum(examples(0))


def test_checksum_sees_every_label():
    images, labels = examples(0)
    for i in range(len(labels)):
        other = labels.copy()
        other[i] = (other[i] + 1) % 10
        split = datasets.Split(images, other)
        assert tfds_sets.checksum(split) != tfds_sets.checksum(examples(0))


def labeled(labels, size=4):
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return datasets.Split(
        np.tile(images, (1, size, size, 1)), np.array(labels, np.int64)
    )


def test_validation_split_is_the_end_of_the_training_images():
    train, test = labeled([0, 1] * 9), labeled([1, 0])
    source = datasets.Source(train, test)
    data = datasets.split_off(source, "it", validation=True)
    np.testing.assert_array_equal(data.train.images, train.images[:15])
    np.testing.assert_array_equal(data.validation.images, train.images[15:])
    np.testing.assert_array_equal(data.validation.labels, train.labels[15:])
    np.testing.assert_array_equal(data.test.images, test.images)
    assert data.class_names == ("0", "1")
    assert data.train.image_shape == (4, 4, 1)
    whole = datasets.split_off(source, "it", validation=False)
    assert len(whole.train.labels) == 18
    assert whole.validation.images.shape == (0, 4, 4, 1)


@pytest.mark.parametrize(
    "train, test, validation, message",
    [
        (labeled([0, 1]), labeled([]), False, "must have test images"),
        (labeled([0, 0]), labeled([0]), False, "at least two classes"),
        (labeled([1, 2]), labeled([1]), False, r"labels \[1, 2\]"),
        (labeled([0, 2]), labeled([0]), False, "without a gap"),
        (labeled([0, 1]), labeled([2]), False, "test labels.*shuffled"),
        (labeled([0, 1] * 3 + [2]), labeled([0]), True, "validation labels"),
        (labeled([0, 1]), labeled([0], size=5), False, "have one size"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(train, test, validation, message):
    source = datasets.Source(train, test)
    with pytest.raises(ValueError, match=message) as refusal:
        datasets.split_off(source, "leaves", validation)
    assert "leaves" in str(refusal.value)


@pytest.mark.parametrize("name", ["no_such_set", "../no", "a b"])
def test_unknown_names_are_refused(name, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=name):
        datasets.load(name, data_dir=tmp_path)


def test_a_set_that_cannot_be_downloaded_is_refused(tmp_path, monkeypatch):
    def probe(url):
        raise ConnectionError("the cable is cut")

    monkeypatch.setattr(sources, "probe", probe)
    with pytest.raises(RuntimeError, match="cifar10 .*the cable is cut"):
        datasets.load("cifar10", data_dir=tmp_path)


def test_a_set_of_other_things_is_refused(tmp_path):
    with pytest.raises(ValueError, match="kitti must have images of one size"):
        datasets.load("kitti", data_dir=tmp_path)


class Leaves(tfds.core.GeneratorBasedBuilder):
    """A data set of TFDS that is none of ours."""

    VERSION = tfds.core.Version("1.0.0")
    second = "test"

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(5, 6, 3)),
            "label": tfds.features.ClassLabel(names=["oak", "elm"]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, manager):
        return {
            "train": self._generate_examples(8),
            self.second: self._generate_examples(3),
        }

    def _generate_examples(self, count):
        for i in range(count):
            image = np.full((5, 6, 3), 10 * i, np.uint8)
            yield i, {"image": image, "label": i % 2}


def test_other_data_sets_of_tfds_are_read(tmp_path, monkeypatch):
    Leaves(data_dir=tmp_path).download_and_prepare()
    data = datasets.load("leaves", data_dir=tmp_path)
    assert data.class_names == ("oak", "elm")
    assert [len(part.labels) for part in data[:3]] == [8, 0, 3]
    assert data.train.image_shape == (5, 6, 3) and data.train.num_classes == 2
    np.testing.assert_array_equal(
        data.train.images[:, 0, 0, 0] // 10 % 2, data.train.labels
    )
    other = tmp_path / "other"
    monkeypatch.setattr(Leaves, "second", "rest")
    Leaves(data_dir=other).download_and_prepare()
    with pytest.raises(ValueError, match="test. Received: train, rest"):
        datasets.load("leaves", data_dir=other)


@pytest.mark.data
def test_real_mnist():
    data = datasets.load("mnist", validation=True)
    assert [len(s.labels) for s in data[:3]] == [50_000, 10_000, 10_000]
    for images, labels in data[:3]:
        assert images.shape[1:] == (28, 28, 1)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    assert data.test.images.mean() / 255 == pytest.approx(0.1325, abs=1e-4)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(data.test.labels).tolist() == counts
    first = next(iter(tfds.load("mnist", split="test")))
    np.testing.assert_array_equal(first["image"], data.test.images[0])
    assert first["label"] == data.test.labels[0]
