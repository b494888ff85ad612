import json

import pytest
from bars import split
from programs import run

from stable_node_tf.saved_model import (
    load_classifier,
)
from trainers import certify, training
from trainers.data import datasets

TINY = {"width": 16, "blocks": 1, "epochs": 1, "batch_size": 16, "seed": 3}


@pytest.fixture
def data(monkeypatch):
    loaded = datasets.Dataset(split(640, 0), split(32, 1), split(40, 2))
    monkeypatch.setattr(datasets, "load", lambda *args, **kwargs: loaded)
    return loaded


def test_trains_exports_and_certifies(tmp_path, data, capsys):
    run(certify, output=tmp_path, radii="0,0.3,1,30", **TINY)
    summary = json.loads((tmp_path / "certified.json").read_text())
    shares = [point["accuracy"] for point in summary["certified"]]
    assert shares == sorted(shares, reverse=True)
    assert summary["clean_accuracy"] >= shares[0] > 0.5 and shares[3] == 0.0
    assert summary["num_images"] == 40 and summary["images"] == "test"
    assert summary["recipe"]["width"] == 16
    printed = capsys.readouterr().out
    assert f"{shares[1]:.2%}" in printed and "float32" in printed

    images = data.test.images / 255.0
    answers = load_classifier(tmp_path).certify(images)
    correct = answers["label"] == data.test.labels
    radius = summary["certified"][1]["radius"]
    proven = correct & (answers["certified_radius"] > radius)
    assert proven.mean() == pytest.approx(shares[1], abs=0.026)

    run(certify, model=tmp_path / "model.keras", radii=0.3)
    assert f"{shares[1]:.2%}" in capsys.readouterr().out


def test_trains_on_boxes_for_the_norm_of_fgsm(tmp_path, data, capsys):
    boxes = {"norm": "inf", "epsilon": 0.02}
    run(certify, output=tmp_path, **boxes, **{**TINY, "epochs": 2})
    summary = json.loads((tmp_path / "certified.json").read_text())
    assert summary["holds_for"] == "∞-norm, float32 arithmetic as computed"
    assert [point["radius"] for point in summary["certified"]][1] == 0.02
    shares = [point["accuracy"] for point in summary["certified"]]
    assert shares[0] > 0.5 and shares[1] > 0.3
    answers = load_classifier(tmp_path).certify(data.test.images / 255.0)
    right = answers["label"] == data.test.labels
    proven = right & (answers["certified_radius_inf"] > 0.02)
    assert proven.mean() == pytest.approx(shares[1], abs=0.026)

    capsys.readouterr()
    run(certify, model=tmp_path / "model.keras", norm="inf", radii=0.02)
    assert f"{shares[1]:.2%}" in capsys.readouterr().out


def test_validation_leaves_the_test_images_alone(tmp_path, data, monkeypatch):
    def untrained(recipe, images, *_, **__):
        assert len(images.labels) == len(data.train.labels)
        return training.Trained(recipe.build("it", (28, 28, 1), 10), 0.0, 0)

    monkeypatch.setattr(training, "train", untrained)
    monkeypatch.setattr(training, "save", lambda *_: None)
    run(certify, "--validation", output=tmp_path, **TINY)
    summary = json.loads((tmp_path / "certified.json").read_text())
    assert summary["images"] == "validation" and summary["num_images"] == 32


@pytest.mark.parametrize(
    "name, value",
    [
        ("typo", 1),
        ("width", 0),
        ("width", "a"),
        ("alpha", 2),
        ("loss_scale", -1),
        ("seed", -1),
    ],
)
def test_refuses_bad_values_by_name(name, value, capsys):
    with pytest.raises(SystemExit, match=f"error: .*{name}"):
        run(certify, output="nowhere", **{name: value})


@pytest.mark.parametrize("places", [{}, {"output": "x", "model": "y"}])
def test_needs_output_or_model(places):
    with pytest.raises(SystemExit, match="--output or --model"):
        run(certify, **places)


def test_a_recipe_is_of_no_use_to_a_trained_model():
    with pytest.raises(SystemExit, match="recipe go with --output"):
        run(certify, model="trained.keras", epochs=1)


def test_an_export_cannot_be_certified_again(tmp_path, data):
    with pytest.raises(SystemExit, match=f"error: There is no file {tmp_path}"):
        run(certify, model=tmp_path)
