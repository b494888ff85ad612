"""`compare` and `certify` on two logical devices, to their tables.

Devices are set up before TensorFlow starts, hence in a process of its own:
this file is also the program that the tests run.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from bars import split

from stable_node_tf import attacks
from stable_node_tf.saved_model import (
    load_classifier,
)
from trainers import certify, compare, effects, outcomes, robustness, variants
from trainers.data import datasets

PROGRAMS = {
    compare: ("--epochs=1", "--results={}/compare"),
    certify: (
        *("--width=8", "--blocks=1", "--epochs=1", "--batch_size=64"),
        "--output={}/certify",
    ),
}
pytestmark = pytest.mark.slow
STRATEGIES = ("none", "mirrored")
TOLERANCE = 2e-6


def run_all(directory):
    """Runs both programs without and with the strategy, in one process."""
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, 2 * [tf.config.LogicalDeviceConfiguration()]
    )
    tiny = datasets.Dataset(split(256, 0), split(0, 1), split(40, 2))
    datasets.load = lambda *_, **__: tiny
    variants.PRESETS["default"] = dataclasses.replace(
        variants.PRESETS["default"], width=8, num_steps=3
    )
    robustness.EPSILONS = (0.0, 0.1)
    compare._PGD_EPSILONS = (0.0, 0.1)
    outcomes.strongest_pgd = lambda seed: attacks.WorstCase(
        [attacks.PGD(steps=2)]
    )
    bounded = effects.PAIRS.pop("bounded")
    effects.PAIRS = {"bounded": bounded}
    every = compare.variants
    compare.variants = lambda recipe: {n: every(recipe)[n] for n in bounded}
    compare.draw = lambda *_: None
    for name in STRATEGIES:
        for program, words in PROGRAMS.items():
            words = [word.format(directory / name) for word in words]
            program.main([f"--strategy={name}", *words])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What the programs have written, and what they have printed."""
    directory = tmp_path_factory.mktemp("mirrored")
    done = subprocess.run(
        [sys.executable, __file__, str(directory)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stdout.count("Lipschitz bound") >= 2  # tables of `compare`
    assert done.stdout.count("certified accuracy") == 2
    return directory


def read(runs, path):
    return [json.loads((runs / name / path).read_text()) for name in STRATEGIES]


def test_compare_reports_as_on_one_device(runs):
    alone, mirrored = read(runs, "compare/mnist/results.json")
    assert len(alone["models"]) == 2
    for one, two in zip(alone["models"], mirrored["models"], strict=True):
        assert one["name"] == two["name"] and one["steps"] == two["steps"] == 2
        for quantity in ("clean_accuracy", "fgsm", "pgd", "saved_model_fgsm"):
            assert one[quantity] == two[quantity]
        for quantity in ("delta_upper", "lipschitz_bound"):
            assert two[quantity] == pytest.approx(one[quantity], rel=1e-4)


def test_certify_reports_as_on_one_device(runs):
    alone, mirrored = read(runs, "certify/certified.json")
    assert alone["num_images"] == 40
    assert alone == mirrored


@pytest.mark.parametrize(
    "place", ["certify", "compare/mnist/saved_models/stable_network"]
)
def test_exports_answer_as_those_of_one_device(runs, place):
    images = split(40, 2).pixels
    alone, mirrored = (
        load_classifier(runs / name / place).predict(images)["logits"]
        for name in STRATEGIES
    )
    np.testing.assert_allclose(mirrored, alone, rtol=0, atol=10 * TOLERANCE)


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
