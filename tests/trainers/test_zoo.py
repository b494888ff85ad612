import dataclasses
import json
import types

import numpy as np
import pytest
from bars import split

from stable_node_tf import attacks
from stable_node_tf.evaluation import sanity_checks
from stable_node_tf.saved_model import (
    load_classifier,
)
from trainers import attack_suite, certify, model_card, train, training, zoo
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
    loaded = split_off()
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
    zoo.main([*places, "--pgd_images=20", *arguments])


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
        with pytest.raises(SystemExit, match="130"):
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


@pytest.fixture
def untrained(monkeypatch):
    """Models as they are drawn, for what does not depend on their training."""

    def train(recipe, *_):
        return training.Trained(recipe.build("it", (28, 28, 1), 10), 0.0, 0)

    monkeypatch.setattr(training, "train", train)


def test_an_interrupted_build_keeps_no_export_of_other_code(
    tmp_path, tiny, untrained, monkeypatch
):
    exports = []

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "save_classifier", lambda *a: exports.append(a))
    monkeypatch.setattr(zoo, "load_classifier", lambda path: exported)
    exported = types.SimpleNamespace(path=tmp_path)
    monkeypatch.setattr(attack_suite, "run", interrupted)
    for digest, expected in (("one", 1), ("one", 1), ("two", 2)):
        monkeypatch.setattr(zoo, "package_digest", lambda d=digest: d)
        with pytest.raises(SystemExit, match="130"):
            run(tmp_path, "--models=mnist_stable_network")
        assert len(exports) == expected


def test_a_refuted_certificate_is_not_published(
    tmp_path, tiny, untrained, monkeypatch
):
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


@pytest.mark.parametrize(
    "program, recipe",
    [
        (train, zoo.recipes()["fashion_mnist_stable_network"]),
        (
            certify,
            CertifiedRecipe(dataset="fashion_mnist", loss_scale=3.0, seed=2),
        ),
    ],
)
def test_the_command_of_the_card_trains_this_recipe(
    program, recipe, monkeypatch
):
    trained = []
    monkeypatch.setattr(datasets, "load", lambda *_, **__: split_off())
    monkeypatch.setattr(training, "train", lambda *a, **_: trained.append(a[0]))
    results = {
        "name": "it",
        "recipe_of": type(recipe).__name__,
        "recipe": dataclasses.asdict(recipe),
    }
    words = model_card.training_command(results).split()
    assert words[:3] == ["python", "-m", program.__name__]
    with pytest.raises(AttributeError):  # nothing was trained
        program.main(words[3:])
    assert trained == [recipe]


def split_off():
    return datasets.Dataset(split(32, 0), split(0, 1), split(30, 2))


def test_refuses_models_that_it_does_not_know(tmp_path):
    with pytest.raises(SystemExit, match="mnist_certified.*cifar10"):
        run(tmp_path, "--models=cifar10_certified")
