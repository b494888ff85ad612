"""Data sets from files: what is read, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.data import datasets, files


def arrays(shape=(5, 6, 3)):
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(256, size=(12, *shape), dtype=np.uint8),
        "y_train": np.arange(12, dtype=np.int32) % 3,
        "x_test": rng.integers(256, size=(4, *shape), dtype=np.uint8),
        "y_test": np.arange(4) % 3,
    }


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3)])
def test_npz(tmp_path, shape):
    path, content = tmp_path / "leaves.npz", arrays(shape)
    np.savez(path, **content)
    data = datasets.load(str(path), validation=True)
    train = content["x_train"].reshape(12, 5, 6, -1)
    np.testing.assert_array_equal(data.train.images, train[:10])
    np.testing.assert_array_equal(data.validation.labels, [1, 2])
    assert data.test.labels.dtype == np.int64
    assert data.class_names == ("0", "1", "2")
    assert datasets.title(str(path)) == "leaves"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x_test": None}, "must hold x_train, y_train, x_test and y_test"),
        ({"y_train": None}, "must hold x_train"),
        ({"x_train": np.zeros((12, 5, 6))}, "uint8 images.*float64"),
        ({"x_train": np.zeros((12, 5), np.uint8)}, r"shape \(12, 5\)"),
        ({"x_test": np.zeros((0, 5, 6, 3), np.uint8)}, "x_test"),
        ({"y_train": np.zeros(11, int)}, r"12 integers.*shape \(11,\)"),
        ({"y_test": np.zeros(4)}, "4 integers. Received: float64"),
        ({"y_train": np.zeros(12, object)}, "cannot be read"),
        ({"x_test": np.zeros((4, 5, 5, 3), np.uint8)}, "one size"),
        ({"y_train": np.zeros(12, int)}, "at least two classes"),
    ],
)
def test_odd_npz_files_are_refused(tmp_path, changes, message):
    path = tmp_path / "leaves.npz"
    content = arrays() | changes
    np.savez(path, **{k: v for k, v in content.items() if v is not None})
    with pytest.raises(ValueError, match=message) as refusal:
        datasets.load(str(path))
    assert "leaves.npz" in str(refusal.value)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "an array"])
def test_damaged_npz_files_are_named(tmp_path, damage):
    path = tmp_path / "leaves.npz"
    np.savez(path, **arrays())
    content = bytearray(path.read_bytes())
    if damage == "empty":
        content.clear()
    elif damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "flipped":
        content[len(content) // 3] ^= 255
    path.write_bytes(content)
    if damage == "an array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=f"{path} cannot be read"):
        datasets.load(str(path))


def test_missing_files_are_named(tmp_path):
    for name in ("nothing.npz", "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"{tmp_path / name}"):
            datasets.load(str(tmp_path / name))


@pytest.fixture
def folder(tmp_path):
    """Six images to train on and two to test with, of two classes."""
    for split, count in (("train", 3), ("test", 1)):
        for label, name in enumerate(("elm", "oak")):
            directory = tmp_path / split / name
            directory.mkdir(parents=True)
            for i in range(count):
                pixels = np.full((4, 5, 3), 100 * label + i, np.uint8)
                png = tf.io.encode_png(pixels).numpy()
                (directory / f"{i}.png").write_bytes(png)
    (tmp_path / "train" / "elm" / "notes.txt").write_text("not an image")
    return tmp_path


def test_folder(folder):
    data = datasets.load(str(folder))
    assert data.class_names == ("elm", "oak")
    assert data.train.images.shape == (6, 4, 5, 3)
    np.testing.assert_array_equal(
        data.train.images[:, 0, 0, 0] // 100, data.train.labels
    )
    assert sorted(data.test.labels) == [0, 1]
    assert list(data.train.labels) != sorted(data.train.labels)
    again = datasets.load(str(folder))
    assert again.train.fingerprint() == data.train.fingerprint()


def test_keras_reads_the_same_images(folder):
    """The layout is that of Keras's `image_dataset_from_directory`."""
    theirs = keras.utils.image_dataset_from_directory(
        folder / "train", image_size=(4, 5), batch_size=None, verbose=False
    )
    pairs = {(int(x[0, 0, 0]), int(y)) for x, y in theirs}
    ours = files.read_folder(folder).train
    pixels = ours.images[:, 0, 0, 0].tolist()
    assert pairs == set(zip(pixels, ours.labels.tolist(), strict=True))


def damaged(folder):
    (folder / "train" / "elm" / "1.png").write_bytes(b"\x89PNG torn")


def other_size(folder):
    pixels = tf.io.encode_png(np.zeros((4, 4, 3), np.uint8))
    (folder / "test" / "oak" / "0.png").write_bytes(pixels.numpy())


def no_test_split(folder):
    (folder / "test").rename(folder / "rest")


def unknown_class(folder):
    (folder / "test" / "oak").rename(folder / "test" / "ash")


def empty_class(folder):
    (folder / "train" / "birch").mkdir()


def no_images(folder):
    for path in (folder / "test").rglob("*.png"):
        path.unlink()


@pytest.mark.parametrize(
    "change, message",
    [
        (damaged, "1.png cannot be read as an image"),
        (other_size, "must have one size"),
        (no_test_split, "no folder .*test"),
        (unknown_class, "Received: ash"),
        (empty_class, "without a gap"),
        (no_images, "no images in .*test"),
    ],
)
def test_odd_folders_are_refused(folder, change, message):
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        datasets.load(str(folder))
