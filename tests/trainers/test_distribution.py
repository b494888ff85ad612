"""Two logical devices, and two workers on this machine, against one device.

TensorFlow must not have started when devices and workers are set up: this file
is also the program that the tests run. It forks once TensorFlow is imported.
"""

import contextlib
import dataclasses
import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from children import in_children
from tensorboard.backend.event_processing import event_accumulator

from trainers import distribution, training
from trainers.baseline_methods import GaussianNoiseTraining
from trainers.certified_recipe import CertifiedRecipe
from trainers.data import datasets
from trainers.recipe import Recipe

RECIPE = Recipe(
    width=8,
    delta_bar=0.0,
    initial_skew_norm=1.0,
    encoder_max_norm=1.0,
    num_steps=3,
    epochs=3,
    batch_size=16,
    seed=3,
)
CERTIFIED = CertifiedRecipe(width=8, blocks=1, epochs=3, batch_size=16, seed=3)
ROWS = 3 * RECIPE.batch_size + 5  # the last five of an epoch are left out
TOLERANCE = 2e-6


def images():
    generator = np.random.default_rng(0)
    labels = np.arange(ROWS) % 10
    pixels = generator.integers(0, 60, (ROWS, 28, 28, 1))
    pixels[np.arange(ROWS), 2 * labels] += 190
    return datasets.Split(pixels.astype(np.uint8), labels)


class Interrupt(Exception):
    pass


def train(directory, strategy=None, interrupted=False, recipe=RECIPE):
    """Trains; if told so, is interrupted after an epoch and carries on."""
    split = images()
    arguments = recipe, split, directory, "model", split.take(slice(10))
    if interrupted:
        save = training._Checkpoints.on_epoch_end

        def save_then_interrupt(self, epoch, logs=None):
            save(self, epoch, logs)
            raise Interrupt

        training._Checkpoints.on_epoch_end = save_then_interrupt
        with contextlib.suppress(Interrupt):
            training.train(*arguments, strategy=strategy)
        training._Checkpoints.on_epoch_end = save
    return training.train(*arguments, strategy=strategy, tensorboard=True)


def store(path, trained):
    for layer in trained.model.layers:
        if hasattr(layer, "assert_constraints"):
            layer.assert_constraints()
    values = {w.path: np.asarray(w) for w in trained.model.weights}
    np.savez(path, steps=trained.steps, **values)


def train_alone(directory):
    store(directory / "alone.npz", train(directory / "alone"))
    certified = train(directory / "alone", recipe=CERTIFIED)
    store(directory / "alone_certified.npz", certified)


def train_mirrored(directory):
    """Looks at the weights of both devices after every epoch."""
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, 2 * [tf.config.LogicalDeviceConfiguration()]
    )
    check, epochs = distribution.check_replicas, []

    def look_and_check(model, strategy):
        epochs.append(model)
        for variable in model.variables:
            one, other = (r.numpy() for r in variable.value.values)
            np.testing.assert_array_equal(one, other, err_msg=variable.path)
        check(model, strategy)

    distribution.check_replicas = look_and_check
    strategy = distribution.strategy("mirrored")
    assert strategy.num_replicas_in_sync == 2
    store(directory / "mirrored.npz", train(directory / "mirrored", strategy))
    assert len(epochs) == RECIPE.epochs
    replica = epochs[-1]
    certified = train(directory / "mirrored", strategy, recipe=CERTIFIED)
    store(directory / "mirrored_certified.npz", certified)

    kernel = replica.get_layer("ode").kernel
    kernel.value.values[1].assign_add(1e-7 * tf.eye(RECIPE.width))
    with pytest.raises(ValueError, match="different .*ode/kernel"):
        check(replica, strategy)


def train_worker(directory, index, ports):
    workers = [f"127.0.0.1:{port}" for port in ports]
    os.environ["TF_CONFIG"] = json.dumps(
        {
            "cluster": {"worker": workers},
            "task": {"type": "worker", "index": index},
        }
    )
    strategy = distribution.strategy("multi_worker")
    assert strategy.num_replicas_in_sync == 2
    assert distribution.is_chief(strategy) == (index == 0)
    trained = train(directory / "shared", strategy, interrupted=True)
    store(directory / f"worker{index}.npz", trained)
    with pytest.raises(ValueError, match="must see the same checkpoints"):
        train(directory / f"own{index}", strategy, interrupted=True)


