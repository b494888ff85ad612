import re
import subprocess
import sys

import pytest
import tensorflow as tf
from absl import app, flags
from bars import in_place_of_data
from programs import run

from trainers import (
    baselines,
    certify,
    compare,
    distribution,
    evaluate,
    train,
    training,
)


@pytest.fixture
def data(monkeypatch):
    return in_place_of_data(monkeypatch)


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
        ("epsilons", ""),
        ("epsilons_l2", "0,-1"),
        ("radii", "0,far"),
        ("radii", "-1"),
        ("pgd_epsilons", "0.1,nan"),
        ("pgd_epsilons", ""),
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
    "main", [train.main, evaluate.main, compare.main, baselines.main]
)
def test_stray_arguments_are_refused(main):
    with pytest.raises(app.UsageError, match="stray words"):
        main(["program", "stray", "words"])


@pytest.fixture
def trained(monkeypatch):
    """The recipes and strategies of programs that train; nothing is trained."""
    seen = []

    def train(recipe, *_, strategy=None, **__):
        seen.append((recipe, strategy))
        return training.Trained(model=None, seconds=0.0, steps=0)

    monkeypatch.setattr(training, "train", train)
    return seen


@pytest.mark.parametrize(
    ("program", "flag", "models", "epochs"),
    [
        (train, "output", 1, 10),
        (certify, "output", 1, 10),
        (compare, "results", 4, 8),
    ],
)
def test_workers_train_and_leave_the_rest_to_their_chief(
    tmp_path, data, trained, monkeypatch, program, flag, models, epochs
):
    """By the recipe of the program, whatever others have been imported."""
    monkeypatch.setattr(distribution, "is_chief", lambda strategy: False)
    output = tmp_path / "output"
    run(program, strategy="mirrored", **{flag: output})
    assert len(trained) == models
    for recipe, strategy in trained:
        assert recipe.epochs == epochs
        assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert not output.exists()


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (train, {"output": "x"}),
        (certify, {"output": "x"}),
        (compare, {"results": "x"}),
    ],
)
def test_programs_that_train_refuse_a_cluster_of_nobody(
    tmp_path, data, trained, monkeypatch, program, arguments
):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="error: .*TF_CONFIG"):
        run(program, strategy="multi_worker", **arguments)
    assert not trained


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
