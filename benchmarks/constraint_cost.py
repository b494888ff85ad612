r"""Times a training step with the constraint against the same step without.

    python benchmarks/constraint_cost.py \
        --output=benchmarks/constraint_cost.json

784 -> d -> 10, Runge-Kutta 4 with 20 steps, Adam, batches of 128. The steps of
the two models alternate; the ratio is the median of those of the pairs.
"""

import json
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from stable_node_tf import RungeKutta4, StableODELayer

_BATCH = 128
_NORM = flags.DEFINE_enum("norm", "2", ["2", "inf"], "Norm of δ.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
_PAIRS = flags.DEFINE_integer("pairs", 200, "Pairs of steps.", 10)
_SIZES = flags.DEFINE_list("sizes", ["64", "256"], "Dimensions d.")


def step_of(size, delta_bar, jit_compile, batches):
    """A function that runs one training step."""
    keras.utils.set_random_seed(0)
    layer = StableODELayer(
        delta_bar=delta_bar, solver=RungeKutta4(20), norm=_NORM.value
    )
    model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(size)])
    model.add(layer)
    model.add(keras.layers.Dense(10))
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    model.train_on_batch(*next(iter(batches)))
    step, iterator = model.make_train_function(), iter(batches)
    return lambda: (step or model.train_function)(iterator)


def measure(size, jit_compile, batches):
    """Medians of free and constrained steps, and of their ratio."""
    steps = [step_of(size, bar, jit_compile, batches) for bar in (None, 0.0)]
    seconds = np.zeros((_PAIRS.value, 2))
    for pair in seconds:
        for index, step in enumerate(steps):
            start = time.perf_counter()
            step()
            pair[index] = time.perf_counter() - start
    warm = seconds[5:]
    free, constrained = np.median(warm, axis=0)
    return {
        "d": size,
        "jit_compile": jit_compile,
        "free_ms": 1e3 * free,
        "constrained_ms": 1e3 * constrained,
        "ratio": float(np.median(warm[:, 1] / warm[:, 0])),
    }


def main(argv):
    del argv
    rng = np.random.default_rng(0)
    images = rng.random((_BATCH, 784), dtype=np.float32)
    labels = rng.integers(10, size=_BATCH)
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat()
    rows = []
    print(f"{'d':>5} {'XLA':>5} {'free':>10} {'constrained':>12} {'ratio':>7}")
    for size in map(int, _SIZES.value):
        for jit_compile in (False, True):
            row = measure(size, jit_compile, batches)
            rows.append(row)
            print(
                f"{size:5} {'on' if jit_compile else 'off':>5} "
                f"{row['free_ms']:7.2f} ms {row['constrained_ms']:9.2f} ms "
                f"{row['ratio']:7.3f}",
                flush=True,
            )
    if _OUTPUT.value:
        results = {
            "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "norm": _NORM.value,
            "rows": rows,
        }
        Path(_OUTPUT.value).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
