"""The zoo: every model is what its results.json and its card say."""

import json
from pathlib import Path

import numpy as np
import pytest

from stable_node_tf import StableODELayer
from stable_node_tf.certification.certifier import certifier
from stable_node_tf.certification.rules import layer_lipschitz
from stable_node_tf.saved_model import (
    load_classifier,
)
from stable_node_tf.stability.log_norm import euler_log_norm
from trainers import attack_suite, model_card, zoo
from trainers.data import datasets, tfds_sets

ZOO = Path(__file__).parents[1] / "saved_models"
NAMES = list(zoo.recipes())
LARGEST = 3 * 2**20

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not ZOO.is_dir(), reason="a source distribution is without the models"
    ),
]


def results_of(name):
    return json.loads((ZOO / name / "results.json").read_text())


@pytest.fixture(scope="module")
def images():
    """The first test images of both data sets."""
    return {
        name: datasets.load(name).test.take(slice(zoo.CHECKED))
        for name in tfds_sets.NAMES
    }


def rebuilt(exported, recipe):
    """The Keras model of the recipe with the weights of the SavedModel.

    That holds no certificates of Euler steps, so they are searched for anew.
    """
    model = recipe.build("rebuilt", (28, 28, 1), 10)
    saved = {v.name: v for v in exported._artifact._all_variables}
    for weight in model.trainable_weights:
        weight.assign(saved[f"{weight.path}:0"])
    for layer in model.layers:
        if isinstance(layer, StableODELayer) and layer.discrete:
            step = layer.terminal_time / layer.solver.num_steps
            kernel = layer.kernel.numpy().astype(np.float64)
            _, certificate = euler_log_norm(kernel, layer.alpha, step)
            layer.certificate.assign(certificate)
    return model


def test_nothing_is_missing_or_left_over():
    found = sorted(p.parent.parent.name for p in ZOO.glob("*/1/saved_model.pb"))
    assert found == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_saved_model(name, images):
    recipe, results = zoo.recipes()[name], results_of(name)
    assert recipe.is_written(results["recipe"])
    assert (ZOO / name / "README.md").read_text() == model_card.card(results)
    files = [file for file in (ZOO / name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= LARGEST
    assert results["digest"] == attack_suite.digest(ZOO / name / "1")

    exported = load_classifier(ZOO / name)
    test = images[recipe.dataset]
    answers = exported.certify(test.pixels)
    correct = answers["label"] == test.labels
    # Rounding differs between machines, so a close call may fall otherwise.
    assert abs(correct.sum() - results["checked"]["correct"]) <= 2

    proven = results["bounds"]["lipschitz"]
    model = rebuilt(exported, recipe)
    logits = model(test.pixels[:50], training=False).numpy()
    np.testing.assert_allclose(logits, answers["logits"][:50], atol=1e-3)
    factors = [layer_lipschitz(layer) for layer in model.layers]
    assert np.prod(factors) == pytest.approx(proven, rel=0.02)
    np.testing.assert_allclose(
        certifier(model)(test.pixels[:50], answers["logits"][:50]),
        answers["certified_radius"][:50],
        rtol=0.02,
        atol=1e-4,
    )

    # The bound holds between images, and the radii are those it implies.
    flat = test.pixels.reshape(len(test.labels), -1).astype(np.float64)
    distances = np.linalg.norm(flat[:1000] - flat[1000:], axis=1)
    moves = np.linalg.norm(
        answers["logits"][:1000].astype(np.float64) - answers["logits"][1000:],
        axis=1,
    )
    assert np.all(moves <= proven * distances * (1 + 1e-5))
    certified = answers["certified_radius"]
    for point in results["certified_few"]["certified"]:
        first = slice(results["certified_few"]["num_images"])
        share = np.mean(correct[first] & (certified[first] > point["radius"]))
        assert share == pytest.approx(point["accuracy"], abs=0.003)
