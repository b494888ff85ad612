"""Data sets from files: .npz files, folders of class folders, tables."""

import csv
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.data.datasets import Source, Split

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")  # Keras takes these too


def read_npz(path: Path) -> Source:
    """Reads x_train, y_train, x_test and y_test, as Keras's MNIST file has.

    Args:
      path: of a file with uint8 images of shape (n, height, width) or (n,
        height, width, channels), and integer labels of shape (n,).

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is damaged, an array is missing, or is not as above.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no file {path}.") from error
    except (
        AttributeError,  # of an array without an archive around it
        EOFError,
        OSError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(
            f"{path} cannot be read as an .npz file of arrays: {error}"
        ) from error

    def split(which: str) -> Split:
        names = f"x_{which}", f"y_{which}"
        for name in names:
            if name not in arrays:
                raise ValueError(
                    f"{path} must hold x_train, y_train, x_test and y_test. "
                    f"Received: {', '.join(arrays) or 'nothing'}"
                )
        images, labels = (arrays[name] for name in names)
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.dtype != np.uint8 or not images.size:
            raise ValueError(
                f"x_{which} in {path} must be uint8 images of shape (n, "
                "height, width) or (n, height, width, channels). "
                f"Received: {images.dtype} of shape {images.shape}"
            )
        whole = labels.dtype.kind in "iu"
        if not whole or labels.shape != images.shape[:1]:
            raise ValueError(
                f"y_{which} in {path} must be {len(images)} integers. "
                f"Received: {labels.dtype} of shape {labels.shape}"
            )
        return Split(images, labels.astype(np.int64))

    return Source(split("train"), split("test"))


def read_folder(path: Path) -> Source:
    """Reads train/CLASS/IMAGE and test/CLASS/IMAGE.

    The classes are numbered in the order of their names. The images of a split
    are shuffled, always in the same way, since they are sorted by class.

    Args:
      path: of the folder; images are PNG, JPEG, GIF or BMP.

    Raises:
      FileNotFoundError: if there is no such folder, or it lacks a split.
      ValueError: if an image is damaged, sizes differ, or a class is empty.
    """
    for folder in (path, path / "train", path / "test"):
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}.")
    names = _classes(path / "train")
    if beyond := set(_classes(path / "test")) - set(names):
        raise ValueError(
            f"The classes in {path / 'test'} must be those in "
            f"{path / 'train'}. Received: {', '.join(sorted(beyond))}"
        )
    train, test = (
        _read_split(path / part, names) for part in ("train", "test")
    )
    return Source(train, test, names)


def _classes(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))


def _read_split(folder: Path, names: tuple[str, ...]) -> Split:
    images: list[np.ndarray] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        for file in sorted((folder / name).glob("*")):
            if file.suffix.lower() in _SUFFIXES:
                images.append(_decoded(file))
                labels.append(label)
                if images[-1].shape != images[0].shape:
                    raise ValueError(
                        f"All images in {folder} must have one size. Received: "
                        f"{file} of shape {images[-1].shape} beside images of "
                        f"shape {images[0].shape}"
                    )
    if not images:
        raise ValueError(f"There are no images in {folder}/CLASS.")
    order = np.random.default_rng(0).permutation(len(labels))
    return Split(np.stack(images)[order], np.array(labels, np.int64)[order])


def _decoded(file: Path) -> np.ndarray:
    try:
        content = tf.io.read_file(str(file))
        return tf.io.decode_image(content, expand_animations=False).numpy()
    except tf.errors.OpError as error:
        reason = error.message.partition("\n")[0]
        raise ValueError(
            f"{file} cannot be read as an image: {reason}"
        ) from error


def read_table(path: Path) -> Source:
    """Reads a table with a column of labels and otherwise numbers.

    Every column is scaled to [0, 1] by its range in the whole table. A fifth of
    the rows of each class is for testing; rows are shuffled, always in the same
    way. Classes are numbered in the order of their names or numbers.

    Args:
      path: of a .csv file, whose first line names the columns, one of them
        label; labels are names or integers.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is damaged, has no such column, or a field is missing
        or not what it should be.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head, *rows = [row for row in csv.reader(file, strict=True) if row]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no file {path}.") from error
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} cannot be read as a table: {error}"
        ) from error
    names = [name.strip() for name in head]
    named = "label" in names and "" not in names and len({*names}) == len(names)
    if not named or len(names) < 2 or not rows:
        raise ValueError(
            f"{path} must begin with a different name for each column, one of "
            "them label, and have rows below. Received: "
            f"{len(rows)} rows below {', '.join(names)[:200]}"
        )
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise ValueError(
                f"All rows of {path} must have {len(names)} fields. "
                f"Received: {len(row)} in row {number}"
            )
    at = names.index("label")
    del names[at]
    classes, labels = _numbered([row.pop(at).strip() for row in rows], path)
    values = np.array([[_number(field) for field in row] for row in rows])
    for row, column in np.argwhere(~np.isfinite(values))[:1]:
        raise ValueError(
            f"{path} must hold finite numbers, but for the labels. Received: "
            f"{rows[row][column]!r} as {names[column]} in row {row + 2}"
        )
    low, high = values.min(axis=0), values.max(axis=0)
    values = (values - low) / np.where(high > low, high - low, 1.0)
    order = np.random.default_rng(0).permutation(len(labels))
    whole = Split(values.astype(np.float32)[order], labels[order])
    tested = np.zeros(len(order), bool)
    for label in range(len(classes)):
        tested[np.flatnonzero(whole.labels == label)[4::5]] = True
    ranges = zip(low.tolist(), high.tolist(), strict=True)
    return Source(
        whole.take(~tested),
        whole.take(tested),
        classes,
        dict(zip(names, ranges, strict=True)),
    )


def _numbered(
    fields: list[str], path: Path
) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the classes, and the class of each row."""
    numbers = [_number(field) for field in fields]
    fits = [number.is_integer() for number in numbers]
    key: Any = int if any(fits) else str
    if key is str:
        fits = [
            math.isnan(number) and field.lower() not in ("", "nan")
            for number, field in zip(numbers, fields, strict=True)
        ]
    if not all(fits):
        raise ValueError(
            f"The labels of {path} must be names, or else integers. Received: "
            f"{fields[fits.index(False)]!r} in row {fits.index(False) + 2}"
        )
    if key is int:
        fields = [str(int(number)) for number in numbers]
    classes = sorted(set(fields), key=key)
    return tuple(classes), np.array([classes.index(field) for field in fields])


def _number(field: str) -> float:
    try:
        return float(field)
    except ValueError:
        return math.nan
