"""No file that is read can run code of its own, SavedModels apart."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("stable_node_tf", "trainers", "examples", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
UNSAFE_MODULES = {
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "pickle",
    "shelve",
}
UNSAFE_NAMES = {"eval", "exec", "enable_unsafe_deserialization"}
# After its checksum, with an unpickler that admits arrays only.
ALLOWED = {"trainers/data/sources.py": {"pickle"}}


def unsafe(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            yield from names & UNSAFE_MODULES
        elif isinstance(node, ast.ImportFrom):
            yield from {(node.module or "").split(".")[0]} & UNSAFE_MODULES
        elif isinstance(node, ast.Name | ast.Attribute):
            name = getattr(node, "id", None) or getattr(node, "attr", None)
            yield from {name} & UNSAFE_NAMES
        elif isinstance(node, ast.keyword):
            value = getattr(node.value, "value", "not a constant")
            if node.arg == "safe_mode" and value is not True:
                yield "safe_mode"
            if node.arg == "allow_pickle" and value is not False:
                yield "allow_pickle"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_sources_do_not_unpickle(path):
    found = set(unsafe(ast.parse(path.read_text())))
    assert found <= ALLOWED.get(str(path.relative_to(ROOT)), set())


def test_saved_models_are_loaded_in_one_place_that_looks_at_checksums():
    loaded = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node).endswith("saved_model.load")
    }
    assert loaded == {"stable_node_tf/saved_model/loading.py"}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "keras.saving.load_model(path, safe_mode=False)",
        "np.load(path, allow_pickle=True)",
        "keras.config.enable_unsafe_deserialization()",
    ],
)
def test_it_would_be_found(source):
    assert set(unsafe(ast.parse(source)))
