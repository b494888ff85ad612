import json

import pytest
from bars import in_place_of_data
from programs import run

from stable_node_tf import export
from trainers import compare


@pytest.fixture
def data(monkeypatch):
    return in_place_of_data(monkeypatch)


def test_compare_end_to_end(tmp_path, data, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    tiny = compare.Recipe(
        width=8,
        num_steps=4,
        rotation=3.0,
        delta_bar=0.0,
        encoder_max_norm=1.0,
        readout_max_norm=1.0,
        epochs=12,
        batch_size=16,
    )
    monkeypatch.setitem(compare.PRESETS, "paper", tiny)
    arguments = dict(preset="paper", epochs=2, seed=1, results=tmp_path)
    run(compare, **arguments)
    assert data == [("mnist", None, False)]

    directory = tmp_path / "mnist"
    results = json.loads((directory / "results.json").read_text())
    assert (results["dataset"], results["preset"]) == ("mnist", "paper")
    assert results["seed"] == results["config"]["seed"] == 1
    ordinary, stable_ode, stable_network = models = results["models"]
    assert [model["name"] for model in models] == [
        *("ordinary", "stable_ode", "stable_network"),
    ]
    for model in models:
        assert model["steps"] == 2 * 4
        assert model["training_seconds"] > 0.0
        assert model["delta_lower"] <= model["delta_upper"]
        assert model["fgsm"][0]["epsilon"] == 0.0
        assert model["fgsm"][0]["accuracy"] == model["clean_accuracy"]
        assert model["fgsm"][-1]["epsilon"] == 0.3
        for mine, theirs in zip(
            model["fgsm"], model["saved_model_fgsm"], strict=True
        ):
            assert mine["epsilon"] == theirs["epsilon"]
            assert abs(mine["accuracy"] - theirs["accuracy"]) <= 1 / 40
    assert ordinary["delta_bar"] is None
    assert ordinary["delta_lower"] > 0.0
    assert ordinary["distance_to_stable"] > 0.0
    for model in (stable_ode, stable_network):
        assert model["delta_upper"] <= model["delta_bar"] == 0.0
    assert stable_network["encoder_norm"] <= 1.0 + 1e-6
    assert stable_network["readout_norm"] <= 1.0 + 1e-6
    assert stable_ode["encoder_norm"] > 1.0
    files = ("results.csv", "accuracy.png", "attacked_images.png")
    for file in (*files, "separation.png"):
        assert (directory / file).stat().st_size > 100
    for model in models:
        export.load(directory / "saved_models" / model["name"])

    # A version of somebody else beside ours is left alone, and not attacked.
    newer = directory / "saved_models" / "ordinary" / "2" / "saved_model.pb"
    newer.parent.mkdir()
    newer.write_bytes(b"of somebody else")
    capsys.readouterr()
    run(compare, **arguments)
    assert capsys.readouterr().out.count("already trained") == 3
    again = json.loads((directory / "results.json").read_text())
    assert again["models"] == models
