"""Images that tests of the trainers train on."""

import numpy as np

from trainers.data import datasets


def split(count, seed):
    """Images that a small network can tell apart: bars by their place."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(10, size=count)
    pixels = rng.integers(60, size=(count, 28, 28, 1))
    for image, label in zip(pixels, labels, strict=True):
        image[2 * label : 2 * label + 3] += 150
    return datasets.Split(pixels.astype(np.uint8), labels)


def in_place_of_data(monkeypatch):
    """Puts a tiny data set in the place of the real ones.

    Returns a list of the calls, each with name, data_dir and validation.
    """
    calls = []

    def load(name, *, data_dir=None, validation=False):
        calls.append((name, data_dir, validation))
        return datasets.Dataset(split(64, 0), split(32, 1), split(40, 2))

    monkeypatch.setattr(datasets, "load", load)
    return calls
