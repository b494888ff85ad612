"""Makes a model that is trained already stable, by the smallest change of A.

    python examples/stabilize_trained_model.py

A neural ODE classifier of handwritten digits (8 x 8 pixels, of scikit-learn) is
trained freely. `stabilize` makes a model of it whose A is the nearest matrix
with δ <= 0, and keeps it there: that model is trained for a few more epochs.
"""

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from stable_node_tf import StableODELayer, stabilize

DELTA_BAR = 0.0


def digits():
    """Training and test images, pixels from 0 to 1, and their labels."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32)
    return train_test_split(images, labels, test_size=0.3, random_state=0)


def ordinary_model():
    """An ODE between two dense layers, nothing constrained."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, name="encoder"),
            StableODELayer(name="ode"),
            keras.layers.Dense(10, name="logits"),
        ]
    )


def main():
    train_images, test_images, train_labels, test_labels = digits()

    def train(model, epochs):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss)
        model.fit(train_images, train_labels, epochs=epochs, verbose=0)

    def report(state, model):
        predicted = model.predict(test_images, verbose=0).argmax(axis=1)
        accuracy = np.mean(predicted == test_labels)
        bounds = model.get_layer("ode").stability()
        print(
            f"{state}: accuracy {accuracy:.1%}, δ in "
            f"[{bounds.delta_lower:.4f}, {bounds.delta_upper:.4f}], "
            f"Lipschitz <= {bounds.lipschitz_bound:.3f}"
        )
        return accuracy, bounds

    free = ordinary_model()
    train(free, epochs=12)
    before = report("trained freely ", free)
    stable, changes = stabilize(free, DELTA_BAR)
    print(changes)
    moved = report("A moved        ", stable)
    train(stable, epochs=6)
    after = report("trained further", stable)
    return before, moved, after


if __name__ == "__main__":
    main()
