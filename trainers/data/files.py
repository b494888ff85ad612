"""Data sets from files: an .npz file, or a folder with a folder per class."""

import zipfile
import zlib
from pathlib import Path

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
