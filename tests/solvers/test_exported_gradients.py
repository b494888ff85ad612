"""Gradients survive export, in a process without this package."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf.models.ode_classifier import ode_classifier
from stable_node_tf.saved_model import save_classifier
from stable_node_tf.solvers import Euler, PerSampleDormandPrince

SOLVERS = {
    "unrolled": Euler(20),
    "looped": Euler(200),
    "per_sample": PerSampleDormandPrince(),
}
SCRIPT = """
import sys
import numpy as np
import tensorflow as tf

x = tf.constant(np.load(sys.argv[1] + "/x.npy"))
for name in sys.argv[2:]:
    model = tf.saved_model.load(f"{sys.argv[1]}/{name}/1")
    signature = model.signatures["serving_default"]
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        if name != "per_sample":  # it refuses second derivatives
            outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            total = tf.reduce_sum(tf.sin(signature(image=x)["logits"]))
        first = inner.gradient(total, x)
        probe = tf.reduce_sum(first**2)
    found = {"first": first}
    if name != "per_sample":
        found["second"] = outer.gradient(probe, x)
    np.savez(f"{sys.argv[1]}/{name}.npz", **found)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Models, a batch, and where the reloaded gradients are."""
    folder = tmp_path_factory.mktemp("exported")
    keras.utils.set_random_seed(0)
    models = {
        name: ode_classifier(image_shape=(3, 2), width=8, solver=solver, seed=1)
        for name, solver in SOLVERS.items()
    }
    for name, model in models.items():
        save_classifier(model, folder / name)
    x = np.random.default_rng(0).random((5, 3, 2), "float32")
    np.save(folder / "x.npy", x)
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), *SOLVERS],
        check=True,
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    return models, tf.constant(x), folder


@pytest.mark.parametrize("name", SOLVERS)
def test_gradients_survive_export(name, exported):
    models, x, folder = exported
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        if name != "per_sample":
            outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            total = tf.reduce_sum(tf.sin(models[name](x)))
        first = inner.gradient(total, x)
        probe = tf.reduce_sum(first**2)
    reloaded = np.load(folder / f"{name}.npz")
    assert np.abs(first).max() > 0.01
    np.testing.assert_allclose(reloaded["first"], first, rtol=1e-4, atol=1e-5)
    if name != "per_sample":
        second = outer.gradient(probe, x).numpy()
        np.testing.assert_allclose(
            reloaded["second"], second, 1e-4, 1e-4 * np.abs(second).max()
        )
