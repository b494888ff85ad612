r"""Times what comes before training runs: imports, building, the first step.

    python benchmarks/first_step.py --quick
    python benchmarks/first_step.py --output=benchmarks/first_step.json

784 -> d -> d -> 10, Adam, batches of 128. Every model is built in fresh
processes, which take turns with those of the same model with a dense layer in
the middle; the ratios are those of the medians. Each process then builds the
same model once more. CPU seconds are those of all threads, and vary less than
the others where something else runs.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BATCH = 128
MODELS = {
    "dense": None,
    "euler, free": {"solver": "euler"},
    "euler": {"solver": "euler", "delta_bar": 0.0},
    "euler, discrete": {
        "solver": "euler",
        "delta_bar": 0.0,
        "discrete": True,
    },
    "rk4, free": {"solver": "rk4"},
    "rk4": {"solver": "rk4", "delta_bar": 0.0},
}
BUILDS = ("dense", "euler")


class Clock:
    """Seconds and CPU seconds since the last look at it."""

    def __init__(self):
        self.last = self.now()

    def now(self):
        return time.perf_counter(), time.process_time()

    def lap(self):
        last, self.last = self.last, self.now()
        return [now - then for now, then in zip(self.last, last, strict=True)]


def in_this_process(name, size, steps):
    """Seconds and CPU seconds of each part, as a dictionary."""
    clock, parts = Clock(), {}
    import keras
    import numpy as np

    parts["import keras"] = clock.lap()
    import stable_node_tf

    parts["import stable_node_tf"] = clock.lap()

    rng = np.random.default_rng(0)
    images = rng.random((BATCH, 784), dtype=np.float32)
    labels = rng.integers(10, size=BATCH)
    for turn in ("", "second "):
        keras.utils.set_random_seed(0)
        clock.lap()
        arguments = MODELS[name]
        if arguments is None:
            middle = keras.layers.Dense(size, "relu")
        else:
            middle = stable_node_tf.StableODELayer(**arguments)
        model = keras.Sequential(
            [
                keras.Input((784,)),
                keras.layers.Dense(size),
                middle,
                keras.layers.Dense(10),
            ]
        )
        model.compile(
            keras.optimizers.Adam(1e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        parts[f"{turn}build"] = clock.lap()
        if not steps:
            return parts
        model.train_on_batch(images, labels)
        parts[f"{turn}first step"] = clock.lap()
    laps = []
    for _ in range(steps):
        clock.lap()
        model.train_on_batch(images, labels)
        laps.append(clock.lap())
    parts["step"] = [
        statistics.median(values) for values in zip(*laps, strict=True)
    ]
    return parts


def in_fresh_processes(names, size, steps, repeats):
    """Medians of each part for each model, whose processes take turns."""
    runs = {name: [] for name in names}
    for _ in range(repeats):
        for name, found in runs.items():
            words = [sys.executable, __file__, f"--worker={name}"]
            words += [f"--size={size}", f"--steps={steps}"]
            printed = subprocess.run(
                words, check=True, capture_output=True, text=True
            ).stdout
            found.append(json.loads(printed.splitlines()[-1]))
    return {
        name: {
            part: [
                statistics.median(values)
                for values in zip(*(run[part] for run in found), strict=True)
            ]
            for part in found[0]
        }
        for name, found in runs.items()
    }


def row_of(name, size, parts, dense):
    """A line of the table."""
    row = {"model": name, "d": size}
    for part, (seconds, cpu) in parts.items():
        row[part] = {"seconds": seconds, "cpu_seconds": cpu}
        if name != "dense":
            row[part]["ratio"] = seconds / dense[part][0]
            row[part]["cpu_ratio"] = cpu / dense[part][1]
    print(f"\n{name}, d = {size}")
    for part in parts:
        values = row[part]
        print(
            f"  {part:22} {values['seconds']:8.3f} s",
            f"{values['cpu_seconds']:8.3f} s CPU",
            *(
                f"{values[ratio]:7.2f} ×"
                for ratio in ("ratio", "cpu_ratio")
                if ratio in values
            ),
            flush=True,
        )
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", help="JSON file to write")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--size", type=int, default=64, help="d of the steps")
    parser.add_argument(
        "--builds",
        type=int,
        nargs="*",
        default=[256, 512, 1024],
        help="sizes d at which models are built only",
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(
            json.dumps(
                in_this_process(options.worker, options.size, options.steps)
            )
        )
        return
    if options.quick:
        options.repeats, options.steps, options.builds = 1, 5, [64]
    plans = [(options.models, options.size, options.steps)]
    plans += [(BUILDS, size, 0) for size in options.builds]
    rows = []
    for names, size, steps in plans:
        names = dict.fromkeys(("dense", *names))
        found = in_fresh_processes(names, size, steps, options.repeats)
        for name, parts in found.items():
            rows.append(row_of(name, size, parts, found["dense"]))
    if options.output:
        import keras
        import tensorflow as tf

        results = {
            "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "repeats": options.repeats,
            "rows": rows,
        }
        Path(options.output).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
