"""A hook of MkDocs: the reference of all modules, and links to it.

Each folder of the package becomes a page with the docstrings of its modules,
so that a new module is in the reference without anyone adding it. Links from
the documents to a module's file lead to its place there.
"""

import ast
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = "stable_node_tf"
_SOURCE_LINK = re.compile(r"\[([^\]]+)\]\(\.\./((?:\w+/)+\w+)\.py\)")
_TREE_LINK = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")


def pages(root: Path) -> dict[str, list[str]]:
    """The modules of each folder, by the name of its page."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
            folder = parts
        else:
            folder = parts[:-1]
        found.setdefault(".".join(folder), []).append(".".join(parts))
    return found


def made_in(path: Path) -> list[str]:
    """The public variables that a module assigns."""
    return [
        target.id
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and not target.id.startswith("_")
    ]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages to the navigation."""
    root = Path(config.config_file_path).parent
    reference = [{name: f"reference/{name}.md"} for name in pages(root)]
    config.nav = [*config.nav, {"Reference": reference}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages themselves."""
    root = Path(config.config_file_path).parent
    for name, modules in pages(root).items():
        text = [f"# {name}\n"]
        for module in modules:
            text.append(f"::: {module}\n")
            if module == name:  # other names are documented where they are made
                made = made_in(root / name.replace(".", "/") / "__init__.py")
                text.append(f"    options:\n      members: {made or 'false'}\n")
        page = f"reference/{name}.md"
        files.append(File.generated(config, page, content="\n".join(text)))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    """Turns links to modules into links to the reference."""

    def to_reference(match: re.Match[str]) -> str:
        text, path = match.groups()
        if not path.startswith(f"{PACKAGE}/"):
            return f"`{path}.py`"
        return f"[{text}][{path.replace('/', '.')}]"

    return _TREE_LINK.sub(r"`\1`", _SOURCE_LINK.sub(to_reference, markdown))
