import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from bars import split
from programs import run

from stable_node_tf import worst_case_log_norm
from stable_node_tf.saved_model import (
    load_classifier,
)
from trainers import baselines, outcomes, training, variants
from trainers.baseline_methods import (
    FgsmTraining,
    GaussianNoiseTraining,
    InfinityLogNormPenalty,
    ShiftConstraint,
)
from trainers.baseline_recipe import BaselineRecipe
from trainers.data import datasets
from trainers.recipe import Recipe

TINY = {"width": 8, "num_steps": 4, "epochs": 2, "batch_size": 16, "seed": 3}


def rng_matrix(seed, size=6):
    return np.random.default_rng(seed).standard_normal((size, size))


@pytest.mark.parametrize("seed", range(4))
def test_penalty_vanishes_where_the_flow_contracts_in_the_maximum_norm(seed):
    matrix = rng_matrix(seed).astype(np.float32)
    penalty = InfinityLogNormPenalty(0.5)

    def log_norms(matrix):
        size = len(matrix)
        step = 1e-6
        euler = np.eye(size) + step * matrix.astype(np.float64)
        return (np.abs(euler).sum(axis=1) - 1.0) / step

    expected = 0.5 * np.maximum(log_norms(matrix), 0.0).sum()
    assert float(penalty(matrix)) == pytest.approx(expected, rel=1e-4)
    stable = matrix - np.float32(log_norms(matrix).max() + 1e-3) * np.eye(
        6, dtype=np.float32
    )
    assert float(penalty(stable)) == 0.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("delta_bar", [0.0, -0.5])
def test_shift_is_feasible_and_no_longer_than_it_must_be(seed, delta_bar):
    matrix = rng_matrix(seed).astype(np.float32)
    constraint = ShiftConstraint(delta_bar, 0.1)
    shifted = constraint(matrix).numpy()
    shift = matrix[0, 0] - shifted[0, 0]
    np.testing.assert_allclose(
        shifted, matrix - shift * np.eye(6), atol=1e-5, rtol=0
    )
    assert worst_case_log_norm(shifted, 0.1, exact=True).upper <= delta_bar
    # Twice is once, but for the safety margin.
    assert abs(constraint(shifted).numpy() - shifted).max() < 1e-2 * shift


def test_shift_leaves_a_stable_matrix_alone():
    matrix = -3.0 * np.eye(4, dtype=np.float32)
    np.testing.assert_array_equal(ShiftConstraint(0.0, 0.1)(matrix), matrix)


@pytest.mark.parametrize(
    "make",
    [
        lambda: InfinityLogNormPenalty(0.0),
        lambda: ShiftConstraint(0.1, 0.1),
        lambda: ShiftConstraint(0.0, 1.0),
        lambda: BaselineRecipe(method="magic"),
        lambda: BaselineRecipe(method="gaussian_noise", strength=0.0),
    ],
)
def test_bad_arguments_are_refused(make):
    with pytest.raises(ValueError, match="Received"):
        make()


def linear_model():
    image = keras.Input((2, 2, 1))
    logits = keras.layers.Dense(3)(keras.layers.Flatten()(image))
    return keras.Model(image, logits)


def test_fgsm_training_sees_images_within_the_budget_that_are_harder():
    keras.utils.set_random_seed(0)
    model = linear_model()
    trained = FgsmTraining(model, 0.1, seed=0)
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(50, 2, 2, 1)).astype(np.float32)
    labels = rng.integers(3, size=50)
    attacked = trained.perturb(images, labels, tf.constant([0, 1]))
    assert np.abs(attacked - images).max() <= 0.1 + 1e-6
    assert 0.0 <= attacked.numpy().min() and attacked.numpy().max() <= 1.0
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert loss(labels, model(attacked)) > 1.05 * loss(labels, model(images))


