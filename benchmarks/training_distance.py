r"""Distance moved by the constraint in training against the nearest distance.

    python benchmarks/training_distance.py \
        --output=benchmarks/training_distance.json

Trains the fully constrained model of `make compare` on MNIST, records A before
and after the projection at evenly spread optimizer steps, and projects the
recorded A again with `nearest_stable`, the nearest certified matrix.
"""

import dataclasses
import json
import os
import platform
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from stable_node_tf import nearest_stable
from trainers import compare, training
from trainers.data import datasets

_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
_RECORDS = flags.DEFINE_integer("records", 60, "Recorded steps.", 2)
_TRAINING_EPOCHS = flags.DEFINE_integer("training_epochs", 12, "Epochs.", 1)
_TRAINING_PRESET = flags.DEFINE_enum(
    "training_preset", "default", compare.PRESETS, "Recipe."
)


class Recorder:
    """Stands in for a constraint and keeps what goes in and comes out."""

    def __init__(self, layer, optimizer, every, count):
        self._constraint = layer.kernel.constraint
        self._iterations, self._every = optimizer.iterations, every
        size = layer.kernel.shape[0]
        self.before, self.after = (
            tf.Variable(tf.zeros((count, size, size))) for _ in range(2)
        )
        self.certificate = tf.Variable(tf.zeros((count, size), tf.float64))
        self._layer = layer

    def __call__(self, kernel):
        step = tf.cast(tf.convert_to_tensor(self._iterations), tf.int32)
        row = step // self._every
        kernel = tf.convert_to_tensor(kernel)
        projected = self._constraint(kernel)
        for variable, value in (
            (self.before, kernel),
            (self.after, projected),
            (self.certificate, tf.convert_to_tensor(self._layer.certificate)),
        ):
            variable.scatter_nd_update([[row]], [value])
        return projected


def record(recipe, split):
    """Trains by the recipe; the last step of every stretch is kept."""
    steps = len(split.labels) // recipe.batch_size * recipe.epochs
    every = -(-steps // _RECORDS.value)
    keras.utils.set_random_seed(recipe.seed)
    model = recipe.build("recorded")
    schedule = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate, steps
    )
    optimizer = keras.optimizers.Adam(schedule)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    layer = model.get_layer("ode")
    recorder = Recorder(layer, optimizer, every, -(-steps // every))
    layer.kernel.constraint = recorder
    model.fit(
        training._batches(split, recipe, 0),
        epochs=recipe.epochs,
        steps_per_epoch=steps // recipe.epochs,
        verbose=2,
    )
    return recorder, every


def main(argv):
    del argv
    recipe = dataclasses.replace(
        compare.PRESETS[_TRAINING_PRESET.value],
        epochs=_TRAINING_EPOCHS.value,
    )
    split = datasets.load("mnist", validation=True).train
    recorder, every = record(recipe, split)
    rows = []
    for index, (before, after, certificate) in enumerate(
        zip(
            recorder.before.numpy().astype(np.float64),
            recorder.after.numpy().astype(np.float64),
            recorder.certificate.numpy(),
            strict=True,
        )
    ):
        nearest = nearest_stable(
            before,
            recipe.delta_bar,
            recipe.alpha,
            certificate=certificate,
            tolerance=1e-5,
        )
        row = {
            "step": (index + 1) * every,
            "moved": float(np.linalg.norm(after - before)),
            "nearest": nearest.distance,
        }
        rows.append(row)
        print(
            f"step {row['step']:6}  moved {row['moved']:.5f}  "
            f"nearest {row['nearest']:.5f}",
            flush=True,
        )
    moved, nearest = (
        sum(row[key] for row in rows) for key in ("moved", "nearest")
    )
    print(f"mean distance moved / mean nearest distance: {moved / nearest:.4f}")
    if _OUTPUT.value:
        results = {
            "recipe": dataclasses.asdict(recipe),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
            "tensorflow": tf.__version__,
            "ratio": moved / nearest,
            "rows": rows,
        }
        Path(_OUTPUT.value).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
