"""Models side by side, in Python."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import attacks, evaluation

EPSILONS = [0.05, 0.2]
ATTACKS = [attacks.FGSM(), attacks.FMN(norm="l2", steps=20)]


def linear(seed):
    weights = np.random.default_rng(seed).normal(size=(9, 3))

    def model(x):
        x = tf.cast(tf.reshape(x, [-1, 9]), tf.float32)
        return x @ tf.constant(weights, tf.float32)

    return model


MODELS = {"one": linear(0), "the other": linear(1)}


@pytest.fixture(scope="module")
def data():
    images = np.random.default_rng(2).uniform(size=(30, 3, 3, 1))
    return images.astype(np.float32), MODELS["one"](images).numpy().argmax(1)


def compare(data, **changes):
    settings = {"attacks": ATTACKS, "epsilons": EPSILONS, "verbose": False}
    return evaluation.compare(MODELS, *data, **settings | changes)


def test_curves_are_those_of_every_attack_on_every_model(data):
    comparison = compare(data, epsilons={"linf": 0.1, "l2": EPSILONS})
    for name, model in MODELS.items():
        for attack in ATTACKS:
            expected = evaluation.accuracy_curve(
                model,
                *data,
                attack,
                [0.1] if attack.norm == "linf" else EPSILONS,
            )
            curve = comparison.curves[name][attack.title]
            for mine, theirs in zip(curve, expected, strict=True):
                np.testing.assert_array_equal(mine, theirs)
    assert comparison.results["one"]["FGSM"].adversarial.size == 0


def test_the_table_has_a_row_for_each_budget(data):
    comparison = compare(data)
    head, clean, *rows = comparison.table().splitlines()
    assert head.split() == ["one", "the", "other"]
    assert clean.split()[:4] == ["no", "attack", "100.0", "%"]
    labels = ["FGSM, ℓ∞ 0.05", "FGSM, ℓ∞ 0.2"]
    labels += ["FMN, 2-norm, ℓ2 0.05", "FMN, 2-norm, ℓ2 0.2"]
    curve = comparison.curves["the other"]["FGSM"]
    assert rows[1].split()[-2:] == [f"{100 * curve.accuracies[1]:.1f}", "%"]
    for row, label in zip(rows, labels, strict=True):
        assert row.startswith(label) and len(row) == len(head)


def test_the_table_tells_masked_gradients(data):
    def flat(x):
        return 0.0 * MODELS["one"](x)

    comparison = evaluation.compare(
        {"flat": flat}, *data, attacks=ATTACKS[:1], epsilons=1, verbose=False
    )
    assert "FGSM, zero gradients  100.0 %" in comparison.table()


def test_plots_show_one_norm_and_every_model(data):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    comparison = compare(data)
    _, axes = pyplot.subplots()
    assert comparison.plot("l2", axes) is axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines.keys() == MODELS.keys()
    curve = comparison.curves["the other"]["FMN, 2-norm"]
    x, y = lines["the other"].get_data()
    assert x.tolist() == [0.0, *EPSILONS]
    assert y.tolist() == [
        100 * share for share in (curve.clean_accuracy, *curve.accuracies)
    ]
    assert "ℓ2" in axes.get_xlabel() and "ℓ∞" in comparison.plot().get_xlabel()
    many = compare(data, attacks={"A": ATTACKS[0], "B": ATTACKS[0]}).plot()
    labels = [line.get_label() for line in many.lines]
    assert labels == ["one: A", "one: B", "the other: A", "the other: B"]
    with pytest.raises(ValueError, match="norm must be that of an attack"):
        comparison.plot("l1")
    pyplot.close("all")


def test_plots_say_what_they_need(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"stable_node_tf\[plots\]"):
        compare(data).plot()


def test_json_has_curves_and_settings(data, tmp_path):
    comparison = compare(data)
    path = tmp_path / "new" / "comparison.json"
    comparison.to_json(path)
    written = json.loads(path.read_text())
    assert written.keys() == MODELS.keys()
    entry = written["the other"]["FMN, 2-norm"]
    curve = comparison.curves["the other"]["FMN, 2-norm"]
    assert entry["accuracies"] == curve.accuracies.tolist()
    assert entry["norm"] == "l2" and entry["settings"]["steps"] == 20
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_progress_can_be_silenced(data, capsys):
    compare(data)
    assert capsys.readouterr().out == ""
    compare(data, verbose=True)
    printed = capsys.readouterr().out
    for name in ("one: FGSM", "the other: FMN, 2-norm"):
        assert name in printed


def test_data_sets_are_as_good_as_arrays(data):
    batches = tf.data.Dataset.from_tensor_slices(data).batch(7)
    assert compare([batches]).table() == compare(data).table()
    shuffled = batches.unbatch().shuffle(30, seed=0).batch(7)
    with pytest.raises(ValueError, match="same order"):
        compare([shuffled])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": []}, "at least one"),
        ({"attacks": [attacks.PGD(), attacks.PGD(steps=3)]}, "PGD.*PGD"),
        ({"epsilons": {"linf": 0.1}}, "epsilons must be.*'linf': 0.1"),
        ({"epsilons": None}, "epsilons must be.*None"),
        ({"epsilons": []}, "epsilons must be"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_malformed_arguments_are_refused(data, changes, message):
    with pytest.raises(ValueError, match=message):
        compare(data, **changes)


@pytest.mark.parametrize("models", [{}, [linear(0)], linear(0)])
def test_models_must_have_names(models, data):
    with pytest.raises(ValueError, match="models must be a dictionary"):
        evaluation.compare(models, *data, attacks=ATTACKS, epsilons=EPSILONS)
