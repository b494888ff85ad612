"""Runs that are killed at chosen and at random moments end like any other.

This file is also the program whose children are killed: it imports TensorFlow
once and forks a child for every run, before TensorFlow has computed anything.
"""

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainers import training
from trainers.data import datasets
from trainers.recipe import Recipe

RECIPE = Recipe(
    width=16,
    delta_bar=0.0,
    initial_skew_norm=1.0,
    encoder_max_norm=1.0,
    num_steps=3,
    epochs=25,
    batch_size=16,
)
STEPS_PER_EPOCH = 3
FATAL_STEP = STEPS_PER_EPOCH + STEPS_PER_EPOCH // 2
TORN_BYTES = 10_000
KILLS = 5


def images():
    generator = np.random.default_rng(0)
    rows = STEPS_PER_EPOCH * RECIPE.batch_size
    labels = np.arange(rows) % 10
    pixels = generator.integers(0, 60, (rows, 28, 28, 1))
    pixels[np.arange(rows), 2 * labels] += 190
    return datasets.Split(pixels.astype(np.uint8), labels)


def train(directory):
    return training.train(RECIPE, images(), directory, "model")


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def tear_the_next_file():
    """Lets the kernel end this process within the next long file it writes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (TORN_BYTES, TORN_BYTES))


def carry_on():
    pass


def hang():
    time.sleep(60)


def die_before_the_next_file_counts():
    """Dies with the checkpoint written, the list of checkpoints not yet."""
    tf.train.CheckpointManager._record_state = die


WHAT_HAPPENS = {
    "first file": hang,
    "middle of an epoch": die,
    "middle of a file": tear_the_next_file,
    "before the file counts": die_before_the_next_file_counts,
}


def run_child(what_happens, directory, notices):
    """What a child does: trains, and tells of every step."""

    class Monitor(training.StabilityMonitor):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            os.write(notices, b".")
            if self.model.optimizer.iterations == FATAL_STEP:
                what_happens()

    training.StabilityMonitor = Monitor
    train(directory)


def kill_when_a_file_appears(child, directory):
    while not list(directory.glob("*/ckpt*")):
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)


def kill_after(child, steps, fraction, notices):
    """Kills a child in its next step or two, or at the end of an epoch."""
    times = []
    for _ in range(steps):
        if not os.read(notices, 1):
            return
        times.append(time.monotonic())
    time.sleep(fraction * min(b - a for a, b in pairwise(times)))
    os.kill(child, signal.SIGKILL)


def serve():
    """For each line of the input, kills a run; answers with its status."""
    for line in sys.stdin:
        moment, directory = json.loads(line)
        directory = Path(directory)
        chosen = isinstance(moment, str)  # else drawn: steps and a fraction
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)  # the output is for answers
            os.close(reading)
            try:
                happens = WHAT_HAPPENS[moment] if chosen else carry_on
                run_child(happens, directory, writing)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        os.close(writing)
        if moment == "first file":
            kill_when_a_file_appears(child, directory)
        elif not chosen:
            kill_after(child, *moment, reading)
        status = os.waitpid(child, 0)[1]
        os.close(reading)
        print(json.dumps(status), flush=True)


@pytest.fixture(scope="module")
def kill_at(tmp_path_factory):
    """A function that trains until a moment and returns the fatal signal."""
    errors = tmp_path_factory.mktemp("errors") / "errors.txt"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with contextlib.ExitStack() as stack:
        server = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stack.enter_context(errors.open("w")),
            text=True,
        )
        stack.callback(server.wait)
        stack.callback(server.kill)

        def kill(moment, directory):
            print(json.dumps([moment, str(directory)]), file=server.stdin)
            server.stdin.flush()
            answer = server.stdout.readline()
            assert answer, errors.read_text()
            status = json.loads(answer)
            assert os.WIFSIGNALED(status), errors.read_text()
            return signal.Signals(os.WTERMSIG(status))

        yield kill


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("undisturbed"))


def state(trained):
    variables = trained.model.variables + trained.model.optimizer.variables
    return [np.asarray(variable) for variable in variables]


def assert_same(resumed, undisturbed):
    assert resumed.steps == undisturbed.steps == 25 * STEPS_PER_EPOCH
    for mine, theirs in zip(state(resumed), state(undisturbed), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_run_killed_four_times_ends_alike(
    kill_at, undisturbed, tmp_path, capsys
):
    directory = tmp_path / "killed"
    assert kill_at("first file", directory) == signal.SIGKILL
    assert kill_at("middle of an epoch", directory) == signal.SIGKILL
    [folder] = directory.iterdir()
    assert folder.joinpath("ckpt-1.index").exists()

    assert kill_at("middle of a file", directory) == signal.SIGXFSZ
    torn = [path.stat().st_size for path in folder.glob("ckpt-2_temp/*")]
    assert torn == [TORN_BYTES]

    assert kill_at("before the file counts", directory) == signal.SIGKILL
    assert folder.joinpath("ckpt-2.index").exists()

    capsys.readouterr()
    resumed = train(directory)
    assert "resuming after epoch 1 of 25" in capsys.readouterr().out
    assert_same(resumed, undisturbed)


@pytest.mark.slow
def test_run_killed_at_random_moments_ends_alike(
    kill_at, undisturbed, tmp_path, capsys
):
    draw = random.Random(0)
    for _ in range(KILLS):
        moment = draw.randint(2, 6), draw.uniform(0.0, 1.5)
        assert kill_at(moment, tmp_path) == signal.SIGKILL

    capsys.readouterr()
    resumed = train(tmp_path)
    assert "resuming after epoch" in capsys.readouterr().out
    assert_same(resumed, undisturbed)


if __name__ == "__main__":
    serve()
