"""Training on several devices or machines, through `tf.distribute`.

Every replica computes the gradients of its part of a batch, their sum goes to
all of them, and all take the same step: each has the whole model, and projects
it onto the constraints by itself. `check_replicas` makes sure, bit for bit,
that they agree.

Keras's own `fit` runs under MirroredStrategy but not under
MultiWorkerMirroredStrategy (https://github.com/keras-team/keras/issues/20585:
as of Keras 3.15 it hands a pair of per-replica values to `Strategy.reduce`,
which takes one). `fit` here is one loop for both.
"""

import functools
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.recipe import TrainingRecipe

STRATEGIES = ("none", "mirrored", "multi_worker")
_VALIDATION_BATCH = 1000


@functools.cache
def strategy(name: str) -> tf.distribute.Strategy | None:
    """Makes a strategy; to be called before TensorFlow computes anything.

    A process has one of each: TensorFlow numbers the sums of every strategy
    from the same number on, and would mix up those of two.

    Args:
      name: "none"; "mirrored" for all devices of this machine; "multi_worker"
        for the machines that the environment variable TF_CONFIG lists.
    """
    if name == "none":
        return None
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU")
        devices = devices or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([d.name for d in devices])
    if name == "multi_worker":
        _check_tf_config(os.environ.get("TF_CONFIG"))
        return tf.distribute.MultiWorkerMirroredStrategy()
    raise ValueError(
        f"`strategy` must be one of {STRATEGIES}. Received: strategy={name!r}"
    )


