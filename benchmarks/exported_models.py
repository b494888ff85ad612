"""Time of a prediction: exported models of equal parameter counts."""

import tempfile

import numpy as np


def serving(arrays):
    """Name and batch of each model -> its call, as in solver_libraries."""
    import keras

    from stable_node_tf import Euler, RungeKutta4, ode_classifier
    from stable_node_tf.saved_model import (
        load_classifier,
        save_classifier,
    )

    del arrays
    image = keras.Input((28, 28, 1), name="image")
    x = keras.layers.Flatten()(image)
    x = keras.layers.Dense(64)(x)
    x = keras.layers.Dense(64, activation="tanh")(x)
    models = {
        "Dense network": keras.Model(image, keras.layers.Dense(10)(x)),
        "Euler, 20 steps": ode_classifier(solver=Euler(20)),
        "RungeKutta4, 5 steps": ode_classifier(solver=RungeKutta4(5)),
    }
    assert len({model.count_params() for model in models.values()}) == 1
    cases = {}
    for name, model in models.items():
        with tempfile.TemporaryDirectory() as directory:
            save_classifier(model, directory)
            loaded = load_classifier(directory)
        for batch in (1, 256):
            images = np.random.default_rng(0).random(
                (batch, 28, 28, 1), np.float32
            )
            predict = lambda m=loaded, x=images: [m(x).numpy()]  # noqa: E731
            cases[f"{name}, batch {batch}"] = (predict, predict)
    return cases
