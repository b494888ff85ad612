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


TABLE = [
    "height,label,weight",
    *(f"{i},{('oak', 'elm')[i % 2]},{-3 * i}" for i in range(20)),
]


def written(path, lines):
    path.write_text("\n".join(lines))
    return str(path)


def test_table(tmp_path):
    data = datasets.load(written(tmp_path / "trees.csv", TABLE))
    assert data.class_names == ("elm", "oak")
    assert data.columns == {"height": (0.0, 19.0), "weight": (-57.0, 0.0)}
    assert [len(part.labels) for part in data[:3]] == [16, 0, 4]
    assert np.bincount(data.test.labels).tolist() == [2, 2]
    heights = []
    for part in (data.train, data.test):
        assert part.pixels.dtype == np.float32 and part.image_shape == (2,)
        height, weight = (part.pixels * [19, 57]).T.astype(np.float64)
        np.testing.assert_allclose(weight - 57, -3 * height, atol=1e-4)
        np.testing.assert_array_equal(part.labels, height.round() % 2 == 0)
        heights += height.round().tolist()
    assert sorted(heights) == list(range(20)) != heights
    assert datasets.title("trees.csv") == "trees"


def test_integer_labels_of_a_table_are_numbered_in_their_order(tmp_path):
    lines = ["label,x", *(f"{(10, 9, 2)[i % 3]},{i}" for i in range(30))]
    data = datasets.load(written(tmp_path / "numbers.csv", lines))
    assert data.class_names == ("2", "9", "10")
    height = (data.test.pixels[:, 0] * 29).round()
    np.testing.assert_array_equal(data.test.labels, 2 - height % 3)
    constant = ["label,x,same", *(f"{line},7" for line in lines[1:])]
    data = datasets.load(written(tmp_path / "constant.csv", constant))
    assert not data.train.pixels[:, 1].any()


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda t: [t[0].replace("label", "class"), *t[1:]],
            "one of them label",
        ),
        (lambda t: t[1:], "one of them label"),
        (lambda t: t[:1], "have rows below"),
        (lambda t: [], "cannot be read as a table"),
        (lambda t: [",label,weight", *t[1:]], "a different name for each"),
        (lambda t: ["label,label,weight", *t[1:]], "a different name for each"),
        (lambda t: [*t, "1,oak"], "3 fields. Received: 2 in row 22"),
        (lambda t: [*t, "nan,oak,1"], "finite.*'nan' as height in row 22"),
        (lambda t: [*t, "1,oak,"], "finite.*'' as weight in row 22"),
        (lambda t: [*t, "1,oak,tall"], "finite.*'tall' as weight in row 22"),
        (lambda t: [*t, "1,oak,inf"], "finite.*'inf' as weight in row 22"),
        (lambda t: [*t, "1,,1"], "names, or else integers.*'' in row 22"),
        (lambda t: [*t, "1,NaN,1"], "names, or else integers.*'NaN' in row 22"),
        (lambda t: [*t, "1,7,1"], "names, or else integers.*'oak' in row 2"),
        (lambda t: [*t, "1,0.5,1"], "names, or else integers.*'0.5' in row 22"),
        (lambda t: [t[0], *t[1::2]], "at least two classes"),
        (lambda t: t[:5], "must have test images"),
        (lambda t: [*t, '1,"oak'], "cannot be read as a table"),
    ],
)
def test_odd_tables_are_refused(tmp_path, change, message):
    path = written(tmp_path / "trees.csv", change(TABLE))
    with pytest.raises(ValueError, match=message) as refusal:
        datasets.load(path)
    assert "trees.csv" in str(refusal.value)


def test_files_that_are_no_tables_are_named(tmp_path):
    (tmp_path / "bytes.csv").write_bytes(b"label,x\n\xff\xfe\x00")
    with pytest.raises(ValueError, match="bytes.csv cannot be read as a table"):
        datasets.load(str(tmp_path / "bytes.csv"))
    with pytest.raises(FileNotFoundError, match="nothing.csv"):
        datasets.load(str(tmp_path / "nothing.csv"))