def is_chief(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether this process writes the files: one of all workers does."""
    if strategy is None:
        return True
    resolver = strategy.cluster_resolver
    return resolver is None or not resolver.task_id


def check_recipe(
    recipe: TrainingRecipe, strategy: tf.distribute.Strategy
) -> None:
    """Raises ValueError unless a recipe can be trained on these replicas."""
    replicas = strategy.num_replicas_in_sync
    if recipe.batch_size % replicas:
        raise ValueError(
            f"`batch_size` must be a multiple of {replicas}, the number of "
            f"replicas. Received: batch_size={recipe.batch_size}"
        )
    if recipe.jit_compile:
        raise ValueError(
            "`jit_compile` must be False on several replicas. Received: "
            "jit_compile=True"
        )


def check_same_epoch(strategy: tf.distribute.Strategy, epoch: int) -> None:
    """Raises ValueError unless all workers carry on from the same epoch."""
    epochs = _gathered(strategy, lambda: tf.constant(epoch))
    if np.any(epochs != epoch):
        raise ValueError(
            "All workers must see the same checkpoints: give them a directory "
            f"that they share. Received: epochs {epochs.tolist()}"
        )


def fit(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    batches: Callable[[tf.distribute.InputContext], tf.data.Dataset],
    *,
    initial_epoch: int,
    epochs: int,
    steps_per_epoch: int,
    validation_data: tuple[np.ndarray, np.ndarray] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 2,
) -> None:
    """Trains a classifier as `keras.Model.fit` does, with the same callbacks.

    The model must be built and compiled within the strategy's scope, with
    logits as its output; its metrics are replaced by loss and accuracy.

    Args:
      model: the classifier.
      strategy: one that `strategy` has made.
      batches: makes the pipeline of one worker, whose elements are the parts
        of its replicas in turn.
      initial_epoch: the first epoch.
      epochs: the epoch to stop before.
      steps_per_epoch: optimizer steps an epoch.
      validation_data: images and labels to report on after every epoch; every
        worker goes through all of them.
      callbacks: called on every worker.
      verbose: as in `keras.callbacks.CallbackList`; only the chief prints.

    Raises:
      ValueError: if the model is trained by more than its loss, or the replicas
        have come to disagree.
      tf.errors.OpError: if a step fails.
    """
    _check_loss_alone(model)
    with strategy.scope():
        means = [
            keras.metrics.Mean("loss"),
            keras.metrics.SparseCategoricalAccuracy("accuracy"),
        ]
    replicas = strategy.num_replicas_in_sync

    def replica_step(images, labels):
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = model.loss(labels, logits)  # divided by `replicas` by Keras
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        means[0].update_state(loss * replicas, tf.shape(labels)[0])
        means[1].update_state(labels, logits)

    @tf.function
    def step(batch):
        strategy.run(replica_step, args=batch)

    iterator = iter(strategy.distribute_datasets_from_function(batches))
    chief = is_chief(strategy)
    listeners = keras.callbacks.CallbackList(
        list(callbacks),
        add_history=True,
        add_progbar=chief and verbose != 0,
        model=model,
        epochs=epochs,
        steps=steps_per_epoch,
        verbose=verbose if chief else 0,
    )
    listeners.on_train_begin()
    logs: dict[str, Any] = {}
    for epoch in range(initial_epoch, epochs):
        for mean in means:
            mean.reset_state()
        listeners.on_epoch_begin(epoch)
        for number in range(steps_per_epoch):
            listeners.on_train_batch_begin(number)
            step(next(iterator))
            listeners.on_train_batch_end(number)
        logs = {mean.name: float(mean.result()) for mean in means}
        if validation_data is not None:
            logs |= _validate(model, *validation_data)
        check_replicas(model, strategy)
        listeners.on_epoch_end(epoch, logs)
    listeners.on_train_end(logs)


def check_replicas(
    model: keras.Model, strategy: tf.distribute.Strategy
) -> None:
    """Raises ValueError unless all replicas have equal weights, bit for bit.

    They compare checksums: 64 bits of each weight, of which any change of a
    single number is a change.
    """
    checksums = _gathered(
        strategy, lambda: tf.stack([_checksum(v) for v in model.variables])
    )
    for variable, column in zip(model.variables, checksums.T, strict=True):
        if np.any(column != column[0]):
            raise ValueError(
                "All replicas must have the same weights, which takes equal "
                "devices: rounding errors differ between models. Received: "
                f"replicas with different {variable.path}"
            )


def _gathered(
    strategy: tf.distribute.Strategy, compute: Callable[[], tf.Tensor]
) -> np.ndarray:
    """Returns the tensors that all replicas compute, stacked."""
    compute_row = tf.function(lambda: tf.convert_to_tensor(compute())[None])
    return strategy.gather(strategy.run(compute_row), axis=0).numpy()


def _check_loss_alone(model: keras.Model) -> None:
    own = [
        name
        for name in ("train_step", "compute_loss")
        if getattr(type(model), name) is not getattr(keras.Model, name)
    ]
    if own or model.losses:
        what = f"a {own[0]} of its own" if own else "losses of its layers"
        raise ValueError(
            "On several replicas a model must be trained by its loss alone. "
            f"Received: model {model.name} with {what}"
        )


def _checksum(variable: keras.Variable) -> tf.Tensor:
    value = tf.convert_to_tensor(variable)
    if value.dtype.is_floating:
        value = tf.bitcast(value, getattr(tf, f"int{8 * value.dtype.size}"))
    bits = tf.cast(tf.reshape(value, [-1]), tf.int64)
    odd = 2 * tf.range(tf.size(bits, tf.int64)) + 1
    return tf.reduce_sum(bits * odd)  # modulo 2^64


def _validate(
    model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    predict = tf.function(lambda batch: model(batch, training=False))
    parts = range(0, len(labels), _VALIDATION_BATCH)
    logits = np.concatenate(
        [predict(images[k : k + _VALIDATION_BATCH]) for k in parts]
    )
    return {
        "val_loss": float(model.loss(labels, logits)),
        "val_accuracy": float(np.mean(logits.argmax(-1) == labels)),
    }


def _check_tf_config(text: str | None) -> None:
    try:
        config = json.loads(text or "")
        workers, index = config["cluster"]["worker"], config["task"]["index"]
        valid = config["task"]["type"] == "worker" and (
            isinstance(index, int) and 0 <= index < len(workers)
        )
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            "Several workers need the environment variable TF_CONFIG, for "
            'instance {"cluster": {"worker": ["a:2222", "b:2222"]}, "task": '
            '{"type": "worker", "index": 0}}, index 1 on b. '
            f"Received: TF_CONFIG={text!r}"
        )
