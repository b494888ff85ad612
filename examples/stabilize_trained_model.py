"""Makes a model that is trained already stable, by the smallest change of A.

    python examples/stabilize_trained_model.py [picture.png]

A neural ODE classifier of handwritten digits (8 x 8 pixels, of scikit-learn) is
trained freely. `stabilize` makes a model of it whose A is the nearest matrix
with δ <= 0, and keeps it there while that model is trained for one more epoch.
All three are attacked: what do stability and the epoch do to their accuracy?
"""

import sys

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from stable_node_tf import StableODELayer, attacks, stabilize
from stable_node_tf.evaluation import compare

DELTA_BAR = 0.0
EPSILONS = [0.05, 0.1, 0.15, 0.2]


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


def main(picture=None):
    train_images, test_images, train_labels, test_labels = digits()

    def train(model, epochs):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss)
        model.fit(train_images, train_labels, epochs=epochs, verbose=0)

    free = ordinary_model()
    train(free, epochs=12)
    moved, changes = stabilize(free, DELTA_BAR)
    print(changes)
    trained, _ = stabilize(free, DELTA_BAR)
    train(trained, epochs=1)
    models = {"trained freely": free, "A moved": moved, "one epoch on": trained}
    for name, model in models.items():
        bounds = model.get_layer("ode").stability()
        print(
            f"{name}: δ in [{bounds.delta_lower:.4f}, "
            f"{bounds.delta_upper:.4f}], Lipschitz constant of the ODE "
            f"<= {bounds.lipschitz_bound:.3f}"
        )
    comparison = compare(
        models,
        test_images,
        test_labels,
        attacks=[attacks.PGD(steps=20)],
        epsilons=EPSILONS,
        verbose=False,
    )
    print(comparison.table())
    if picture:
        comparison.plot().figure.savefig(picture)
    return models, comparison


if __name__ == "__main__":
    main(*sys.argv[1:2])
