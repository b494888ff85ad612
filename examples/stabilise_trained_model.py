"""Makes a model that is trained already stable, by the smallest change of A.

    python examples/stabilise_trained_model.py

A neural ODE classifier of handwritten digits (8 x 8 pixels, of scikit-learn) is
trained freely. Then A goes to the nearest matrix with δ <= 0, and the read-out,
which has never seen the new flow, is trained for a few more epochs.
"""

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from stable_node_tf import StableODELayer, nearest_stable

DELTA_BAR = 0.0


def digits():
    """Training and test images, pixels from 0 to 1, and their labels."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32)
    return train_test_split(images, labels, test_size=0.3, random_state=0)


def ordinary_model():
    """An ODE between two dense layers, nothing constrained."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, name="encoder"),
            StableODELayer(name="ode"),
            keras.layers.Dense(10, name="logits"),
        ]
    )
    compile_model(model)
    return model


def compile_model(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(0.01)
    model.compile(optimizer, loss, metrics=["accuracy"])


def stabilise(model, delta_bar):
    """Moves A of a model to the nearest matrix with δ(A) <= delta_bar.

    Returns:
      The norm of the change relative to the norm of A.
    """
    layer = model.get_layer("ode")
    kernel = np.asarray(layer.kernel)
    # A little below the bound, because the weights are rounded to float32.
    nearest = nearest_stable(kernel, delta_bar - 1e-4, layer.alpha)
    layer.kernel.assign(nearest.matrix)
    return nearest.distance / np.linalg.norm(kernel)


def main():
    train_images, test_images, train_labels, test_labels = digits()
    model = ordinary_model()

    def report(state):
        _, accuracy = model.evaluate(test_images, test_labels, verbose=0)
        bounds = model.get_layer("ode").stability()
        print(
            f"{state}: accuracy {accuracy:.1%}, δ in "
            f"[{bounds.delta_lower:.4f}, {bounds.delta_upper:.4f}], "
            f"flow Lipschitz <= {bounds.lipschitz_bound:.3f}"
        )
        return accuracy, bounds

    model.fit(train_images, train_labels, epochs=12, verbose=0)
    before = report("trained freely    ")
    change = stabilise(model, DELTA_BAR)
    print(f"A moves by {change:.1%} of its norm")
    moved = report("A moved, no more  ")
    model.get_layer("encoder").trainable = False
    model.get_layer("ode").trainable = False
    compile_model(model)
    model.fit(train_images, train_labels, epochs=6, verbose=0)
    after = report("read-out retrained")
    return before, moved, after


if __name__ == "__main__":
    main()
