"""Trains one model by its recipe, and carries on where it was interrupted."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from stable_node_tf import export
from stable_node_tf.callbacks import StabilityMonitor
from trainers import report
from trainers.certified_recipe import CertifiedRecipe
from trainers.datasets import Split
from trainers.recipe import Recipe


class Trained(NamedTuple):
    """A trained model and what it took.

    Attributes:
      model: the Keras model, weights after the last epoch.
      seconds: time spent training, all sessions of a resumed run together.
      steps: number of optimiser steps.
    """

    model: keras.Model
    seconds: float
    steps: int


def train(
    recipe: Recipe | CertifiedRecipe,
    split: Split,
    directory: str | Path,
    name: str,
    validation: Split | None = None,
) -> Trained:
    """Trains a model, saving a checkpoint after every epoch.

    The checkpoints lie in a folder of `directory` named after the model and
    the recipe. A run that finds some of its own carries on from the last epoch
    and ends with the same weights as an uninterrupted one, because the order of
    the images in an epoch depends on the seed and the epoch alone.

    Args:
      recipe: all choices.
      split: training images and labels.
      directory: where the checkpoints go.
      name: of the model.
      validation: images to report the accuracy on after every epoch.

    Raises:
      ValueError: if an epoch would have no step, or a layer ends an epoch
        outside its constraint.
    """
    steps_per_epoch = len(split.labels) // recipe.batch_size
    if not steps_per_epoch:
        raise ValueError(
            "`batch_size` must not exceed the number of training images, "
            f"{len(split.labels)}. Received: batch_size={recipe.batch_size}"
        )
    keras.utils.set_random_seed(recipe.seed)
    model = recipe.build(name)
    schedule = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate, steps_per_epoch * recipe.epochs
    )
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build(model.trainable_variables)
    model.compile(
        optimizer,
        recipe.loss(),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=recipe.jit_compile,
    )
    folder = Path(directory) / f"{name}-{recipe.fingerprint()}"
    checkpoints = _Checkpoints(model, optimizer, folder)
    epoch = checkpoints.restore()
    if epoch == 0:
        _write_recipe(recipe, folder)
    elif epoch < recipe.epochs:
        print(f"{name}: resuming after epoch {epoch} of {recipe.epochs}")
    else:
        print(f"{name}: already trained, taken from {folder}")
    if epoch < recipe.epochs:
        model.fit(
            _batches(split, recipe, epoch),
            initial_epoch=epoch,
            epochs=recipe.epochs,
            steps_per_epoch=steps_per_epoch,
            validation_data=validation
            and (
                validation.pixels,
                validation.labels,
            ),
            validation_batch_size=1000,
            callbacks=[StabilityMonitor(), checkpoints],
            shuffle=False,
            verbose=1 if sys.stdout.isatty() else 2,
        )
    return Trained(
        model, float(checkpoints.seconds), int(optimizer.iterations.numpy())
    )


def save(model: keras.Model, directory: Path) -> Path:
    """Writes model.keras and a SavedModel, each of them complete or not at all.

    Returns:
      The version directory of the SavedModel.

    Raises:
      ValueError, NotADirectoryError: as `stable_node_tf.export.export`.
    """
    unfinished = directory / ".model.tmp.keras"
    model.save(unfinished)
    unfinished.replace(directory / "model.keras")
    return export.export(model, directory)


def _batches(
    split: Split, recipe: Recipe | CertifiedRecipe, first_epoch: int
) -> tf.data.Dataset:
    images, labels = tf.constant(split.images), tf.constant(split.labels)
    indices = tf.range(len(split.labels))

    def epoch_order(epoch):
        order = tf.random.experimental.stateless_shuffle(
            indices, seed=tf.stack([tf.cast(recipe.seed, tf.int64), epoch])
        )
        order = tf.data.Dataset.from_tensor_slices(order)
        return order.batch(recipe.batch_size, drop_remainder=True)

    def gather(order):
        pixels = tf.cast(tf.gather(images, order), tf.float32) / 255.0
        return pixels, tf.gather(labels, order)

    epochs = tf.data.Dataset.range(first_epoch, recipe.epochs)
    return epochs.flat_map(epoch_order).map(gather).prefetch(8)


def _write_recipe(recipe: Recipe | CertifiedRecipe, folder: Path) -> None:
    report.write_json(dataclasses.asdict(recipe), folder / "recipe.json")


class _Checkpoints(keras.callbacks.Callback):
    """Saves weights, optimiser, epoch and time; all of it or nothing."""

    def __init__(self, model, optimizer, folder: Path):
        super().__init__()
        self._epoch = tf.Variable(0, dtype=tf.int64)
        self.seconds = tf.Variable(0.0, dtype=tf.float64)
        checkpoint = tf.train.Checkpoint(
            model=model,
            optimizer=optimizer,
            epoch=self._epoch,
            seconds=self.seconds,
        )
        self._manager = tf.train.CheckpointManager(
            checkpoint, str(folder), max_to_keep=2
        )

    def restore(self) -> int:
        latest = self._manager.latest_checkpoint
        if latest:
            status = self._manager.checkpoint.restore(latest)
            try:
                status.assert_existing_objects_matched()
            except AssertionError as error:
                raise ValueError(
                    f"The checkpoint {latest} must hold all weights of the "
                    "model; it is of another version of this package. Delete "
                    "its directory to train anew."
                ) from error
        return int(self._epoch)

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.assign_add(time.monotonic() - self._start)
        self._epoch.assign(epoch + 1)
        self._manager.save()
