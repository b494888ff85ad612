import csv
import json

import numpy as np
import pytest
from bars import split
from figures import texts
from programs import run

from trainers import delta_sweep, delta_sweep_picture, variants
from trainers.data import datasets
from trainers.recipe import Recipe

TINY = Recipe(width=6, num_steps=2, epochs=1, batch_size=32)


@pytest.fixture
def data(monkeypatch):
    loaded = datasets.Dataset(split(256, 0), split(0, 1), split(40, 2))
    monkeypatch.setattr(datasets, "load", lambda *args, **kwargs: loaded)
    return loaded


def test_sweep_from_the_command_line_twice(tmp_path, data, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(variants.PRESETS, "paper", TINY)
    arguments = dict(num_bounds=3, readout_epochs=2, results=tmp_path)
    run(delta_sweep, **arguments)
    directory = tmp_path / "mnist" / "delta_sweep"
    results = json.loads((directory / "sweep.json").read_text())
    assert (directory / "sweep.png").stat().st_size > 10_000

    first, middle, last = results["steps"]
    assert first["delta_bar"] == results["delta_upper"] > 0.0
    assert middle["delta_bar"] == pytest.approx(first["delta_bar"] / 2)
    assert last["delta_bar"] == 0.0
    # At δ itself nothing moves, and further down A moves ever more.
    assert first["relative_perturbation"] < 1e-4
    assert 0 < middle["perturbation"] < last["perturbation"]
    for step in results["steps"]:
        assert step["stability"]["delta_upper"] <= step["delta_bar"]
    assert (
        last["readout_trained"]["clean_accuracy"]
        >= last["replaced"]["clean_accuracy"] - 0.05
    )

    printed = capsys.readouterr().out
    assert "clean accuracy goes from" in printed
    with (directory / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == 3 * [
        "replaced",
        "readout_trained",
    ]
    assert float(rows[-1]["fgsm_0.1"]) == pytest.approx(
        last["readout_trained"]["fgsm"][-1]["accuracy"]
    )

    # What has been measured is not measured again, and what is new is added.
    monkeypatch.setattr(delta_sweep, "_stabilized", None)
    run(delta_sweep, **arguments)
    assert json.loads((directory / "sweep.json").read_text()) == results
    with pytest.raises(SystemExit, match="'NoneType' object is not"):
        run(delta_sweep, **arguments | {"num_bounds": 4})


def test_a_record_of_other_settings_is_not_taken(tmp_path, data):
    from stable_node_tf import ode_classifier

    model = ode_classifier(width=4)
    path = tmp_path / "sweep.json"
    path.write_text("{")
    begun = delta_sweep._opened(path, model, TINY, 2, data)
    assert begun["steps"] == []
    begun["steps"] = [{"delta_bar": 0.0}]
    path.write_text(json.dumps(begun))
    assert delta_sweep._opened(path, model, TINY, 2, data) == begun
    assert delta_sweep._opened(path, model, TINY, 3, data)["steps"] == []
    other = ode_classifier(width=4, seed=1)
    assert delta_sweep._opened(path, other, TINY, 2, data)["steps"] == []
    tested = data._replace(test=split(40, 3))
    assert delta_sweep._opened(path, model, TINY, 2, tested)["steps"] == []


def test_picture_names_its_curves(monkeypatch):
    def measured(shift):
        return {
            "clean_accuracy": 0.97 - shift,
            "fgsm": [
                {"epsilon": epsilon, "accuracy": 0.9 - 5 * epsilon - shift}
                for epsilon in delta_sweep.EPSILONS
            ],
        }

    results = {
        "recipe": {"dataset": "mnist"},
        "steps": [
            {
                "delta_bar": float(bound),
                "replaced": measured(0.1),
                "readout_trained": measured(0.0),
            }
            for bound in np.linspace(2.0, 0.0, 5)
        ],
    }
    _, found = texts(
        monkeypatch,
        lambda: delta_sweep_picture.plot_delta_sweep(results, "sweep.png"),
    )
    assert "no attack" in found and "FGSM, ε = 0.1" in found
    assert any("MNIST" in text for text in found)
