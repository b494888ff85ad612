import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st

from trainers.data import datasets


def examples(seed, n=12):
    rng = np.random.default_rng(seed)
    return datasets.Split(
        rng.integers(256, size=(n, 28, 28, 1), dtype=np.uint8),
        rng.integers(10, size=n),
    )


class Builder:
    """Looks to `datasets._read` like the builder of a prepared data set."""

    name = "mnist"
    data_path = "/data/mnist/3.0.1"

    def __init__(self, train, test):
        self._splits = {"train": train, "test": test}

    def as_dataset(self, split, batch_size):
        images, labels = self._splits[split]
        return {"image": tf.constant(images), "label": tf.constant(labels)}


@pytest.fixture
def checksums(monkeypatch):
    sums = {s: datasets.checksum(examples(i)) for i, s in enumerate(SPLITS)}
    monkeypatch.setitem(datasets.CHECKSUMS, "mnist", sums)


SPLITS = ("train", "test")


def test_genuine_content_is_read(checksums):
    data = datasets._read(Builder(examples(0), examples(1)))
    np.testing.assert_array_equal(data["train"].images, examples(0).images)
    np.testing.assert_array_equal(data["test"].labels, examples(1).labels)


@pytest.mark.parametrize("seeds, split", [((1, 1), "train"), ((0, 0), "test")])
def test_other_content_is_refused_by_name(checksums, seeds, split):
    builder = Builder(*map(examples, seeds))
    with pytest.raises(ValueError, match=f"{split} split in /data/mnist/3.0.1"):
        datasets._read(builder)


@given(st.integers(0, 99), st.permutations(range(12)))
def test_checksum_ignores_the_order(seed, order):
    images, labels = examples(seed)
    shuffled = datasets.Split(images[order], labels[order])
    assert datasets.checksum(shuffled) == datasets.checksum(examples(seed))


@given(st.integers(0, 12 * 784 - 1), st.integers(1, 255))
def test_checksum_sees_every_pixel(pixel, change):
    images, labels = examples(0)
    images.reshape(-1)[pixel] ^= change
    changed = datasets.Split(images, labels)
    assert datasets.checksum(changed) != datasets.checksum(examples(0))


def test_checksum_sees_every_label():
    images, labels = examples(0)
    for i in range(len(labels)):
        other = labels.copy()
        other[i] = (other[i] + 1) % 10
        split = datasets.Split(images, other)
        assert datasets.checksum(split) != datasets.checksum(examples(0))


def test_validation_split_is_the_end_of_the_training_images(monkeypatch):
    monkeypatch.setattr(datasets, "VALIDATION_SIZE", 5)
    train, test = examples(0), examples(1)
    data = datasets._split({"train": train, "test": test}, validation=True)
    np.testing.assert_array_equal(data.train.images, train.images[:7])
    np.testing.assert_array_equal(data.validation.images, train.images[7:])
    np.testing.assert_array_equal(data.validation.labels, train.labels[7:])
    np.testing.assert_array_equal(data.test.images, test.images)


def test_without_a_validation_split_nothing_is_held_back(monkeypatch):
    monkeypatch.setattr(datasets, "VALIDATION_SIZE", 5)
    data = datasets._split(
        {"train": examples(0), "test": examples(1)}, validation=False
    )
    assert len(data.train.labels) == 12
    assert data.validation.images.shape == (0, 28, 28, 1)


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match="Received: name=cifar10"):
        datasets.load("cifar10")


@pytest.mark.data
def test_real_mnist():
    data = datasets.load("mnist", validation=True)
    assert [len(s.labels) for s in data] == [50_000, 10_000, 10_000]
    for images, labels in data:
        assert images.shape[1:] == (28, 28, 1)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    assert data.test.images.mean() / 255 == pytest.approx(0.1325, abs=1e-4)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(data.test.labels).tolist() == counts
    first = next(iter(tfds.load("mnist", split="test")))
    np.testing.assert_array_equal(first["image"], data.test.images[0])
    assert first["label"] == data.test.labels[0]
