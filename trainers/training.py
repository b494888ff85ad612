"""Trains one model by its recipe, and carries on where it was interrupted."""

import contextlib
import dataclasses
import importlib.util
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from stable_node_tf.callbacks import StabilityMonitor
from stable_node_tf.files import atomic, write_json
from stable_node_tf.operation_errors import reason
from stable_node_tf.saved_model import save_classifier
from trainers import distribution
from trainers.data.datasets import Split
from trainers.recipe import TrainingRecipe


class Trained(NamedTuple):
    """A trained model and what it took.

    Attributes:
      model: the Keras model, weights after the last epoch.
      seconds: time spent training, all sessions of a resumed run together.
      steps: number of optimizer steps.
    """

    model: keras.Model
    seconds: float
    steps: int


def train(
    recipe: TrainingRecipe,
    split: Split,
    directory: str | Path,
    name: str,
    validation: Split | None = None,
    *,
    strategy: tf.distribute.Strategy | None = None,
    tensorboard: bool = False,
) -> Trained:
    """Trains a model, saving a checkpoint after every epoch.

    A run that finds checkpoints of its own carries on from the last epoch and
    ends with the same weights as an uninterrupted one, because the order of the
    images in an epoch depends on the seed and the epoch alone.

    On several replicas `batch_size` is that of all of them together. Every
    worker calls this function, with a directory that all of them see.

    Args:
      recipe: all choices.
      split: training images and labels.
      directory: where the folder of checkpoints goes.
      name: the name of the model.
      validation: images to report the accuracy on after every epoch.
      strategy: one that `distribution.strategy` has made, or None.
      tensorboard: whether to write summaries of every epoch into the folder
        tensorboard beside the checkpoints.

    Returns:
      The model, which has left the strategy, time and steps.

    Raises:
      ModuleNotFoundError: if there is no TensorBoard to write for.
      ValueError: if an epoch would have no step; if a layer ends an epoch
        outside its constraint; if a checkpoint is damaged; if the recipe does
        not suit the strategy, or workers or replicas disagree.
      RuntimeError: if a step fails, or the loss of an epoch is not finite.
    """
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ModuleNotFoundError(
            "Summaries need TensorBoard: pip install "
            "stable_node_tf[tensorboard]"
        )
    steps_per_epoch = len(split.labels) // recipe.batch_size
    if not steps_per_epoch:
        raise ValueError(
            "`batch_size` must not exceed the number of training images, "
            f"{len(split.labels)}. Received: batch_size={recipe.batch_size}"
        )
    if strategy:
        distribution.check_recipe(recipe, strategy)
    folder = checkpoint_folder(recipe, split, directory, name)
    keras.utils.set_random_seed(recipe.seed)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model, trainee = _compiled(recipe, name, split, steps_per_epoch)
    chief = distribution.is_chief(strategy)
    checkpoints = _Checkpoints(trainee, folder, writes=chief)
    epoch = checkpoints.restore()
    if strategy:
        distribution.check_same_epoch(strategy, epoch)
    if chief:
        _announce(recipe, name, folder, epoch)
    callbacks: list[keras.callbacks.Callback] = [
        _FiniteLoss(),
        StabilityMonitor(),
    ]
    if tensorboard and chief:
        logs = str(folder / "tensorboard")
        callbacks.append(keras.callbacks.TensorBoard(logs))
    callbacks.append(checkpoints)
    arguments: dict[str, Any] = {
        "initial_epoch": epoch,
        "epochs": recipe.epochs,
        "steps_per_epoch": steps_per_epoch,
        "validation_data": validation
        and (validation.pixels, validation.labels),
        "callbacks": callbacks,
        "verbose": 1 if sys.stdout.isatty() else 2,
    }
    try:
        if epoch == recipe.epochs:
            pass
        elif strategy:
            distribution.fit(
                trainee,
                strategy,
                lambda context: _batches(split, recipe, epoch, context),
                **arguments,
            )
        else:
            trainee.fit(
                _batches(split, recipe, epoch),
                validation_batch_size=1000,
                shuffle=False,
                **arguments,
            )
    except tf.errors.OpError as error:
        raise RuntimeError(f"Training has failed: {reason(error)}") from error
    steps = int(trainee.optimizer.iterations.numpy())
    if strategy:
        weights = model.get_weights()
        model = recipe.build(name, split.image_shape, split.num_classes)
        model.set_weights(weights)
    return Trained(model, float(checkpoints.seconds), steps)


