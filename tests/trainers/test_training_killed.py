import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf

from trainers import datasets, training
from trainers.recipe import Recipe

RECIPE = Recipe(
    width=16,
    delta_bar=0.0,
    rotation=1.0,
    encoder_max_norm=1.0,
    num_steps=3,
    epochs=3,
    batch_size=16,
)
STEPS_PER_EPOCH = 6
FATAL_STEP = STEPS_PER_EPOCH + STEPS_PER_EPOCH // 2
TORN_BYTES = 10_000


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


def train_until(moment, directory):
    """What the process to be killed does."""

    class Monitor(training.StabilityMonitor):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            if self.model.optimizer.iterations == FATAL_STEP:
                WHAT_HAPPENS[moment]()

    training.StabilityMonitor = Monitor
    train(directory)


def kill_at(moment, directory):
    """Trains in a process of its own and returns the signal that ended it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, __file__, moment, str(directory)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while moment == "first file" and child.poll() is None:
            if list(directory.glob("*/ckpt*")):
                child.kill()
            time.sleep(0.001)
        errors = child.communicate(timeout=120)[1]
    finally:
        child.kill()
        child.wait()
    assert child.returncode < 0, errors
    return signal.Signals(-child.returncode)


def state(trained):
    variables = trained.model.variables + trained.model.optimizer.variables
    return [np.asarray(variable) for variable in variables]


def test_run_killed_four_times_ends_alike(tmp_path, capsys):
    undisturbed = train(tmp_path / "undisturbed")
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
    assert "resuming after epoch 1 of 3" in capsys.readouterr().out
    assert resumed.steps == undisturbed.steps == 3 * STEPS_PER_EPOCH
    for mine, theirs in zip(state(resumed), state(undisturbed), strict=True):
        np.testing.assert_array_equal(mine, theirs)


if __name__ == "__main__":
    train_until(*sys.argv[1:])
