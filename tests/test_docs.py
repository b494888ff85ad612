"""The documentation builds, links lead somewhere, and its notebook runs."""

import importlib
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import stable_node_tf
from stable_node_tf import attacks, solvers
from trainers import command_line

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not link.startswith("https://"):
            assert (DOCS / link).resolve().exists(), f"{page.name}: {link}"


def test_navigation_has_every_page():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = set(re.findall(r"- [^:]+: (\S+)", navigation))
    written = {p.name for p in [*PAGES, *DOCS.glob("*.ipynb")]}
    assert named == written


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_programs_and_flags_exist(page):
    """A command in the documents names a module and flags that are there."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for module, rest in re.findall(r"python -m (trainers\.\w+)([^\n`]*)", text):
        program = importlib.import_module(module)
        flags = command_line.help_text(program.main).partition("\nFlags:")[2]
        for flag in re.findall(r"--(\w+)", rest):
            known = re.search(rf"^  --(\[no\])?{flag}\b", flags, re.M)
            assert known, f"{page.name}: {module} --{flag}"


def tables(text):
    """Of each table: the paragraph before, the title at the left, the rows."""
    paragraphs = re.split(r"\n\n+", text)
    for before, paragraph in zip(["", *paragraphs], paragraphs, strict=False):
        if paragraph.startswith("|"):
            head, _, *rows = paragraph.splitlines()
            yield before, head.split("|")[1].strip(), set(rows)


def test_tables_of_solvers_are_those_of_the_measurements():
    printed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import json, pathlib, solvers; solvers.print_tables(json.loads("
            "pathlib.Path('solvers.json').read_text())['rows'])",
        ],
        cwd=ROOT / "benchmarks",
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
    ).stdout
    measured = {title: rows for _, title, rows in tables(printed.strip())}
    measured["ours, ms"] = {
        row
        for row in measured["ours, ms"]
        if not row.startswith(("| floor", "| products", "| 20 ×"))
    }
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    section = text.partition("\n## Solvers")[2].partition("\n## ")[0]
    for start, title in (
        ("**At the same error", "same error: theirs / ours"),
        ("**At the same scheme", "same scheme: theirs / ours"),
        ("**In a loop", "in a loop: theirs / ours"),
        ("**Floor", "floor: theirs / ours"),
        ("Our times", "ours, ms"),
        ("**Time per prediction", "exported model"),
    ):
        [written] = [r for b, _, r in tables(section) if b.startswith(start)]
        assert written == measured[title]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What `make docs` builds."""
    pytest.importorskip("mkdocs")
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-d", str(directory)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.parametrize("package", [stable_node_tf, attacks, solvers])
def test_reference_has_every_public_name(site, package):
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(inventory).decode().splitlines()
    modules_of = {}
    for path in (line.split()[0] for line in lines):
        module, _, name = path.rpartition(".")
        modules_of.setdefault(name, []).append(module)
    for name in package.__all__:
        assert any(
            module.startswith(package.__name__)
            for module in modules_of.get(name, [])
        ), f"no docstring of {package.__name__}.{name}"


def test_reference_shows_doctests_as_code(site):
    for page in (site / "reference").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "&gt;&gt;&gt;" in text and "<blockquote>" not in text, page


@pytest.mark.slow
def test_tutorial_runs():
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(DOCS / "tutorial.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()
    printed = "".join(
        output.get("text", "")
        for c in notebook.cells
        for output in c.get("outputs", [])
    )
    assert "% certified" in printed
