"""Every module and every test has a Bazel target, with what it imports.

Starlark's calls read as Python's, so that `ast` reads the BUILD files. What
fails is mended with buildozer, of npm's @bazel/buildozer for instance.
"""

import ast
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FOLDERS = ("stable_node_tf", "trainers", "examples", "tests")
# They look at the source tree as a whole, which Bazel's sandbox does not hold.
WITHOUT_TARGET = {
    "tests/test_build_files.py",
    "tests/test_docs.py",
    "tests/test_wheel.py",
}
RULES = ("py_library", "py_binary", "pytest_test")


class Target(NamedTuple):
    label: str
    sources: tuple[str, ...]
    deps: frozenset[str]


def absolute(label, package):
    """//a/b:c for //a/b:c, for :c in a/b, and //a/b:b for //a/b."""
    if label.startswith(":"):
        return f"//{package}{label}"
    return label if ":" in label else f"{label}:{label.rpartition('/')[2]}"


@cache
def targets():
    """All targets with Python sources in the BUILD files of FOLDERS."""
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("BUILD")):
            package = str(path.parent.relative_to(ROOT))
            for node in ast.parse(path.read_text()).body:
                call = node.value
                if getattr(call.func, "id", None) not in RULES:
                    continue
                values = {
                    keyword.arg: ast.literal_eval(keyword.value)
                    for keyword in call.keywords
                    if keyword.arg in ("name", "src", "srcs", "deps")
                }
                sources = values.get("srcs") or [values["src"]]
                found.append(
                    Target(
                        f"//{package}:{values['name']}",
                        tuple(f"{package}/{source}" for source in sources),
                        frozenset(
                            absolute(label, package)
                            for label in values.get("deps", [])
                        ),
                    )
                )
    return found


@cache
def label_of():
    return {
        source: target.label
        for target in targets()
        for source in target.sources
    }


def modules():
    """What must have a target: all modules, but of tests the tests only."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if folder != "tests" or path.name.startswith("test_"):
                yield str(path.relative_to(ROOT))


def source_of(name):
    """The file of a module of ours, or None."""
    stem = name.replace(".", "/")
    for source in (f"{stem}.py", f"{stem}/__init__.py"):
        if name.split(".")[0] in FOLDERS and (ROOT / source).is_file():
            return source
    return None


def imported(source):
    """The files of ours that a file imports by name."""
    files = set()
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.Import):
            files |= {source_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                submodule = source_of(f"{node.module}.{alias.name}")
                files.add(submodule or source_of(node.module))
    return files - {None, source}


def test_every_module_has_one_target():
    count = Counter(s for target in targets() for s in target.sources)
    missing = {module for module in modules() if not count[module]}
    assert missing == WITHOUT_TARGET
    assert not [source for source, times in count.items() if times > 1]


def test_targets_name_files_that_exist():
    for target in targets():
        for source in target.sources:
            assert (ROOT / source).is_file(), f"{target.label}: {source}"


def test_deps_exist():
    labels = {target.label for target in targets()}
    for target in targets():
        unknown = {dep for dep in target.deps - labels if "//" in dep}
        assert not unknown, f"{target.label}: no such targets: {unknown}"


def test_deps_hold_what_is_imported():
    wrong = {}
    for target in targets():
        needed = {
            label_of().get(file, f"a target for {file}")
            for source in target.sources
            for file in imported(source)
        }
        missing = needed - target.deps - {target.label}
        if missing:
            wrong[target.label] = sorted(missing)
    commands = [
        f"buildozer 'add deps {' '.join(deps)}' {label}"
        for label, deps in wrong.items()
    ]
    assert not wrong, "\n".join(["mended by:", *commands])


def test_programs_are_binaries():
    """What has a `__main__` can be run: bazel run //trainers:train."""
    text = (ROOT / "trainers" / "BUILD").read_text()
    for path in sorted((ROOT / "trainers").glob("*.py")):
        is_program = 'if __name__ == "__main__":' in path.read_text()
        rule = "py_binary" if is_program else "py_library"
        assert f'{rule}(\n    name = "{_name(path)}",' in text, path.name


def _name(path):
    return path.parent.name if path.stem == "__init__" else path.stem
