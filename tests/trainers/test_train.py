import json

import keras
import numpy as np
import pytest
from bars import in_place_of_data, split
from programs import run

from stable_node_tf.saved_model import (
    load_classifier,
)
from trainers import train, training

TINY = {"width": 8, "num_steps": 4, "epochs": 2, "batch_size": 16, "seed": 3}


@pytest.fixture
def data(monkeypatch):
    return in_place_of_data(monkeypatch)


@pytest.mark.parametrize(
    "name, value",
    [
        ("alpha", 0.0),
        ("learning_rate", -1.0),
        ("delta_bar", float("inf")),
        ("encoder_max_norm", 0.0),
        ("readout_max_norm", -2.0),
    ],
)
def test_train_refuses_bad_values_before_the_data(tmp_path, data, name, value):
    with pytest.raises(SystemExit, match=f"error: .*{name}={value}$"):
        run(train, **TINY, output=tmp_path / "new", **{name: value})
    assert not data
    assert not (tmp_path / "new").exists()


def test_train_writes_models_and_a_summary(tmp_path, data, capsys):
    run(train, **TINY, delta_bar=0.0, output=tmp_path, data_dir="/data")
    assert data == [("mnist", "/data", False)]
    summary = json.loads((tmp_path / "train.json").read_text())
    assert summary["recipe"]["width"] == 8
    assert summary["recipe"]["delta_bar"] == 0.0
    assert summary["steps"] == 2 * 4
    assert summary["stability"]["delta_upper"] <= 0.0
    assert "holds_for: Euler with 4 steps" in capsys.readouterr().out
    model = keras.saving.load_model(tmp_path / "model.keras")
    images = split(8, 5).images.astype(np.float32) / 255.0
    np.testing.assert_allclose(
        model(images), load_classifier(tmp_path)(images), atol=1e-5
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        *("1", "checkpoints", "model.keras", "train.json"),
    }

    # Run again, it does not train again.
    first = (tmp_path / "train.json").read_bytes()
    run(train, **TINY, delta_bar=0.0, output=tmp_path)
    assert "model: already trained" in capsys.readouterr().out
    assert (tmp_path / "train.json").read_bytes() == first


def test_train_on_the_validation_split_reports_on_it(
    tmp_path, data, capfd, monkeypatch
):
    monkeypatch.setattr(training, "save_classifier", lambda *_: tmp_path / "1")
    run(train, **TINY, output=tmp_path, validation=True)
    assert data == [("mnist", None, True)]
    assert "val_accuracy" in capfd.readouterr().out
    [folder] = (tmp_path / "checkpoints").iterdir()
    assert folder.name.startswith("validated-")
    summary = json.loads((tmp_path / "train.json").read_text())
    assert summary["training_images"] == 64


def test_train_into_a_file_is_one_clear_line(tmp_path, data):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="error: .*file"):
        run(train, **TINY, output=tmp_path / "file")


def test_train_takes_images_of_any_shape(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        f"{kind}_{split}": values
        for split, count in (("train", 48), ("test", 6))
        for kind, values in (
            ("x", rng.integers(256, size=(count, 4, 6, 3), dtype=np.uint8)),
            ("y", np.arange(count) % 3),
        )
    }
    np.savez(tmp_path / "leaves.npz", **arrays)
    run(train, **TINY, dataset=tmp_path / "leaves.npz", output=tmp_path)
    answers = load_classifier(tmp_path).predict(arrays["x_test"] / 255.0)
    assert answers["logits"].shape == (6, 3)
    summary = json.loads((tmp_path / "train.json").read_text())
    assert summary["training_images"] == 48
