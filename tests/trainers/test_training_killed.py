import os
import resource
import signal

import numpy as np
import pytest

from trainers import datasets, training
from trainers.recipe import Recipe

RECIPE = Recipe(
    width=16,
    delta_bar=0.0,
    rotation=1.0,
    encoder_max_norm=1.0,
    num_steps=3,
    epochs=4,
    batch_size=16,
)
STEPS_PER_EPOCH = 12


def images():
    generator = np.random.default_rng(0)
    rows = STEPS_PER_EPOCH * RECIPE.batch_size
    labels = np.arange(rows) % 10
    pixels = generator.integers(0, 60, (rows, 28, 28, 1))
    pixels[np.arange(rows), 2 * labels] += 190
    return datasets.Split(pixels.astype(np.uint8), labels)


def train(directory):
    return training.train(RECIPE, images(), directory, "model")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("undisturbed"))


class Killer(training.StabilityMonitor):
    """Dies in the middle of the third epoch, or while it is saved."""

    moment = ""

    def on_train_batch_end(self, batch, logs=None):
        if self._epoch != 2 or batch != STEPS_PER_EPOCH // 2:
            return
        if self.moment == "epoch":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.moment == "half a file":
            # The kernel kills whoever writes more than this into a file.
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch


def die_after_the_file(monkeypatch_free=None):
    pass
