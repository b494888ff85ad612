"""Imports point downward: rooms form no circle, mathematics is the ground."""

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
        ".__init__"
    ): path
    for package in ("stable_node_tf", "trainers")
    for path in (ROOT / package).rglob("*.py")
}
# Layers register the rules by which `certification` knows them.
BELOW_LAYERS = ("rules", "forward_rounding", "boxes")


def room(module):
    top, *inner = module.split(".")
    if top == "trainers" or not inner:
        return top
    if inner[0] == "certification" and inner[-1] in BELOW_LAYERS:
        return "certification.rules"
    return inner[0]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def test_rooms_form_no_circle():
    graph = {}
    for module, path in MODULES.items():
        below = {room(name) for name in imported(path) if name in MODULES}
        graph.setdefault(room(module), set()).update(below - {room(module)})
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order[-1] == "trainers"
    assert graph["stability"] == {"checks"}


def test_mathematics_knows_no_keras():
    for module, path in MODULES.items():
        if room(module) == "stability":
            tops = {name.split(".")[0] for name in imported(path)}
            assert not tops & {"keras", "tf_keras"}, module
