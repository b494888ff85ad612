"""The BUILD files name what their globs cannot find."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def constant(build_file, name):
    """A list that a BUILD file assigns; Starlark reads as Python here."""
    for node in ast.parse((ROOT / build_file).read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise LookupError(f"{build_file} has no {name}")


def test_programs_are_binaries():
    """What has a `__main__` can be run: bazel run //trainers:train."""
    programs = [
        path.stem
        for path in sorted((ROOT / "trainers").glob("*.py"))
        if 'if __name__ == "__main__":' in path.read_text()
    ]
    assert constant("trainers/BUILD", "PROGRAMS") == programs


def test_tests_without_a_target_exist():
    for name in constant("tests/BUILD", "OUTSIDE"):
        assert (ROOT / "tests" / name).is_file()


def test_no_folder_of_a_glob_is_a_package_of_its_own():
    """A BUILD file below would hide its folder from the glob above."""
    for folder in ("stable_node_tf", "trainers", "examples", "tests"):
        builds = list((ROOT / folder).rglob("BUILD"))
        assert builds == [ROOT / folder / "BUILD"]