def checkpoint_folder(
    recipe: TrainingRecipe, split: Split, directory: str | Path, name: str
) -> Path:
    """The folder of `train`: another recipe or other images, another folder."""
    kind = f"{name}-{recipe.fingerprint()}-{split.fingerprint()}"
    return Path(directory) / kind


def save(model: keras.Model, directory: Path) -> Path:
    """Writes model.keras and a SavedModel, each of them complete or not at all.

    Returns:
      The version directory of the SavedModel.
    """
    with atomic(directory / "model.keras") as temporary:
        model.save(temporary)
    return save_classifier(model, directory)


def _compiled(
    recipe: TrainingRecipe, name: str, split: Split, steps_per_epoch: int
) -> tuple[keras.Model, keras.Model]:
    """The model, and what `fit` is to train."""
    model = recipe.build(name, split.image_shape, split.num_classes)
    num_steps = steps_per_epoch * recipe.epochs
    trainee = recipe.trainee(model, num_steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate, num_steps
    )
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build(trainee.trainable_variables)
    trainee.compile(
        optimizer,
        recipe.loss(),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=recipe.jit_compile,
    )
    return model, trainee


def _batches(
    split: Split,
    recipe: TrainingRecipe,
    first_epoch: int,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    context = context or tf.distribute.InputContext()
    workers, worker = context.num_input_pipelines, context.input_pipeline_id
    # A batch is as many parts as there are replicas, dealt out to the workers.
    part = recipe.batch_size // context.num_replicas_in_sync
    images, labels = tf.constant(split.images), tf.constant(split.labels)
    indices = tf.range(len(split.labels))
    used = len(split.labels) // recipe.batch_size * recipe.batch_size

    def epoch_order(epoch):
        order = tf.random.experimental.stateless_shuffle(
            indices, seed=tf.stack([tf.cast(recipe.seed, tf.int64), epoch])
        )
        parts = tf.data.Dataset.from_tensor_slices(order[:used])
        return parts.batch(part, drop_remainder=True).shard(workers, worker)

    def gather(order):
        pixels = tf.cast(tf.gather(images, order), tf.float32) / split.largest
        return pixels, tf.gather(labels, order)

    epochs = tf.data.Dataset.range(first_epoch, recipe.epochs)
    return epochs.flat_map(epoch_order).map(gather).prefetch(8)


def _announce(
    recipe: TrainingRecipe, name: str, folder: Path, epoch: int
) -> None:
    if epoch == 0:
        write_json(dataclasses.asdict(recipe), folder / "recipe.json")
    elif epoch < recipe.epochs:
        print(f"{name}: resuming after epoch {epoch} of {recipe.epochs}")
    else:
        print(f"{name}: already trained, taken from {folder}")


class _FiniteLoss(keras.callbacks.Callback):
    """Ends a training that has diverged, before its weights are saved."""

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise RuntimeError(
                "Training has diverged: the loss must be finite. Received: "
                f"loss={logs['loss']} in epoch {epoch + 1}. Try a smaller "
                "learning rate."
            )


class _Checkpoints(keras.callbacks.Callback):
    """Saves weights, optimizer, epoch and time; all of it or nothing."""

    def __init__(self, model: keras.Model, folder: Path, writes: bool) -> None:
        super().__init__()
        self._writes = writes
        self._folder = folder
        self._epoch = tf.Variable(0, dtype=tf.int64)
        self.seconds = tf.Variable(0.0, dtype=tf.float64)
        checkpoint = tf.train.Checkpoint(
            model=model,
            optimizer=model.optimizer,
            epoch=self._epoch,
            seconds=self.seconds,
        )
        with self._damage_in_one_line():
            self._manager = tf.train.CheckpointManager(
                checkpoint, str(folder), max_to_keep=2
            )

    @contextlib.contextmanager
    def _damage_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except (
            tf.errors.OpError,
            IndexError,
            RuntimeError,
            ValueError,
        ) as error:
            failed = isinstance(error, tf.errors.OpError)
            said = reason(error) if failed else str(error).partition("\n")[0]
            raise ValueError(
                f"The checkpoints in {self._folder} must be as training has "
                f"left them. Received: {said}. Delete the directory to train "
                "anew."
            ) from error

    def restore(self) -> int:
        latest = self._manager.latest_checkpoint
        if latest:
            with self._damage_in_one_line():
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
        if self._writes:
            self._manager.save()
