import json

import pytest
from bars import in_place_of_data, split
from programs import run, small_model

from stable_node_tf import attacks, ode_classifier
from stable_node_tf.saved_model import load_classifier, save_classifier
from trainers import compare, outcomes, robustness, variants
from trainers.recipe import Recipe


def few(seed):
    return attacks.WorstCase(
        [attacks.PGD(steps=2, loss=loss) for loss in ("cross_entropy", "dlr")]
    )


@pytest.fixture
def data(monkeypatch):
    return in_place_of_data(monkeypatch)


def test_compare_end_to_end(tmp_path, data, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    tiny = Recipe(
        width=8,
        num_steps=2,
        initial_skew_norm=3.0,
        delta_bar=0.0,
        encoder_max_norm=1.0,
        readout_max_norm=1.0,
        epochs=12,
        batch_size=16,
    )
    monkeypatch.setitem(variants.PRESETS, "paper", tiny)
    monkeypatch.setattr(robustness, "EPSILONS", (0.0, 0.1, 0.3))
    monkeypatch.setattr(compare, "_PGD_EPSILONS", (0.0, 0.1))
    monkeypatch.setattr(outcomes, "strongest_pgd", few)
    monkeypatch.setattr(compare, "_PGD_IMAGES", 16)
    arguments = dict(preset="paper", epochs=2, seed=1, results=tmp_path)
    results_of, attacked = {}, outcomes.attacked

    def recorded(*arguments):
        results_of[arguments[-1]] = attacked(*arguments)
        return results_of[arguments[-1]]

    monkeypatch.setattr(outcomes, "attacked", recorded)
    run(compare, **arguments)
    assert data == [("mnist", None, False)]

    directory = tmp_path / "mnist"
    results = json.loads((directory / "results.json").read_text())
    assert (results["dataset"], results["preset"]) == ("mnist", "paper")
    assert results["seed"] == results["config"]["seed"] == 1
    ordinary, stable_ode, bounded_ends, stable_network = results["models"]
    models = results["models"]
    assert [model["name"] for model in models] == [
        *("ordinary", "stable_ode", "bounded_ends", "stable_network"),
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
        assert [point["epsilon"] for point in model["pgd"]] == [0.0, 0.1]
        assert model["pgd"][0]["accuracy"] >= model["pgd"][1]["accuracy"]
        proven = [p["accuracy"] for p in model["certified"]["certified"]]
        assert proven == sorted(proven, reverse=True)
        assert proven[0] <= model["clean_accuracy"]
    for model in (ordinary, bounded_ends):
        assert model["delta_bar"] is None
        assert model["delta_lower"] > 0.0
        assert model["distance_to_stable"] > 0.0
    for model in (stable_ode, stable_network):
        assert model["delta_upper"] <= model["delta_bar"] == 0.0
    for model in (bounded_ends, stable_network):
        assert model["encoder_norm"] <= 1.0 + 1e-6
        assert model["readout_norm"] <= 1.0 + 1e-6
    assert stable_ode["encoder_norm"] > 1.0
    assert results["attack"]["pgd_images"] == 16
    assert results["attack"]["pgd_dlr"]["loss"] == "dlr"
    accuracies = {
        (model["name"], key, point["epsilon"]): point["accuracy"]
        for model in models
        for key in ("fgsm", "pgd")
        for point in model[key]
    }
    assert len(results["effects"]) == 2 * (len(robustness.EPSILONS) + 2)
    for effect in results["effects"]:
        assert effect["count"] == (16 if effect["attack"] == "pgd" else 40)
        pair = {
            "free": ("ordinary", "stable_ode"),
            "bounded": ("bounded_ends", "stable_network"),
        }[effect["ends"]]
        assert [effect["without"], effect["constrained"]] == [
            accuracies[name, effect["attack"], effect["epsilon"]]
            for name in pair
        ]
    files = ("results.csv", "accuracy.png", "attacked_images.png")
    for file in (*files, "separation.png"):
        assert (directory / file).stat().st_size > 100
    for model in models:
        load_classifier(directory / "saved_models" / model["name"])

    printed = capsys.readouterr().out
    assert "What the stability constraint alone does" in printed
    assert "with the same bounded ends" in printed

    # A version of somebody else beside ours is left alone, and not attacked.
    newer = directory / "saved_models" / "ordinary" / "2" / "saved_model.pb"
    newer.parent.mkdir()
    newer.write_bytes(b"of somebody else")
    (directory / "attacks" / "stable_ode_pgd.npz").unlink()
    calls = []

    def counted(*arguments):
        calls.append(arguments[-1])
        if "reloaded" in arguments[-1]:
            return results_of[arguments[-1]]
        return attacked(*arguments)

    def saved(model, place):
        if model.name == "ordinary":
            return save_classifier(model, place)
        return place / "1"

    monkeypatch.setattr(outcomes, "attacked", counted)
    monkeypatch.setattr(compare, "save_classifier", saved)
    proven = {model["name"]: model["certified"] for model in models}
    monkeypatch.setattr(compare, "_certified", lambda name, *_: proven[name])
    monkeypatch.setattr(compare, "draw", lambda *_: None)
    run(compare, **arguments)
    assert calls == [
        "ordinary, reloaded: FGSM",
        "stable_ode: PGD-100",
        *(
            f"{name}, reloaded: FGSM"
            for name in ("stable_ode", "bounded_ends", "stable_network")
        ),
    ]
    assert capsys.readouterr().out.count("already trained") == 4
    again = json.loads((directory / "results.json").read_text())
    assert again["models"] == models
    assert again["effects"] == results["effects"]


def test_a_network_without_a_known_bound_is_not_certified(capsys):
    data = split(8, 0)
    model = small_model()
    assert compare._certified("model", model, data)["num_images"] == 8
    free = ode_classifier(width=8, solver="dormand_prince")
    assert compare._certified("model", free, data) is None
    assert "model: not certified: " in capsys.readouterr().out
