"""Identifies a contractive system from a few noisy trajectories.

    python examples/system_identification.py

The truth is u' = σ(A u + b) with δ(A) = -0.2: all its trajectories approach one
another. Given are pairs (u(t), u(t + 0.5)) with noise. A free A fits the noise
and may lose the contraction; with delta_bar=-0.2 it cannot, and predictions
over long times stay near the truth, by a bound that is known beforehand.
"""

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf import StableODELayer, nearest_stable

SIZE = 8
DELTA = -0.2
STEP = 0.5
NOISE = 0.05
STEPS_AHEAD = 40


def layer(delta_bar=None):
    """One step of length STEP of the system, by Runge–Kutta 4."""
    return StableODELayer(
        activation="leaky_tanh",
        delta_bar=delta_bar,
        terminal_time=STEP,
        solver="rk4",
        name="system",
    )


def truth():
    """A contractive system that rotates on its way to rest."""
    rng = np.random.default_rng(1)
    raw = rng.standard_normal((SIZE, SIZE))
    kernel = nearest_stable(2.0 * (raw - raw.T) + raw, DELTA, 0.1).matrix
    system = layer()
    system.build((None, SIZE))
    system.kernel.assign(kernel)
    system.bias.assign(rng.standard_normal(SIZE))
    return system


def rollout(system, start, steps):
    """The states after 0, 1 ... steps, of shape (steps + 1, batch, SIZE)."""
    step = tf.function(system)
    states = [tf.constant(start)]
    for _ in range(steps):
        states.append(step(states[-1]))
    return np.stack([state.numpy() for state in states])


def identify(before, after, delta_bar):
    """Fits A and b to pairs of states."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((SIZE,)), layer(delta_bar)])
    # To compile by XLA takes longer than all of this training.
    model.compile(keras.optimizers.Adam(0.02), "mse", jit_compile=False)
    model.fit(before, after, batch_size=32, epochs=150, verbose=0)
    return model.get_layer("system")


def main():
    rng = np.random.default_rng(0)
    system = truth()
    start = rng.standard_normal((4, SIZE)).astype(np.float32)
    seen = rollout(system, start, 8)
    seen += NOISE * rng.standard_normal(seen.shape).astype(np.float32)
    before = seen[:-1].reshape(-1, SIZE)
    after = seen[1:].reshape(-1, SIZE)

    new = rng.standard_normal((50, SIZE)).astype(np.float32)
    expected = rollout(system, new, STEPS_AHEAD)
    outcomes = {}
    for name, delta_bar in (("free", None), ("contractive", DELTA)):
        found = identify(before, after, delta_bar)
        bounds = found.stability()
        predicted = rollout(found, new, STEPS_AHEAD)
        errors = np.linalg.norm(predicted - expected, axis=-1).mean(axis=-1)
        print(
            f"{name}: δ in [{bounds.delta_lower:.3f}, "
            f"{bounds.delta_upper:.3f}], error after {STEP * STEPS_AHEAD:g} "
            f"time units {errors[-1]:.3f}"
        )
        outcomes[name] = bounds, errors
    return outcomes


if __name__ == "__main__":
    main()
