"""Tests of finding instances that do not compute what their class says."""

import keras
import numpy as np
import pytest

from stable_node_tf import DeepODELayer, LeakyTanh, StableODELayer, solvers
from stable_node_tf.replaced_methods import replaced_methods


def trained_model():
    inputs = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), DeepODELayer((3,))])
    ode = StableODELayer(delta_bar=0.0, name="ode")
    state = ode(inner(keras.layers.Dropout(0.1)(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(2)(state))
    model.compile("adam", "mse", jit_compile=False)
    model.fit(np.ones((2, 4)), np.ones((2, 2)), verbose=0)
    model.evaluate(np.ones((2, 4)), np.ones((2, 2)), verbose=0)
    model.predict(np.ones((2, 4)), verbose=0)
    return model


def test_what_keras_does_by_itself_is_no_replacement():
    model = trained_model()
    for layer in model._flatten_layers():
        assert replaced_methods(layer) == []
    for name in solvers.NAMES:
        assert replaced_methods(solvers.get(name)) == []


class OwnTraining(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


def test_a_functional_model_of_its_own_class_is_as_its_class_says():
    image = keras.Input((2,))
    model = OwnTraining(image, keras.layers.Dense(2)(image))
    assert replaced_methods(model) == []
    model.call = lambda x: x
    assert replaced_methods(model) == ["call"]


def shadow(obj, name, value):
    """Past every `__setattr__`."""
    vars(obj)[name] = value


@pytest.mark.parametrize(
    ("obj", "name"),
    [
        (keras.layers.Dense(2), "call"),
        (keras.layers.Dense(2), "build"),
        (StableODELayer(), "_solve"),
        (LeakyTanh(0.1), "value_and_slope"),
        (solvers.Euler(1), "_step"),
        (keras.Sequential([keras.layers.Dense(2)]), "call"),
    ],
)
@pytest.mark.parametrize("function", [lambda x: x, keras.ops.relu, None])
def test_replacements_are_found(obj, name, function):
    before = vars(obj).get(name)
    shadow(obj, name, function)
    assert replaced_methods(obj) == [name]
    del vars(obj)[name]
    if before is not None:
        shadow(obj, name, before)


def test_objects_without_attributes():
    assert replaced_methods(3) == replaced_methods("euler") == []
