import json

import pytest
from absl import flags
from absl.testing import flagsaver
from bars import split

from stable_node_tf.saved_model import (
    load_classifier,
)
from trainers import certify
from trainers.certified_recipe import CertifiedRecipe
from trainers.data import datasets

TINY = ["width=16", "blocks=1", "epochs=1", "batch_size=16", "seed=3"]


@pytest.fixture
def data(monkeypatch):
    loaded = datasets.Dataset(split(640, 0), split(32, 1), split(40, 2))
    monkeypatch.setattr(datasets, "load", lambda *args, **kwargs: loaded)
    return loaded


def run(*arguments):
    with flagsaver.flagsaver():
        flags.FLAGS(["certify", *map(str, arguments)])
        certify.main(["certify"])


def test_trains_exports_and_certifies(tmp_path, data, capsys):
    settings = [f"--set={setting}" for setting in TINY]
    run(f"--output={tmp_path}", "--radii=0,0.3,1,30", *settings)
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

    run(f"--model={tmp_path / 'model.keras'}", "--radii=0.3")
    assert f"{shares[1]:.2%}" in capsys.readouterr().out


def test_validation_leaves_the_test_images_alone(tmp_path, data, capsys):
    settings = [f"--set={setting}" for setting in TINY]
    run(f"--output={tmp_path}", "--validation", *settings)
    summary = json.loads((tmp_path / "certified.json").read_text())
    assert summary["images"] == "validation" and summary["num_images"] == 32


@pytest.mark.parametrize(
    "setting",
    ["width", "typo=1", "width=0", "width=a", "alpha=2", "scale=-1", "seed=-1"],
)
def test_refuses_bad_settings_by_name(setting):
    with pytest.raises(ValueError, match=setting.partition("=")[0]):
        CertifiedRecipe.parse("mnist", [setting])


def test_parse():
    recipe = CertifiedRecipe.parse(
        "fashion_mnist", ["width=8", "scale=3", "jit_compile=true"]
    )
    assert (recipe.dataset, recipe.width, recipe.scale) == (
        "fashion_mnist",
        8,
        3.0,
    )
    assert recipe.jit_compile is True
    assert recipe.fingerprint() != CertifiedRecipe().fingerprint()


def test_needs_output_or_model(tmp_path):
    with pytest.raises(Exception, match="--output or --model"):
        run()


def test_settings_are_of_no_use_to_a_trained_model():
    with pytest.raises(Exception, match="--set goes with --output"):
        run("--model=trained.keras", "--set=epochs=1")


def test_an_export_cannot_be_certified_again(tmp_path, data):
    with pytest.raises(SystemExit, match=f"error: There is no file {tmp_path}"):
        run(f"--model={tmp_path}")
