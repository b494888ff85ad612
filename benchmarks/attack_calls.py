"""What calling an attack again costs, in forward passes and in memory.

    python benchmarks/attack_calls.py --calls=40

A forward pass is `tf.function(model)` on the same 8 images, already traced.
Calls and forward passes alternate, times are medians; memory is what the
process holds resident, before and after the calls. There is one budget; PGD
makes 5 steps, Square asks 25 queries.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from stable_node_tf import attacks, ode_classifier

_CALLS = flags.DEFINE_integer("calls", 40, "Calls after the first.", 1)
_WIDTH = flags.DEFINE_integer("width", 64, "Dimension of the ODE.", 1)

ATTACKS = {
    "FGSM": attacks.FGSM(),
    "PGD": attacks.PGD(steps=5),
    "Square": attacks.Square(queries=25),
}


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def resident_megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(model, attack, images, labels, calls):
    """Seconds of the first call; medians of others and of forward passes."""
    forward = tf.function(model, autograph=False)
    x = tf.constant(images)
    forward(x)
    first = seconds(lambda: attack(model, images, labels, [0.1]))
    before = resident_megabytes()
    times = [
        (
            seconds(lambda: forward(x)),
            seconds(lambda: attack(model, images, labels, [0.1])),
        )
        for _ in range(calls)
    ]
    growth = resident_megabytes() - before
    return first, *np.median(times, axis=0), growth


def main(argv):
    del argv
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(8, 28, 28, 1)).astype(np.float32)
    labels = np.arange(8)
    keras.utils.set_random_seed(0)
    model = ode_classifier(width=_WIDTH.value)
    for name, attack in ATTACKS.items():
        first, forward, again, growth = measure(
            model, attack, images, labels, _CALLS.value
        )
        print(
            f"{name:6} first call {first:5.2f} s, another "
            f"{1e3 * again:6.2f} ms, {again / forward:5.1f} forward passes of "
            f"{1e3 * forward:.2f} ms; {_CALLS.value} calls kept "
            f"{growth:+.1f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
