import re
import subprocess
import sys

import pytest
import tensorflow as tf
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


def test_a_program_that_refuses_leaves_no_traceback(tmp_path):
    """In a process of its own."""
    arguments = ["--model=/nowhere", f"--data_dir={tmp_path}"]
    result = subprocess.run(
        [sys.executable, "-m", "trainers.evaluate", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    assert re.search("error: .*/nowhere", result.stderr)
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_what_must_be_given_is_asked_for(data):
    for program, name in ((train, "output"), (evaluate, "model")):
        with pytest.raises(SystemExit, match=f"error: --{name} must be given"):
            run(program, dataset="mnist")
    assert not data


@pytest.mark.parametrize(
    "program, name, value",
    [
        (train, "width", 0),
        (train, "width", "wide"),
        (train, "epochs", 0),
        (train, "seed", -1),
        (train, "activation", "relu"),
        (train, "solver", "leapfrog"),
        (train, "initial_skew_norm", -1),
        (train, "typo", 1),
        (compare, "preset", "best"),
        (compare, "model", "x"),
        (evaluate, "epsilons", "0,-1"),
        (evaluate, "epsilons", "0,a"),
        (evaluate, "epsilons", "0,nan"),
        (evaluate, "epsilons", ""),
        (evaluate, "epsilons_l2", "0,-1"),
        (evaluate, "attacks", "fgsm,deepfool"),
        (evaluate, "attacks", ""),
        (evaluate, "pgd_steps", 0),
        (evaluate, "queries", 0),
        (evaluate, "num_images", 0),
        (certify, "radii", "0,far"),
        (certify, "radii", "-1"),
        (baselines, "pgd_epsilons", "0.1,nan"),
        (baselines, "pgd_epsilons", ""),
    ],
)
def test_flags_refuse_bad_values_by_name(program, name, value, data):
    needed = {train: {"output": "x"}, evaluate: {"model": "x"}}.get(program, {})
    with pytest.raises(SystemExit, match=f"error: .*{name}"):
        run(program, **needed, **{name: value})
    assert not data


@pytest.mark.parametrize("program", [train, evaluate, compare, baselines])
def test_stray_arguments_are_refused(program):
    needed = {train: ["--output=x"], evaluate: ["--model=x"]}.get(program, [])
    with pytest.raises(SystemExit, match="error: .*stray words"):
        run(program, *needed, "stray", "words")


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
