"""Programs on data of one's own, from the file to the figures."""

import json

import keras
import numpy as np
import pytest
from programs import SMALL, run

from stable_node_tf import attacks
from trainers import (
    attack_pictures,
    compare,
    evaluate,
    outcomes,
    robustness,
    train,
    training,
    variants,
)
from trainers.recipe import Recipe


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """scikit-learn's digits, 64 columns."""
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    path = tmp_path_factory.mktemp("data") / "digits.csv"
    head = ",".join([*(f"pixel{i}" for i in range(64)), "label"])
    rows = np.column_stack([images, labels]).astype(int)
    np.savetxt(path, rows, "%d", ",", header=head, comments="")
    return path


def test_a_table_is_trained_on_and_attacked(tmp_path, table, monkeypatch):
    monkeypatch.setattr(evaluate, "_checks", lambda *_: [])
    monkeypatch.setattr(attack_pictures, "plot_attacks", lambda *_: None)
    monkeypatch.setattr(attack_pictures, "plot_margins", lambda *_: None)
    recipe = dict(width=16, num_steps=2, epochs=10, learning_rate=0.02)
    out = tmp_path / "model"
    run(train, dataset=table, output=out, delta_bar=0, **recipe)
    summary = json.loads((out / "train.json").read_text())
    assert summary["class_names"] == list("0123456789")
    assert summary["columns"]["pixel2"] == [0, 16]
    values = SMALL | {"attacks": "fgsm,fmn", "num_images": 200}
    run(evaluate, model=out, dataset=table, output=tmp_path / "out", **values)
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert record["clean_accuracy"] > 0.9
    for attack in record["attacks"].values():
        assert attack["accuracies"][0] == record["clean_accuracy"]
    fgsm, fmn = (record["attacks"][n]["accuracies"][1] for n in ("fgsm", "fmn"))
    assert fmn < fgsm < 0.9


def test_a_table_is_not_compared(table):
    with pytest.raises(SystemExit, match="error: `dataset` must be of images"):
        run(compare, dataset=table)


@pytest.fixture
def colors(tmp_path):
    """Writes small images of three classes, each of which has its color."""

    def write(seed):
        rng = np.random.default_rng(seed)
        arrays = {}
        for split, count in (("train", 96), ("test", 12)):
            labels = np.arange(count) % 3
            images = rng.integers(120, size=(count, 5, 4, 3))
            images[np.arange(count), :, :, labels] += 120
            arrays[f"x_{split}"] = images.astype(np.uint8)
            arrays[f"y_{split}"] = labels
        np.savez(tmp_path / "colors.npz", **arrays)
        return tmp_path / "colors.npz"

    return write


def test_color_images_are_compared(tmp_path, colors, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("scipy")
    tiny = Recipe(width=4, num_steps=1, epochs=4, batch_size=16, delta_bar=0.0)
    few = attacks.WorstCase([attacks.PGD(steps=2)])
    monkeypatch.setitem(variants.PRESETS, "default", tiny)
    monkeypatch.setattr(outcomes, "strongest_pgd", lambda seed: few)
    monkeypatch.setattr(robustness, "EPSILONS", (0.0, 0.1))
    monkeypatch.setattr(compare, "_PGD_EPSILONS", (0.1,))
    monkeypatch.setattr(compare, "_certified", lambda *_: None)
    monkeypatch.setattr(compare, "save_classifier", lambda model, _: model)
    monkeypatch.setattr(compare, "load_classifier", lambda model: model)
    run(compare, dataset=colors(0), results=tmp_path)
    folder = tmp_path / "colors"
    for model in json.loads((folder / "results.json").read_text())["models"]:
        assert model["clean_accuracy"] > 0.6
    assert (folder / "attacked_images.png").stat().st_size > 10_000


def test_other_data_in_a_file_of_the_same_name_are_trained_on(
    tmp_path, colors, monkeypatch, capsys
):
    monkeypatch.setattr(training, "save_classifier", lambda *_: tmp_path)
    weights = []
    for seed in (0, 1, 1):
        flags = dict(dataset=colors(seed), output=tmp_path / "model")
        run(train, **flags, width=4, num_steps=1, epochs=1, batch_size=16)
        model = keras.saving.load_model(tmp_path / "model" / "model.keras")
        weights.append(model.get_layer("encoder").get_weights()[0])
        again = "already trained" in capsys.readouterr().out
        assert again == (len(weights) == 3)
    assert not np.allclose(weights[0], weights[1])
    np.testing.assert_array_equal(weights[1], weights[2])
