"""Classifiers that are saved and loaded again."""

import keras
import numpy as np


def classifier(*middle, seed=0, **options):
    keras.utils.set_random_seed(seed)
    image = keras.Input((28, 28, 1), name="image", **options)
    x = keras.layers.Flatten()(image)
    x = keras.layers.Dense(16, activation="tanh")(x)
    for layer in middle:
        x = layer(x)
    return keras.Model(image, keras.layers.Dense(10, name="out")(x))


def images(count=7):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(count, 28, 28, 1)).astype(np.float32)
