import importlib.util
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, *arguments):
    """Runs an example in this process and returns what it found."""
    spec = importlib.util.spec_from_file_location(
        f"examples.{name}", EXAMPLES / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.main(*arguments)


@pytest.fixture(autouse=True)
def needs_scikit_learn():
    pytest.importorskip("sklearn")


def test_stabilize_trained_model(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "picture.png"
    example, (models, comparison) = run("stabilize_trained_model", picture)
    free, *stable = (m.get_layer("ode").stability() for m in models.values())
    assert free.delta_lower > 1.0
    for bounds in stable:
        assert bounds.delta_upper <= example.DELTA_BAR
    before, moved, after = (of["PGD"] for of in comparison.curves.values())
    assert before.clean_accuracy > 0.95
    # The epoch makes good what moving A has cost, and more under attack.
    assert after.clean_accuracy > moved.clean_accuracy
    assert after.accuracies[1] > before.accuracies[1]
    assert comparison.table() in capsys.readouterr().out
    assert picture.stat().st_size > 10_000


def test_tabular():
    _, (accuracy, radii, right) = run("tabular")
    assert accuracy > 0.93
    assert np.mean(right) == pytest.approx(accuracy)
    assert np.all(radii >= 0.0)
    assert np.mean(right & (radii > 0.25)) > 0.85


@pytest.mark.slow
def test_system_identification():
    example, outcomes = run("system_identification")
    bounds, errors = outcomes["contractive"]
    assert bounds.delta_upper <= example.DELTA
    free_bounds, free_errors = outcomes["free"]
    assert free_bounds.delta_lower > example.DELTA
    assert errors[-1] < free_errors[-1]
