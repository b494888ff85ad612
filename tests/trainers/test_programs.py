import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import app, flags
from absl.testing import flagsaver
from bars import split

from stable_node_tf import Euler, export, ode_classifier
from trainers import (
    attack_report,
    attack_suite,
    certify,
    compare,
    datasets,
    distribution,
    evaluate,
    summarise,
    train,
    training,
)

TINY = {"width": 8, "num_steps": 4, "epochs": 2, "batch_size": 16, "seed": 3}


@pytest.fixture
def data(monkeypatch):
    """Puts a tiny data set in the place of the real ones."""
    calls = []

    def load(name, *, data_dir=None, validation=False):
        calls.append((name, data_dir, validation))
        return datasets.Dataset(split(64, 0), split(32, 1), split(40, 2))

    monkeypatch.setattr(datasets, "load", load)
    return calls


def run(program, **values):
    """Runs the main function of a program in this process."""
    name = program.__name__
    values = [f"--{flag}={value}" for flag, value in values.items()]
    with flagsaver.flagsaver():
        flags.FLAGS([name, *values])
        program.main([name])


def program(module, *arguments):
    """Runs a program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", f"trainers.{module}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "module, arguments, message",
    [
        ("train", ["--width=8"], "output"),
        ("train", ["--output=x", "--alpha=2"], "error: .*alpha=2.0"),
        ("evaluate", ["--model=/nowhere"], "error: .*/nowhere"),
        ("compare", ["--model=x"], "model"),
    ],
)
def test_programs_refuse_bad_flags_at_once(
    module, arguments, message, tmp_path
):
    result = program(module, *arguments, f"--data_dir={tmp_path}")
    assert result.returncode != 0
    assert re.search(message, result.stderr)
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, value",
    [
        ("width", 0),
        ("width", "wide"),
        ("epochs", 0),
        ("seed", -1),
        ("dataset", "cifar10"),
        ("activation", "relu"),
        ("solver", "heun"),
        ("rotation", -1),
        ("preset", "best"),
        ("epsilons", "0,-1"),
        ("epsilons", "0,a"),
        ("epsilons", "0,nan"),
        ("epsilons_l2", "0,-1"),
        ("attacks", "fgsm,deepfool"),
        ("attacks", ""),
        ("pgd_steps", 0),
        ("queries", 0),
        ("num_images", 0),
        ("typo", 1),
    ],
)
def test_flags_refuse_bad_values_by_name(name, value):
    with pytest.raises(flags.Error, match=name):
        run(train, **{name: value})


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


@pytest.mark.parametrize("main", [train.main, evaluate.main, compare.main])
def test_stray_arguments_are_refused(main):
    with pytest.raises(app.UsageError, match="stray words"):
        main(["program", "stray", "words"])


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
        model(images), export.load(tmp_path)(images), atol=1e-5
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        *("1", "checkpoints", "model.keras", "train.json"),
    }


@pytest.fixture
def strategies(monkeypatch):
    """The strategies that programs train with; nothing is trained."""
    seen = []

    def train(*_, strategy=None, **__):
        seen.append(strategy)
        return training.Trained(model=None, seconds=0.0, steps=0)

    monkeypatch.setattr(training, "train", train)
    return seen


@pytest.mark.parametrize(
    ("program", "flag", "models", "epochs"),
    [
        (train, "output", 1, {"epochs": 1}),
        (certify, "output", 1, {}),
        (compare, "results", 3, {"epochs": 1}),
    ],
)
def test_workers_train_and_leave_the_rest_to_their_chief(
    tmp_path,
    data,
    strategies,
    monkeypatch,
    capsys,
    program,
    flag,
    models,
    epochs,
):
    monkeypatch.setattr(distribution, "is_chief", lambda strategy: False)
    output = tmp_path / "output"
    run(program, strategy="mirrored", **{flag: output}, **epochs)
    assert len(strategies) == models
    for strategy in strategies:
        assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert not output.exists()


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (train, {"output": "x", "epochs": 1}),
        (certify, {"output": "x"}),
        (compare, {"results": "x", "epochs": 1}),
    ],
)
def test_programs_that_train_refuse_a_cluster_of_nobody(
    tmp_path, data, strategies, monkeypatch, program, arguments
):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="error: .*TF_CONFIG"):
        run(program, strategy="multi_worker", **arguments)
    assert not strategies


def test_train_run_again_does_not_train_again(tmp_path, data, capsys):
    run(train, **TINY, output=tmp_path)
    first = (tmp_path / "train.json").read_bytes()
    run(train, **TINY, output=tmp_path)
    assert "model: already trained" in capsys.readouterr().out
    assert (tmp_path / "train.json").read_bytes() == first


def test_train_on_the_validation_split_reports_on_it(tmp_path, data, capfd):
    run(train, **TINY, output=tmp_path, validation=True)
    assert data == [("mnist", None, True)]
    assert "val_accuracy" in capfd.readouterr().out
    [folder] = (tmp_path / "checkpoints").iterdir()
    assert folder.name.startswith("validated-")


def test_train_into_a_file_is_one_clear_line(tmp_path, data):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="error: .*file"):
        run(train, **TINY, output=tmp_path / "file")


def small_model(seed=0):
    """Two steps of Euler: quick to trace."""
    return ode_classifier(width=8, solver=Euler(2), seed=seed)


def test_evaluate_reports_and_writes(tmp_path, data, capsys):
    pytest.importorskip("matplotlib")
    model = small_model()
    model.save(tmp_path / "model.keras")
    output = tmp_path / "out"
    run(
        evaluate,
        model=tmp_path / "model.keras",
        dataset="fashion_mnist",
        epsilons="0,0.1",
        output=output,
    )
    assert data == [("fashion_mnist", None, False)]
    record = json.loads((output / "evaluation.json").read_text())
    test = split(40, 2)
    answers = np.argmax(model(test.images.astype(np.float32) / 255.0), -1)
    clean = np.mean(answers == test.labels)
    assert record["clean_accuracy"] == pytest.approx(clean)
    assert record["num_images"] == 40
    fgsm = record["attacks"]["fgsm"]
    assert fgsm["settings"]["epsilons"] == [0.0, 0.1]
    assert fgsm["accuracies"][0] == clean
    checks = {check["name"]: check for check in record["checks"]}
    assert len(checks) == 4  # of all seven, those that FGSM alone allows
    same = checks["Exported and in-memory gradients are equal"]
    assert same["passed"]
    printed = capsys.readouterr().out
    assert f"{clean:.2%}" in printed
    assert printed.count("✓") + printed.count("✗") == 4
    rows = list(csv.DictReader((output / "evaluation.csv").open()))
    attacked = [row for row in rows if row["figure"] == "accuracy"]
    assert [row["epsilon"] for row in attacked[:2]] == ["0.0", "0.1"]
    assert float(attacked[0]["value"]) == pytest.approx(clean)
    assert {row["kind"] for row in rows} == {"attack", "check"}
    for picture in ("attacks.png", "margins.png"):
        assert (output / picture).stat().st_size > 1000


SMALL = {
    "epsilons": "0,0.1,0.3",
    "epsilons_l2": "0,1",
    "pgd_steps": 10,
    "queries": 25,
    "num_images": 30,
    "jit_compile": False,
}


def test_evaluate_runs_every_attack_and_check(tmp_path, data, capsys):
    export.export(small_model(), tmp_path)
    small_model().save(tmp_path / "model.keras")
    out = tmp_path / "out"
    run(evaluate, model=tmp_path, attacks="all", output=out, **SMALL)
    record = json.loads((out / "evaluation.json").read_text())
    assert record["attacks"].keys() == {
        *("fgsm", "pgd", "margin", "square", "pgd_l2", "margin_l2"),
    }
    for name, attack in record["attacks"].items():
        assert attack["norm"] == ("l2" if "_l2" in name else "linf")
        accuracies = attack["accuracies"]
        assert accuracies[0] == record["clean_accuracy"]
        assert accuracies == sorted(accuracies, reverse=True)
    assert record["attacks"]["square"]["zero_gradient_share"] is None
    assert len(record["checks"]) == 7
    [zeros] = [c for c in record["checks"] if "zero" in c["name"]]
    shares = {
        name: attack["zero_gradient_share"]
        for name, attack in record["attacks"].items()
    }
    assert shares["margin_l2"] == shares["margin"] > 0
    smooth = max(shares[name] for name in ("fgsm", "pgd", "pgd_l2"))
    assert zeros["measured"]["share"] == smooth < shares["margin"]
    certified = record["certified"]["certified"]
    assert [point["radius"] for point in certified] == [0.0, 1.0]
    for name in ("pgd_l2", "margin_l2"):
        attacked = record["attacks"][name]["accuracies"]
        for point, accuracy in zip(certified, attacked, strict=True):
            assert point["accuracy"] <= accuracy
    printed = capsys.readouterr().out
    assert "Not checked" not in printed and "certified" in printed
    rows = list(csv.DictReader((out / "evaluation.csv").open()))
    assert sum(row["kind"] == "certified" for row in rows) == 2
    summarise.main(["summarise", str(out / "evaluation.json")])
    assert (
        "| out: PGD, 2-norm | out: PGD, margin, 2-norm | out: certified |"
        in capsys.readouterr().out
    )


def test_evaluate_shows_failed_checks_in_red():
    record = {
        "checks": [
            {"name": "One", "passed": True, "measured": {"share": 0.5}},
            {"name": "Two", "passed": False, "measured": {"at_epsilon": 0.25}},
        ]
    }
    passed, failed = attack_report.check_lines(record)
    assert (passed.plain, str(passed.style)) == ("✓ One (share 0.5)", "green")
    assert failed.plain == "✗ Two (at epsilon 0.25)"
    assert "red" in str(failed.style)


def test_evaluate_says_what_it_cannot_check(tmp_path, data, capsys):
    export.export(small_model(), tmp_path / "saved")
    run(evaluate, model=tmp_path / "saved", **SMALL)
    assert "Not checked" in capsys.readouterr().out


def test_evaluate_carries_on_where_it_was_interrupted(
    tmp_path, data, monkeypatch, capsys
):
    path = tmp_path / "model.keras"
    small_model().save(path)
    values = SMALL | {"model": path, "output": tmp_path / "out"}
    values["attacks"] = "fgsm,pgd,square"
    calls = []
    whole = attack_suite.attack_curve

    def interrupted(name, *arguments):
        calls.append(name)
        if name == "square":
            raise KeyboardInterrupt
        return whole(name, *arguments)

    monkeypatch.setattr(attack_suite, "attack_curve", interrupted)
    with pytest.raises(SystemExit) as exit_:
        run(evaluate, **values)
    assert exit_.value.code == 130
    assert calls == ["fgsm", "pgd", "square"]
    assert "The same command carries on" in capsys.readouterr().err
    file = tmp_path / "out/evaluation.json"
    before = json.loads(file.read_text())["attacks"]
    assert before.keys() == {"fgsm", "pgd"}

    calls.clear()
    monkeypatch.setattr(
        attack_suite,
        "attack_curve",
        lambda name, *arguments: calls.append(name) or whole(name, *arguments),
    )
    run(evaluate, **values)
    assert calls[0] == "square"
    after = json.loads(file.read_text())["attacks"]
    assert after.keys() == {"fgsm", "pgd", "square"}
    assert {name: after[name] for name in before} == before

    calls.clear()
    run(evaluate, **values | {"pgd_steps": 11})
    assert calls[0] == "pgd" and "square" not in calls


def test_evaluate_says_what_to_do_where_xla_fails(tmp_path, data, monkeypatch):
    def refused(*arguments):
        raise tf.errors.UnimplementedError(None, None, "no such thing\nat all")

    monkeypatch.setattr(attack_suite, "attack_curve", refused)
    small_model().save(tmp_path / "model.keras")
    with pytest.raises(SystemExit, match="^error: no such thing .*nojit"):
        run(evaluate, model=tmp_path / "model.keras")


def test_evaluate_does_not_take_the_figures_of_another_model(tmp_path, data):
    out = tmp_path / "out"
    figures = []
    for seed in (0, 1):
        path = tmp_path / "model.keras"
        small_model(seed).save(path)
        run(evaluate, model=path, output=out, **SMALL)
        figures.append(json.loads((out / "evaluation.json").read_text()))
    assert figures[0]["digest"] != figures[1]["digest"]
    assert figures[0]["attacks"]["fgsm"] != figures[1]["attacks"]["fgsm"]


def test_evaluations_are_set_beside_each_other(tmp_path, data, capsys):
    for seed, name in enumerate(("ordinary", "stable_network")):
        path = tmp_path / f"{name}.keras"
        small_model(seed).save(path)
        run(evaluate, model=path, output=tmp_path / name, **SMALL)
    capsys.readouterr()
    files = [
        str(tmp_path / name / "evaluation.json")
        for name in ("ordinary", "stable_network")
    ]
    summarise.main(["summarise", *files])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "| MNIST, 30 images, ε in ℓ∞ | ordinary: FGSM | stable network: FGSM |"
    )
    assert [line.split(" | ")[0] for line in lines[2:5]] == [
        *("| 0", "| 0.1", "| 0.3"),
    ]
    assert lines[6] == "| check | ordinary | stable network |"
    assert any("zero | passed, share 0 | passed" in line for line in lines)
    assert all(line.count("|") == 4 for line in lines if line)

    with flagsaver.flagsaver(plot=str(tmp_path / "models.png")):
        with pytest.raises(SystemExit, match="ordinary without pgd"):
            summarise.main(["summarise", *files])
        for file in files:
            record = json.loads(Path(file).read_text())
            record["attacks"]["pgd"] = record["attacks"]["fgsm"]
            Path(file).write_text(json.dumps(record))
        summarise.main(["summarise", *files])
    assert (tmp_path / "models.png").is_file()

    record = json.loads((tmp_path / "ordinary/evaluation.json").read_text())
    record["num_images"] = 31
    (tmp_path / "ordinary/evaluation.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit, match="error: .*must be of one data set"):
        summarise.main(["summarise", *files])


def corrupt(tmp_path, what):
    path = tmp_path / "model.keras"
    if what == "truncated":
        ode_classifier(width=8).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "folder":
        path = tmp_path / "folder"
        path.mkdir()
    elif what == "saved_model":
        path = tmp_path / "saved"
        version = export.export(ode_classifier(width=8), path)
        (version / "saved_model.pb").write_bytes(b"rubbish")
    elif what == "other input":
        ode_classifier(image_shape=(8, 8, 1), width=8).save(path)
    return path


@pytest.mark.parametrize(
    "what",
    ["missing", "truncated", "empty", "folder", "saved_model", "other input"],
)
def test_evaluate_refuses_what_is_no_model(tmp_path, data, what):
    path = corrupt(tmp_path, what)
    with pytest.raises(SystemExit) as exit_:
        run(evaluate, model=path)
    message = str(exit_.value.code)
    assert message.startswith("error: ")
    if what != "other input":
        assert str(path) in message
        assert len(message.splitlines()) == 1


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

    capsys.readouterr()
    run(compare, **arguments)
    assert capsys.readouterr().out.count("already trained") == 3
    again = json.loads((directory / "results.json").read_text())
    assert again["models"] == models


@pytest.mark.parametrize(
    "module, arguments",
    [
        (compare, {"results": "new"}),
        (evaluate, {"model": "model", "output": "new"}),
    ],
)
def test_missing_matplotlib_is_noticed_before_the_work(
    module, arguments, data, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="error: .*stable_node_tf.plots."):
        run(module, **arguments)
    assert not data
    assert not list(tmp_path.iterdir())
