import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf

from trainers import compare, training
from trainers.data import datasets
from trainers.recipe import Recipe

RECIPE = Recipe(
    width=4,
    delta_bar=0.0,
    initial_skew_norm=1.0,
    encoder_max_norm=1.0,
    readout_max_norm=1.0,
    num_steps=3,
    epochs=3,
    batch_size=16,
)


def split(rows, seed):
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % 10
    images = generator.integers(0, 60, (rows, 28, 28, 1))
    images[np.arange(rows), 2 * labels] += 190
    return datasets.Split(images.astype(np.uint8), labels)


@pytest.fixture(scope="module")
def images():
    return split(64, 0)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """A training that nothing interrupts, and where its checkpoints are."""
    directory = tmp_path_factory.mktemp("checkpoints")
    return training.train(RECIPE, images, directory, "model"), directory


@pytest.fixture
def checkpoints(whole):
    return whole[1]


class Interrupt(Exception):
    pass


def weights(trained):
    return trained.model.get_weights()


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_interrupted_run_ends_alike(images, whole, tmp_path, monkeypatch):
    whole, _ = whole
    assert whole.steps == 12

    save = training._Checkpoints.on_epoch_end

    def save_then_interrupt(self, epoch, logs=None):
        save(self, epoch, logs)
        if epoch == 1:
            raise Interrupt

    monkeypatch.setattr(
        training._Checkpoints, "on_epoch_end", save_then_interrupt
    )
    with pytest.raises(Interrupt):
        training.train(RECIPE, images, tmp_path / "parts", "model")
    monkeypatch.setattr(training._Checkpoints, "on_epoch_end", save)
    resumed = training.train(RECIPE, images, tmp_path / "parts", "model")
    assert_equal(weights(whole), weights(resumed))
    assert resumed.steps == 12

    again = training.train(RECIPE, images, tmp_path / "parts", "model")
    assert_equal(weights(whole), weights(again))
    assert again.seconds == resumed.seconds


def test_seeds_and_recipes_have_their_own_runs(images, whole, tmp_path):
    shutil.copytree(whole[1], tmp_path, dirs_exist_ok=True)
    one = training.train(RECIPE, images, tmp_path, "model")
    other = training.train(
        dataclasses.replace(RECIPE, seed=1), images, tmp_path, "model"
    )
    assert np.abs(weights(one)[0] - weights(other)[0]).max() > 1e-3
    assert len(list(tmp_path.iterdir())) == 2


def other_pixels(images):
    return images._replace(images=255 - images.images)


def one_pixel(images):
    pixels = images.images.copy()
    pixels[-1, -1, -1] += 1
    return images._replace(images=pixels)


def other_labels(images):
    return images._replace(labels=(images.labels + 1) % 10)


def other_order(images):
    return images.take(slice(None, None, -1))


def fewer_images(images):
    return images.take(slice(48))


@pytest.mark.parametrize(
    "change",
    [other_pixels, one_pixel, other_labels, other_order, fewer_images],
    ids=lambda f: f.__name__,
)
def test_other_images_have_a_folder_of_their_own(change, images, tmp_path):
    folders = {
        training.checkpoint_folder(RECIPE, split, tmp_path, "model")
        for split in (images, change(images))
    }
    assert len(folders) == 2


def test_other_images_never_return_the_old_model(
    images, checkpoints, tmp_path, capsys
):
    directory = shutil.copytree(checkpoints, tmp_path / "checkpoints")
    changed = one_pixel(images)
    trained = training.train(RECIPE, changed, directory, "model")
    assert "already trained" not in capsys.readouterr().out
    old = training.train(RECIPE, images, directory, "model")
    again = training.train(RECIPE, changed, directory, "model")
    assert capsys.readouterr().out.count("already trained") == 2
    assert_equal(weights(trained), weights(again))
    assert np.abs(weights(trained)[0] - weights(old)[0]).max() > 0


def test_the_dtype_of_labels_is_no_other_data(images):
    narrow = images._replace(labels=images.labels.astype(np.int32))
    assert narrow.fingerprint() == images.fingerprint()


def test_refuses_checkpoints_of_other_weights(images, tmp_path):
    folder = training.checkpoint_folder(RECIPE, images, tmp_path, "model")
    other = tf.train.Checkpoint(epoch=tf.Variable(1, dtype=tf.int64))
    tf.train.CheckpointManager(other, str(folder), 1).save()
    with pytest.raises(ValueError, match="another version of this package"):
        training.train(RECIPE, images, tmp_path, "model")


def test_a_step_that_fails_is_one_line(images, tmp_path):
    beyond = datasets.Split(images.images, images.labels - 1)
    with pytest.raises(RuntimeError, match="^Training has failed: .*label"):
        training.train(RECIPE, beyond, tmp_path, "model")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("ckpt-3.data-00000-of-00001", lambda content: content[:100]),
        ("ckpt-3.data-00000-of-00001", lambda content: content[::-1]),
        ("ckpt-3.index", lambda content: content[:200]),
        ("checkpoint", lambda content: b"\xff" + content),
        ("checkpoint", lambda content: b""),
    ],
)
def test_damaged_checkpoints_are_named(
    checkpoints, images, tmp_path, name, damage
):
    [path] = checkpoints.rglob(name)
    folder = shutil.copytree(path.parent, tmp_path / path.parent.name)
    (folder / name).write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"checkpoints in {folder}") as refusal:
        training.train(RECIPE, images, tmp_path, "model")
    assert "\n" not in str(refusal.value)


def test_refuses_batches_larger_than_the_data(images, tmp_path):
    recipe = dataclasses.replace(RECIPE, batch_size=65)
    with pytest.raises(ValueError, match="batch_size"):
        training.train(recipe, images, tmp_path, "model")


@pytest.mark.parametrize("delta_bar", [None, 0.0], ids=["free", "stable"])
def test_says_that_training_has_diverged(delta_bar, images, tmp_path):
    recipe = dataclasses.replace(
        RECIPE, delta_bar=delta_bar, encoder_max_norm=None, learning_rate=1e30
    )
    with pytest.raises(RuntimeError, match="diverged.*loss=nan in epoch 1"):
        training.train(recipe, images, tmp_path, "model")
    assert not list(tmp_path.rglob("ckpt-*"))


@pytest.mark.parametrize(
    "name, value",
    [
        ("width", 0),
        ("epochs", 0),
        ("learning_rate", -1.0),
        ("alpha", 0.0),
        ("delta_bar", np.nan),
        ("encoder_max_norm", 0.0),
        ("solver", "magic"),
        ("seed", -1),
    ],
)
def test_recipe_refuses(name, value):
    with pytest.raises(ValueError, match=name):
        Recipe(**{name: value})


def test_variants_are_the_four_of_a_two_by_two_design():
    variants = compare.variants(RECIPE)
    bounds = ("delta_bar", "encoder_max_norm", "readout_max_norm")
    freed = dict.fromkeys(bounds)
    alike = {dataclasses.replace(v, **freed) for v in variants.values()}
    assert len(alike) == 1
    constrained = {
        name: [getattr(recipe, bound) for bound in bounds]
        for name, recipe in variants.items()
    }
    assert constrained == {
        "ordinary": [None, None, None],
        "stable_ode": [0.0, None, None],
        "bounded_ends": [None, 1.0, 1.0],
        "stable_network": [0.0, 1.0, 1.0],
    }
