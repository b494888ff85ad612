"""Labeled images to train on and to attack, from where a name points.

`load` takes the name of a TFDS data set, an .npz file, a folder with a folder
per class, or a table. Shape and number of classes come from images and labels.
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

_HELD_OUT = 6  # one training image in so many is for validation


class Split(NamedTuple):
    """Some labeled images.

    Attributes:
      images: uint8 array (n, height, width, channels), pixels from 0 to 255;
        or the rows of a table, float32 array (n, columns) from 0 to 1.
      labels: int64 array (n,), classes from 0 on.
    """

    images: np.ndarray
    labels: np.ndarray

    @property
    def pixels(self) -> np.ndarray:
        """The images as the models take them: float32 from 0 to 1."""
        return self.images.astype(np.float32) / self.largest

    @property
    def largest(self) -> float:
        """The number that a model takes as 1."""
        return 255.0 if self.images.dtype == np.uint8 else 1.0

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return self.images.shape[1:]

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return int(self.labels.max()) + 1

    def fingerprint(self) -> str:
        """Returns eight hexadecimal digits that name images, labels and order.

        >>> split = Split(np.zeros([2, 28, 28, 1], np.uint8), np.array([3, 7]))
        >>> split.fingerprint() == split.take(slice(2)).fingerprint()
        True
        >>> split.fingerprint() == split.take([1, 0]).fingerprint()
        False
        """
        total = hashlib.sha256()
        for array in (self.images, np.asarray(self.labels, np.int64)):
            total.update(f"{array.dtype}{array.shape}".encode())
            total.update(np.ascontiguousarray(array).data)
        return total.hexdigest()[:8]

    def take(self, rows: slice | np.ndarray) -> "Split":
        """Returns some of the images and their labels."""
        return Split(self.images[rows], self.labels[rows])


class Dataset(NamedTuple):
    """A data set in its splits.

    Attributes:
      train: all training images, or five sixths of them when there is a
        validation split.
      validation: the last sixth of the training images, or none (n = 0).
      test: the test images.
      class_names: one for each label.
      columns: of a table, the numbers that have become 0 and 1, by column.
    """

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...] = tuple("0123456789")
    columns: dict[str, tuple[float, float]] | None = None


class Source(NamedTuple):
    """What a reader finds: the two splits, names of classes and columns."""

    train: Split
    test: Split
    class_names: tuple[str, ...] | None = None
    columns: dict[str, tuple[float, float]] | None = None


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    validation: bool = False,
) -> Dataset:
    """Loads a data set; one of TFDS is prepared first where need be.

    The order of the images is fixed, and so is the validation split.

    Args:
      name: of a TFDS data set of labeled images, such as "mnist"; or the path
        of an .npz file that holds x_train, y_train, x_test and y_test; of a
        folder that holds train/CLASS/IMAGE and test/CLASS/IMAGE; or of a table,
        a .csv file with a column called label.
      data_dir: where TFDS keeps its data sets; by default TFDS's own choice
        (TFDS_DATA_DIR, else ~/tensorflow_datasets).
      validation: whether to split off the last sixth of the training images.

    Raises:
      FileNotFoundError: if there is no such file, or a folder lacks a part.
      ValueError: if the name is unknown, or what it names is damaged, is not
        what it should be, or cannot be trained on and tested with.
      RuntimeError: if the data set could not be had from anywhere.
    """
    # TensorFlow Datasets takes seconds to import.
    from trainers.data import files, tfds_sets

    if name.endswith(".npz"):
        source = files.read_npz(Path(name).expanduser())
    elif name.endswith(".csv"):
        source = files.read_table(Path(name).expanduser())
    elif os.sep in name or Path(name).is_dir():
        source = files.read_folder(Path(name).expanduser())
    else:
        source = tfds_sets.read(name, data_dir)
    return split_off(source, name, validation)


def split_off(source: Source, name: str, validation: bool) -> Dataset:
    """Checks what a reader found, and splits the validation images off.

    Raises:
      ValueError: if nothing can be trained on it, or tested with it.
    """
    train, test, class_names, columns = source
    end = len(train.labels)
    if validation:
        end -= end // _HELD_OUT
    parts = train.take(slice(end)), train.take(slice(end, None)), test
    _check(parts, name)
    count = parts[0].num_classes
    names = class_names or tuple(map(str, range(count)))
    return Dataset(*parts, names, columns)


def title(name: str) -> str:
    """Returns the name of a data set, or of the file or folder that holds it.

    >>> title("mnist"), title("/data/leaves.npz")
    ('mnist', 'leaves')
    """
    path = Path(name)
    return path.stem if path.suffix in (".csv", ".npz") else path.name


def _check(parts: tuple[Split, Split, Split], name: str) -> None:
    train, held_out, test = parts
    seen = np.unique(train.labels)
    if not len(test.labels):
        raise ValueError(f"{name} must have test images. Received: none")
    if len(seen) < 2 or not np.array_equal(seen, np.arange(len(seen))):
        raise ValueError(
            f"The training labels of {name} must be 0, 1, ... without a gap, "
            f"at least two classes. Received: labels {seen[:10].tolist()}"
        )
    for part, which in ((held_out, "validation"), (test, "test")):
        unknown = np.setdiff1d(part.labels, seen)
        if len(unknown):
            raise ValueError(
                f"The {which} labels of {name} must occur among the training "
                f"labels. Received: labels {unknown[:10].tolist()}. Images "
                "that are sorted by class must be shuffled."
            )
    if train.image_shape != test.image_shape:
        raise ValueError(
            f"All images of {name} must have one size. Received: training "
            f"images of shape {train.image_shape}, test images of shape "
            f"{test.image_shape}"
        )
