import json

import numpy as np
import pytest
from absl import app, flags
from absl.testing import flagsaver
from bars import split

from stable_node_tf import attacks
from stable_node_tf.evaluation import sanity_checks
from stable_node_tf.saved_model import (
    load_classifier,
)
from trainers import attack_suite, model_card, zoo
from trainers.certified_recipe import CertifiedRecipe
from trainers.data import datasets
from trainers.recipe import Recipe

RECIPES = {
    "mnist_stable_network": Recipe(
        width=8,
        num_steps=2,
        epochs=1,
        batch_size=16,
        delta_bar=0.0,
        encoder_max_norm=1.5,
        readout_max_norm=2.0,
    ),
    "mnist_certified": CertifiedRecipe(
        width=16, blocks=1, epochs=1, batch_size=16
    ),
}


@pytest.fixture
def tiny(monkeypatch):
    loaded = datasets.Dataset(split(320, 0), split(0, 1), split(30, 2))
    monkeypatch.setattr(datasets, "load", lambda *args, **kwargs: loaded)
    monkeypatch.setattr(zoo, "recipes", lambda: RECIPES)
    few = [
        attacks.PGD(steps=5),
        attacks.PGD(steps=5, norm="l2"),
        attacks.PGD(steps=5, norm="l2", loss="dlr"),
    ]
    budgets = {"linf": [0.1], "l2": [0.3, 1.0]}
    monkeypatch.setattr(zoo, "_PGD", attack_suite.Suite(few, budgets))


def run(tmp_path, *arguments):
    places = [f"--zoo={tmp_path / 'zoo'}", f"--results={tmp_path / 'results'}"]
    with flagsaver.flagsaver():
        flags.FLAGS(["zoo", *places, "--pgd_images=20", *arguments])
        zoo.main(["zoo"])


def test_builds_carries_on_and_leaves_alone_what_is_there(
    tmp_path, tiny, monkeypatch, capsys
):
    whole = attack_suite.run

    def interrupted(suite, *arguments):
        if "pgd" in suite.settings():
            raise KeyboardInterrupt
        return whole(suite, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(attack_suite, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert not (tmp_path / "zoo").exists()
    work = tmp_path / "results/zoo/mnist_stable_network"
    before = attack_suite.digest(work / "1")
    fgsm = (work / "evaluation_fgsm.json").read_text()

    run(tmp_path)
    directory = tmp_path / "zoo/mnist_stable_network"
    assert sorted(p.name for p in (tmp_path / "zoo").iterdir()) == [
        "mnist_certified",
        "mnist_stable_network",
    ]
    assert attack_suite.digest(directory / "1") == before
    assert (work / "evaluation_fgsm.json").read_text() == fgsm
    results = json.loads((directory / "results.json").read_text())
    assert results["digest"] == before
    assert results["recipe"]["delta_bar"] == 0.0
    test = split(30, 2)
    answers = load_classifier(directory).predict(test.pixels)["label"]
    assert results["checked"]["correct"] == np.sum(answers == test.labels)
    factors = [
        layer.get("norm") or layer["lipschitz_bound"]
        for layer in results["bounds"]["layers"]
    ]
    assert results["bounds"]["lipschitz"] == pytest.approx(np.prod(factors))

    capsys.readouterr()
    card = directory / "README.md"
    text = card.read_text()
    assert text == model_card.card(results)
    card.write_text("edited")
    run(tmp_path)
    assert capsys.readouterr().out.count("is there already") == 2
    run(tmp_path, "--cards")
    assert card.read_text() == text


def test_an_interrupted_build_keeps_no_export_of_other_code(
    tmp_path, tiny, monkeypatch
):
    exports = []
    whole = zoo.save_classifier

    def counted(*arguments):
        exports.append(arguments)
        return whole(*arguments)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "save_classifier", counted)
    monkeypatch.setattr(attack_suite, "run", interrupted)
    for digest, expected in (("one", 1), ("one", 1), ("two", 2)):
        monkeypatch.setattr(zoo, "package_digest", lambda d=digest: d)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "--models=mnist_stable_network")
        assert len(exports) == expected


def test_a_refuted_certificate_is_not_published(tmp_path, tiny, monkeypatch):
    asked = []

    def refuted(certified, curves):
        asked.append(len(curves))
        measured = {"largest_excess_points": 1.0}
        return sanity_checks.Check("No attack", False, measured)

    monkeypatch.setattr(sanity_checks, "certified_at_most_attacked", refuted)
    with pytest.raises(SystemExit, match="refuted: No attack"):
        run(tmp_path, "--models=mnist_certified")
    assert asked == [2]  # pgd_l2 and pgd_l2_dlr
    assert not (tmp_path / "zoo").exists()


def test_the_command_of_the_card_trains_this_recipe():
    from trainers import train  # noqa: F401  (defines the flags)

    results = {
        "name": "mnist_stable_network",
        "recipe_of": "Recipe",
        "recipe": zoo.dataclasses.asdict(
            zoo.recipes()["fashion_mnist_stable_network"]
        ),
    }
    words = model_card.training_command(results).split()
    assert words[:3] == ["python", "-m", "trainers.train"]
    with flagsaver.flagsaver():
        flags.FLAGS(["train", *words[3:]])
        chosen = {
            field: flags.FLAGS[field].value for field in results["recipe"]
        }
    assert chosen == results["recipe"]

    recipe = CertifiedRecipe("fashion_mnist", scale=3.0, seed=2)
    results |= {"recipe_of": "CertifiedRecipe", "recipe": vars(recipe)}
    words = model_card.training_command(results).split()
    settings = [
        word.removeprefix("--set=")
        for word in words
        if word.startswith("--set")
    ]
    assert CertifiedRecipe.parse("fashion_mnist", settings) == recipe


def test_refuses_models_that_it_does_not_know(tmp_path):
    with pytest.raises(app.UsageError, match="mnist_certified.*cifar10"):
        run(tmp_path, "--models=cifar10_certified")