def free_ports(count):
    """Ports that no outgoing connection will be given before they are used."""
    ports = set()
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as opened, contextlib.suppress(OSError):
            opened.bind(("127.0.0.1", port))
            ports.add(port)
    return sorted(ports)


def everything(directory):
    ports = free_ports(2)
    statuses = in_children((train_alone, directory))
    statuses += in_children((train_mirrored, directory))
    statuses += in_children(
        (train_worker, directory, 0, ports), (train_worker, directory, 1, ports)
    )
    assert statuses == [0, 0, 0, 0], statuses


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("distribution")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    finished = subprocess.run(
        [sys.executable, __file__, str(directory)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr[-5000:]
    return directory


@pytest.fixture(scope="module")
def weights(runs):
    return {
        name: dict(np.load(runs / f"{name}.npz"))
        for name in (
            *("alone", "mirrored", "worker0", "worker1"),
            *("alone_certified", "mirrored_certified"),
        )
    }


@pytest.mark.slow
def test_workers_agree_bit_for_bit(weights):
    for path, value in weights["worker0"].items():
        np.testing.assert_array_equal(value, weights["worker1"][path], path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "alone"),
    [
        ("mirrored", "alone"),
        ("worker0", "alone"),
        ("mirrored_certified", "alone_certified"),
    ],
)
def test_as_on_one_device(weights, name, alone):
    assert weights[name]["steps"] == weights[alone]["steps"] == 9
    for path, value in weights[alone].items():
        np.testing.assert_allclose(
            weights[name][path], value, TOLERANCE, TOLERANCE, err_msg=path
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alone", "mirrored", "shared"])
def test_summaries_of_every_epoch(runs, name):
    """TensorBoard reads the bounds of δ, loss, accuracy and learning rate."""
    run = f"model-{RECIPE.fingerprint()}-*/tensorboard/train"
    [folder] = (runs / name).glob(run)
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    for quantity in (
        *("loss", "accuracy", "learning_rate"),
        *("delta_lower", "delta_upper", "perturbation"),
    ):
        points = events.Tensors(f"epoch_{quantity}")
        values = [tf.make_ndarray(point.tensor_proto) for point in points]
        assert [point.step for point in points][-2:] == [1, 2]
        assert np.all(np.isfinite(values))
        if quantity == "delta_upper":
            assert np.all(np.asarray(values) <= 0.0)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}',
        '{"cluster": {"worker": ["a:1"]}, '
        '"task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
    ],
)
def test_refuses_bad_tf_config(text, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="TF_CONFIG, for instance"):
        distribution.strategy("multi_worker")


def test_refuses_unknown_strategy():
    with pytest.raises(ValueError, match="one of .*'tpu'"):
        distribution.strategy("tpu")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 15}, "multiple of 2.*batch_size=15"),
        ({"jit_compile": True}, "jit_compile=True"),
    ],
)
def test_refuses_recipes_that_do_not_suit(changes, message, tmp_path):
    class TwoReplicas:
        num_replicas_in_sync = 2

    recipe = dataclasses.replace(RECIPE, **changes)
    with pytest.raises(ValueError, match=message):
        training.train(
            recipe, images(), tmp_path, "model", strategy=TwoReplicas()
        )
    assert not list(tmp_path.iterdir())


def test_refuses_models_that_are_trained_by_more_than_their_loss():
    """Their own steps and penalties would silently be left out."""
    model = RECIPE.build("model", (28, 28, 1), 10)
    own_step = GaussianNoiseTraining(model, 0.1, seed=0)
    model.get_layer("ode").kernel.regularizer = keras.regularizers.L2(0.1)
    for trained, reason in (
        (own_step, "a train_step of its own"),
        (model, "losses of its layers"),
    ):
        with pytest.raises(ValueError, match=f"by its loss alone.*{reason}"):
            distribution.fit(
                trained,
                None,
                None,
                initial_epoch=0,
                epochs=1,
                steps_per_epoch=1,
            )


if __name__ == "__main__":
    everything(Path(sys.argv[1]))
