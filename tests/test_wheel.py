"""What an installation consists of: built here, without the network."""

import email
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import stable_node_tf

ROOT = Path(__file__).parents[1]
PACKAGES = ("stable_node_tf", "trainers")
TREE = (
    *PACKAGES,
    *("benchmarks", "docs", "examples", "tests", "tools"),
    *(".bazelignore", ".bazelrc", "BUILD", "MODULE.bazel", "WORKSPACE"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile"),
    *("README.md", "mkdocs.yml", "pyproject.toml", "setup.py"),
)
LEFT_OUT = ("__pycache__", ".*cache*", ".ipynb_checkpoints")
BUILD = """
import sys
from setuptools import build_meta
getattr(build_meta, f"build_{sys.argv[1]}")(sys.argv[2])
"""


def build(kind, source, destination):
    """Runs the build backend in a process of its own, as `build` does."""
    finished = subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(destination)],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]


def files(root):
    """All but what running and building the package leaves behind."""
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file()
        and not any(
            part == "__pycache__" or part.endswith(".egg-info")
            for part in path.parts
        )
    }


def modules(root):
    return {
        str(path.relative_to(root))
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the source distribution, which holds the whole tree."""
    directory = tmp_path_factory.mktemp("dist")
    tree = tmp_path_factory.mktemp("tree")
    for path in map(ROOT.joinpath, TREE):
        if path.is_dir():
            shutil.copytree(
                path, tree / path.name, ignore=shutil.ignore_patterns(*LEFT_OUT)
            )
        else:
            shutil.copy(path, tree)
    build("sdist", tree, directory)
    [archive] = directory.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(directory, filter="data")
    [source] = [path for path in directory.iterdir() if path.is_dir()]
    assert files(source) == files(tree) | {"PKG-INFO", "setup.cfg"}
    build("wheel", source, directory)
    [path] = directory.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        yield file


@pytest.fixture(scope="module")
def metadata(wheel):
    [name] = [n for n in wheel.namelist() if n.endswith("/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def test_holds_every_module_and_nothing_else(wheel):
    names = [n for n in wheel.namelist() if ".dist-info/" not in n]
    assert set(names) == modules(ROOT) | {"stable_node_tf/py.typed"}


def test_metadata(metadata, wheel):
    assert metadata["Name"] == "stable-node-tf"
    assert metadata["Version"] == stable_node_tf.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(n.endswith("/licenses/LICENSE") for n in wheel.namelist())
    assert metadata["Requires-Python"] == "<3.14,>=3.11"
    assert metadata["Summary"].strip() and "\n" not in metadata["Summary"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.strip() in metadata.get_payload(decode=True).decode()
    needed = [
        line
        for line in metadata.get_all("Requires-Dist")
        if "extra ==" not in line
    ]
    assert {line.split(">")[0].split("<")[0] for line in needed} >= {
        "tensorflow",
        "keras",
        "tensorflow-probability",
        "tf-keras",
    }


def test_entry_points_are_programs(wheel):
    [name] = [n for n in wheel.namelist() if n.endswith("entry_points.txt")]
    lines = wheel.read(name).decode().split()[1:]
    commands = dict(zip(lines[0::3], lines[2::3], strict=True))
    programs = [
        path.stem
        for path in (ROOT / "trainers").glob("*.py")
        if 'if __name__ == "__main__":' in path.read_text()
    ]
    assert commands == {
        f"stable-node-{name.replace('_', '-')}": f"trainers.{name}:main"
        for name in programs
    }
