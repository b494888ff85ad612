import importlib.util
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name):
    """Runs an example in this process and returns what it found."""
    spec = importlib.util.spec_from_file_location(
        f"examples.{name}", EXAMPLES / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.main()


@pytest.fixture(autouse=True)
def needs_scikit_learn():
    pytest.importorskip("sklearn")


def test_stabilize_trained_model():
    example, (before, moved, after) = run("stabilize_trained_model")
    assert before[1].delta_lower > 1.0
    for _, bounds in (moved, after):
        assert bounds.delta_upper <= example.DELTA_BAR
    assert before[0] > 0.95
    assert after[0] > max(moved[0], 0.9)


def test_tabular():
    _, (accuracy, radii, right) = run("tabular")
    assert accuracy > 0.93
    assert np.mean(right) == pytest.approx(accuracy)
    assert np.all(radii >= 0.0)
    assert np.mean(right & (radii > 0.25)) > 0.85


def test_system_identification():
    example, outcomes = run("system_identification")
    bounds, errors = outcomes["contractive"]
    assert bounds.delta_upper <= example.DELTA
    free_bounds, free_errors = outcomes["free"]
    assert free_bounds.delta_lower > example.DELTA
    assert errors[-1] < free_errors[-1]
