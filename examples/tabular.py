"""Certified diagnosis from a table: 30 measurements of a tumour, two classes.

    python examples/tabular.py

The data are scikit-learn's (Wisconsin, 569 patients). Encoder, ODE and read-out
are all constrained, so that every single answer comes with a radius: no change
of the standardised measurements shorter than that changes the answer.
"""

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from stable_node_tf import (
    MarginCrossentropy,
    SpectralNormConstraint,
    StabilityMonitor,
    StableODELayer,
    certified_radii,
)


def patients():
    """Training and test measurements, standardised, and their classes."""
    table, classes = load_breast_cancer(return_X_y=True)
    parts = train_test_split(table, classes, test_size=0.3, random_state=0)
    scaler = StandardScaler().fit(parts[0])
    train, test = (scaler.transform(p).astype(np.float32) for p in parts[:2])
    return train, test, parts[2], parts[3]


def stable_network():
    """A network whose Lipschitz constant is at most 1 from end to end."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((30,)),
            keras.layers.Dense(
                16,
                kernel_initializer="orthogonal",
                kernel_constraint=SpectralNormConstraint(1.0),
            ),
            StableODELayer(delta_bar=0.0, name="ode"),
            keras.layers.Dense(
                2,
                kernel_initializer="orthogonal",
                kernel_constraint=SpectralNormConstraint(1.0),
            ),
        ]
    )


def main():
    train, test, train_classes, test_classes = patients()
    model = stable_network()
    model.compile(
        keras.optimizers.Adam(0.01),
        MarginCrossentropy(1.0),
        metrics=["accuracy"],
    )
    model.fit(
        train,
        train_classes,
        epochs=30,
        callbacks=[StabilityMonitor()],
        verbose=0,
    )
    _, accuracy = model.evaluate(test, test_classes, verbose=0)
    print(f"accuracy on {len(test)} patients: {accuracy:.1%}")
    answers, radii = certified_radii(model, test)
    right = answers == test_classes
    for radius in (0.25, 0.5, 1.0):
        certified = np.mean(right & (radii > radius))
        print(f"certified within {radius}: {certified:.1%}")
    return accuracy, radii, right


if __name__ == "__main__":
    main()
