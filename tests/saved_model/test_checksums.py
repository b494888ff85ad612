import shutil
import subprocess

import pytest

from stable_node_tf.saved_model import checksums


@pytest.fixture
def files(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "graph").write_bytes(b"one")
    (tmp_path / "variables" / "data").write_bytes(b"two")
    checksums.write(tmp_path)
    return tmp_path


def test_unchanged_files_pass(files):
    checksums.verify(files)
    (files / "unlisted").touch()
    checksums.verify(files)
    before = (files / checksums.NAME).read_text()
    (files / "unlisted").unlink()
    assert checksums.write(files).read_text() == before


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs coreutils")
def test_they_are_those_of_sha256sum(files):
    subprocess.run(
        ["sha256sum", "--check", "--strict", checksums.NAME],
        cwd=files,
        check=True,
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("graph", b"0ne", "file graph must have the checksum"),
        ("variables/data", b"", "file variables/data must have the checksum"),
        ("graph", None, "file graph is missing"),
        (checksums.NAME, b"", "an empty file"),
        (checksums.NAME, b"0123  graph", "lines of a checksum"),
        (checksums.NAME, b"\xff\xfe\x00", "must be a text file"),
    ],
)
def test_changes_are_found(files, name, content, message):
    if content is None:
        (files / name).unlink()
    else:
        (files / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        checksums.verify(files)
