"""A kernel of zeros is no trap: training leaves it, inside the bound."""

import keras
import numpy as np
import pytest

from stable_node_tf import PiecewiseODELayer, StableODELayer

LABELS = np.arange(1024) % 3
INPUTS = np.random.default_rng(0).standard_normal((1024, 6))
INPUTS += 4 * np.eye(6)[LABELS]


def trained(initializer, kind, delta_bar, dtype, jit_compile):
    keras.utils.set_random_seed(1)
    layer = StableODELayer(
        delta_bar=delta_bar,
        kernel_initializer=initializer,
        discrete=kind == "discrete",
        dtype=dtype,
    )
    if kind == "piecewise":
        layer = PiecewiseODELayer(layer, 2)
    head = keras.layers.Dense(3, dtype=dtype)
    model = keras.Sequential([keras.Input((6,), dtype=dtype), layer, head])
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )
    model.fit(INPUTS, LABELS, epochs=3, verbose=0)
    layer.assert_constraints()
    for piece in getattr(layer, "pieces", [layer]):
        assert np.linalg.norm(piece.kernel.numpy()) > 0.1
    return model.evaluate(INPUTS, LABELS, verbose=0)[1]


@pytest.mark.parametrize(
    "kind, delta_bar, dtype, jit_compile",
    [
        ("flow", 0.0, "float32", False),
        ("flow", 0.1, "float64", True),
        ("discrete", 0.0, "float32", True),
        ("piecewise", 0.1, "float32", False),
    ],
)
def test_learns_what_a_usual_start_learns(kind, delta_bar, dtype, jit_compile):
    options = (kind, delta_bar, dtype, jit_compile)
    usual = trained("glorot_uniform", *options)
    assert trained("zeros", *options) >= usual - 0.03
