"""The documentation: what it links to exists, and its notebook runs."""

import re
from pathlib import Path

import pytest

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
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
        for flag in re.findall(r"--(\w+)", rest):
            known = f'"{flag}"' in source or f"define_{flag}(" in source
            assert known, f"{page.name}: {module} --{flag}"


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
