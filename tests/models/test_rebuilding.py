import keras
import numpy as np
import pytest

from stable_node_tf import ode_classifier, stabilize
from stable_node_tf.models import with_finer_solver

IMAGES = np.random.default_rng(0).uniform(size=(8, 4, 4, 1)).astype("f4")
LABELS = np.arange(8) % 10


def own_loss(labels, logits):
    return keras.losses.sparse_categorical_crossentropy(
        labels, logits, from_logits=True
    )


@pytest.fixture
def model():
    """Compiled with a function that Keras cannot find by its name."""
    model = ode_classifier(image_shape=(4, 4, 1), width=4)
    model.compile("adam", own_loss, jit_compile=False)
    model.fit(IMAGES, LABELS, verbose=0)
    return model


@pytest.mark.parametrize(
    "rebuild",
    [with_finer_solver, lambda model: stabilize(model, 0.0).model],
    ids=["with_finer_solver", "stabilize"],
)
def test_models_compiled_with_a_function_of_ones_own(model, rebuild):
    changed = rebuild(model)
    assert changed(IMAGES).shape == (8, 10)
    assert not changed.compiled
    assert model.compiled
    model.fit(IMAGES, LABELS, verbose=0)

    outer = keras.Sequential([keras.Input((4, 4, 1)), model])
    assert not rebuild(outer).layers[-1].compiled
    assert model.compiled