def test_noise_has_its_deviation_and_differs_from_step_to_step():
    trained = GaussianNoiseTraining(linear_model(), 0.25, seed=0)
    images = np.zeros((5000, 2, 2, 1), np.float32)
    first, again, other = (
        trained.perturb(images, None, tf.constant([0, step])).numpy()
        for step in (1, 1, 2)
    )
    assert first.std() == pytest.approx(0.25, rel=0.05)
    np.testing.assert_array_equal(first, again)
    assert abs(np.mean(first * other)) < 0.01


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """The weights of a training without perturbations."""
    directory = tmp_path_factory.mktemp("plain")
    trained = training.train(Recipe(**TINY), split(64, 0), directory, "plain")
    return trained.model.get_weights()


@pytest.mark.parametrize("method", ["gaussian_noise", "fgsm_training"])
def test_perturbed_training_resumed_ends_where_it_would_have(
    tmp_path, method, ordinary, monkeypatch
):
    recipe = BaselineRecipe(**TINY, method=method, strength=0.1)
    data = split(64, 0)
    whole = training.train(recipe, data, tmp_path, "rival")
    # The first of two epochs is all that an interrupted training has left.
    [folder] = tmp_path.iterdir()
    for file in folder.glob("ckpt-2.*"):
        file.unlink()
    states = folder / "checkpoint"
    states.write_text(states.read_text().replace("ckpt-2", "ckpt-1"))
    resumed = training.train(recipe, data, tmp_path, "rival")
    assert resumed.steps == whole.steps
    for first, second, plain in zip(
        whole.model.get_weights(),
        resumed.model.get_weights(),
        ordinary,
        strict=True,
    ):
        np.testing.assert_array_equal(first, second)
        if plain.ndim == 2:
            assert np.abs(first - plain).max() > 1e-3


@pytest.mark.slow
def test_compares_all_rivals_and_carries_on(tmp_path, monkeypatch, capsys):
    tiny = Recipe(
        **TINY, delta_bar=0.0, encoder_max_norm=1.5, readout_max_norm=2.0
    )
    tiny = dataclasses.replace(tiny, epochs=1)
    monkeypatch.setitem(variants.PRESETS, "default", tiny)

    def load_data(seed):
        data = datasets.Dataset(split(64, seed), split(32, 1), split(40, 2))
        monkeypatch.setattr(datasets, "load", lambda *a, **k: data)

    load_data(0)
    arguments = [
        *("--dataset=mnist", f"--results={tmp_path}"),
        *("--seed=1", "--pgd_images=8"),
    ]
    run(baselines, *arguments, "--methods=shift,mu_inf_penalty")
    directory = tmp_path / "mnist" / "baselines" / "seed1"
    results = json.loads((directory / "results.json").read_text())
    shifted, penalized = results["models"]
    assert [m["name"] for m in results["models"]] == ["shift", "mu_inf_penalty"]
    assert shifted["delta_upper"] <= 0.0 < penalized["delta_lower"]
    assert penalized["recipe"]["strength"] > 0.0
    assert [point["epsilon"] for point in penalized["pgd"]] == [0.05, 0.1]
    attacked = []
    attack = outcomes.attacked
    monkeypatch.setattr(
        outcomes, "attacked", lambda *a: attacked.append(a[-1]) or attack(*a)
    )
    run(baselines, *arguments, "--methods=shift,stable_network_fgsm")
    assert {title.partition(":")[0] for title in attacked} == {
        "stable_network_fgsm"
    }
    again, new = json.loads((directory / "results.json").read_text())["models"]
    assert again == shifted
    saved = directory / "models" / "stable_network_fgsm"
    model = keras.saving.load_model(saved / "model.keras", compile=False)
    images = split(40, 2).pixels
    np.testing.assert_allclose(
        load_classifier(saved)(images), model(images), atol=1e-5
    )
    right = np.mean(np.argmax(model(images), -1) == split(40, 2).labels)
    assert new["clean_accuracy"] == pytest.approx(right)
    load_data(3)
    run(baselines, *arguments, "--methods=shift")
    assert "shift: FGSM" in attacked
    with pytest.raises(SystemExit, match="methods.*Received: magic"):
        run(baselines, *arguments, "--methods=magic")
