import subprocess
import sys

PROGRAM = """
import keras
import numpy as np
import tensorflow as tf

from stable_node_tf import (
    SpectralNormConstraint, StabilityMonitor, StableODELayer
)

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(
    cpu, 2 * [tf.config.LogicalDeviceConfiguration()]
)
rng = np.random.default_rng(0)
x, y = rng.random((64, 8), "float32"), np.arange(64) % 3


def trained():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,))])
    model.add(StableODELayer(delta_bar=0.0, name="ode"))
    budget = SpectralNormConstraint(1.0)
    model.add(keras.layers.Dense(3, kernel_constraint=budget))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss)
    return model


def fit(model):
    monitor = StabilityMonitor()
    return model.fit(
        x, y, 32, 3, 0, [monitor], shuffle=False
    ).history["perturbation"]


strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    mirrored = trained()
alone = trained()
moved = fit(mirrored)
assert min(moved) > 0.0, moved
np.testing.assert_allclose(moved, fit(alone), rtol=1e-3)
for one, other in zip(mirrored.weights, alone.weights, strict=True):
    replicas = [replica.numpy() for replica in one.value.values]
    assert len(replicas) == 2
    np.testing.assert_array_equal(*replicas, err_msg=one.path)
    np.testing.assert_allclose(one, other, atol=1e-4, err_msg=one.path)
layer = mirrored.get_layer("ode")
layer.assert_constraints()
assert layer.stability().delta_upper <= 0.0
"""


def test_replicas_agree_and_stay_certified():
    """Two logical devices, which must be set up before TensorFlow starts."""
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
