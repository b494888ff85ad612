"""Solvers against torchdiffeq, diffrax and TFP: time and error reached.

Integrates u' = σ(Au + b) on [0, 1] for a batch in float32, forwards, and
forwards and backwards (gradients with respect to u, A and b). Each library runs
in a process of its own; the processes take turns, so that all of them meet the
same disturbances, and ratios are medians over the turns. The floor is the
matrix products and activations of the same number of stages and nothing else;
"products" are the matrix products alone, those of the gradient included. "In a
loop" compares what takes its turns within one compiled program.

    pip install -r benchmarks/solvers_requirements.txt
    python benchmarks/solvers.py --output=benchmarks/solvers.json \
        --plot=docs/images/solvers.png

takes some twenty minutes on two cores. Results are written after each shape;
interrupted, the same command carries on with the next one. On a GPU (with
packages that can use it) `--device=gpu`, with `--tf32` or without.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags
from solver_libraries import (
    BUILDERS,
    LOOPED,
    STAGES,
    data,
    looped,
    reference,
    set_device,
)

_SHAPES = flags.DEFINE_list(
    "shapes", ["64x128", "64x512", "256x128", "256x512"], "d x batch."
)
_SECONDS = flags.DEFINE_float(
    "seconds", 45.0, "How long the turns of a shape go on."
)
_TURNS = flags.DEFINE_integer("turns", 5, "How many turns there are at least.")
_DEVICE = flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "Where to run.")
_TF32 = flags.DEFINE_bool("tf32", False, "TF32 in products, on a GPU.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")
_PLOT = flags.DEFINE_string("plot", None, "Picture of error against time.")
_WORKER = flags.DEFINE_string("worker", None, "Internal: be this library.")

# Timed calls of a function in a turn, after one that is not, end with either.
CALLS = 3
MILLISECONDS = 50
LIBRARIES = [name for name in BUILDERS if name != "serving"]
# XLA on and off are two ways to use the same package.
PEERS = {
    "tfp": "tfp",
    "tfp_xla": "tfp",
    "diffrax": "diffrax",
    "jax": "JAX by hand",
    "torchdiffeq": "torchdiffeq",
}


def work(library):
    """Answers requests, one a line: a shape, or "time"."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print

    def answer(value):
        print(json.dumps(value), file=answers, flush=True)

    set_device(library, _DEVICE.value, _TF32.value)
    cases = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request == "time":
            answer({name: [timed(f) for f in cases[name]] for name in cases})
            continue
        cases = BUILDERS[library](data(*request))
        exact = reference(*request)
        errors = {}
        for name, pair in cases.items():
            for function in pair:
                function()
            end = pair[0]()[0]
            error = None
            if end.shape == exact.shape and is_solve(name):
                error = float(np.abs(end - exact).max() / np.abs(exact).max())
            errors[name] = error
        answer(errors)


def timed(function):
    """Median milliseconds of a few calls in a row, after one more."""
    function()
    times = []
    while len(times) < CALLS and sum(times) < MILLISECONDS:
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times))


class Worker:
    """A library in a process of its own."""

    def __init__(self, library):
        self.library = library
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [
                *(sys.executable, __file__, f"--worker={library}"),
                *(f"--device={_DEVICE.value}", f"--tf32={_TF32.value}"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={
                **os.environ,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                # The libraries share a GPU.
                "TF_FORCE_GPU_ALLOW_GROWTH": "true",
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            },
        )

    def ask(self, request):
        print(json.dumps(request), file=self.process.stdin, flush=True)

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(
                f"The process of {self.library} has died: {self.log.read()}"
            )
        return json.loads(line)

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def compare(shape, workers, seconds):
    """Rows of one shape, with the times of all turns."""
    began = time.monotonic()
    for worker in workers:
        worker.ask(shape)
    errors = [worker.answer() for worker in workers]
    prepared = time.monotonic()
    turns = []
    while len(turns) < _TURNS.value or time.monotonic() < prepared + seconds:
        turns.append([])
        for worker in workers:
            worker.ask("time")
            turns[-1].append(worker.answer())
    rows = []
    for index, worker in enumerate(workers):
        for name, error in errors[index].items():
            times = np.array([turn[index][name] for turn in turns])
            forward, both = np.median(times, axis=0)
            rows.append(
                {
                    "d": shape[0],
                    "batch": shape[1],
                    "library": worker.library,
                    "method": name,
                    "error": error,
                    "forward_ms": forward,
                    "forward_backward_ms": both,
                    "turns_ms": times.round(4).tolist(),
                }
            )
            shown = "        " if error is None else f"{error:8.1e}"
            print(
                f"{shape[0]:4} {shape[1]:4} {worker.library:12} {name:28} "
                f"{shown} {forward:8.2f} {both:8.2f}",
                flush=True,
            )
    print(
        f"prepared in {prepared - began:.0f} s, {len(turns)} turns in "
        f"{time.monotonic() - prepared:.0f} s",
        flush=True,
    )
    return rows


def write(results, path):
    """Under a temporary name first: no half-written file is ever there."""
    temporary = Path(f"{path}.part")
    temporary.write_text(json.dumps(results) + "\n")
    temporary.replace(path)


def is_floor(method):
    """Whether a row is work that a solver cannot avoid, and not a solver.

    >>> is_floor("products, 20 stages")
    True
    """
    return method.startswith(("floor, ", "products, "))


def is_solve(method):
    """Whether a row ends with u(1), so that it has an error.

    >>> is_solve("euler, 10 steps"), is_solve("20 × euler, 10 steps")
    (True, False)
    """
    return not is_floor(method) and method not in map(looped, LOOPED)


def scheme(method):
    """Name of what a row computes, without how its gradient is taken.

    >>> scheme("dopri5 backsolve, rtol 1e-03")
    'dopri5, rtol 1e-03'
    """
    for word in (" backsolve", " adjoint", ", all kept", ", by tape"):
        method = method.replace(word, "")
    return method.replace("per sample", "dopri5")


def comparisons(rows):
    """Peers against ours: at the same scheme, at the same error, at the floor.

    Our own floors are those of the same mode, with XLA or without. Of each
    side the fastest variant counts (XLA on or off, how the gradient is taken).
    Errors below 5e-7 are rounding in float32 and count as equal, as do errors
    that are a tenth apart.
    """
    ours = [r for r in rows if r["library"].startswith("ours")]
    peers = [r for r in rows if r["library"] in PEERS]
    found = []
    for key, column in (("forward_ms", 0), ("forward_backward_ms", 1)):

        def fastest(candidates, key=key):
            return min(candidates, key=lambda row: row[key], default=None)

        def compare_with(what, peer, own, key=key, column=column):
            if peer is None or own is None:
                return
            theirs, mine = (
                np.array(row["turns_ms"])[:, column] for row in (peer, own)
            )
            found.append(
                {
                    "d": peer["d"],
                    "batch": peer["batch"],
                    "pass": key.removesuffix("_ms"),
                    "comparison": what,
                    "peer": f"{PEERS.get(peer['library'], peer['library'])}, "
                    f"{scheme(peer['method'])}",
                    "peer_variant": f"{peer['library']} {peer['method']}",
                    "ours": f"{own['library']} {own['method']}",
                    "peer_ms": peer[key],
                    "ours_ms": own[key],
                    "ratio": float(np.median(theirs / mine)),
                }
            )

        solves = [r for r in peers if r["error"] is not None]
        for peer, name in dict.fromkeys(
            (PEERS[r["library"]], scheme(r["method"])) for r in solves
        ):
            same = [
                r
                for r in solves
                if (PEERS[r["library"]], scheme(r["method"])) == (peer, name)
            ]
            best = fastest(same)
            compare_with(
                "same scheme",
                best,
                fastest(
                    r
                    for r in ours
                    if scheme(r["method"]) == name.replace(" by row", "")
                ),
            )
            as_good = max(1.1 * best["error"], 5e-7)
            compare_with(
                "same error",
                best,
                fastest(
                    r
                    for r in ours
                    if r["error"] is not None and r["error"] <= as_good
                ),
            )
        for name in map(looped, LOOPED):
            own = fastest(r for r in ours if r["method"] == name)
            for peer in peers:
                if peer["method"] == name:
                    compare_with("in a loop", peer, own)
        names = ("euler, 20 steps", "rk4, 10 steps")
        for name, stages in zip(names, STAGES, strict=True):
            solves = [r for r in ours if r["method"] == name]
            for floor in rows:
                if not is_floor(floor["method"]) or not floor[
                    "method"
                ].endswith(f" {stages} stages"):
                    continue
                own = [r for r in solves if r["library"] == floor["library"]]
                compare_with("floor", floor, fastest(own or solves))
    return found


def print_table(corner, titles, table):
    """Prints a table in Markdown; `table` is line -> title -> text."""
    print(f"\n| {corner} | {' | '.join(titles)} |")
    print("|---" * (1 + len(titles)) + "|")
    for line, cells in table.items():
        shown = (cells.get(title, "–") for title in titles)
        print(f"| {line} | {' | '.join(shown)} |")


def print_tables(rows):
    """Our times, and ratios to those of others: forward / both passes."""
    shapes = list(dict.fromkeys((r["d"], r["batch"]) for r in rows if r["d"]))
    titles = [f"{d} × {batch}" for d, batch in shapes]
    times, ratios = {}, {}
    for (d, batch), title in zip(shapes, titles, strict=True):
        here = [r for r in rows if (r["d"], r["batch"]) == (d, batch)]
        for row in here:
            if row["library"].startswith("ours"):
                xla = ", XLA" if row["library"] == "ours_xla" else ""
                times.setdefault(row["method"] + xla, {})[title] = (
                    f"{row['forward_ms']:.2f} / "
                    f"{row['forward_backward_ms']:.2f}"
                )
        for row in comparisons(here):
            line = f"{row['comparison']}: {row['peer']}"
            text = ratios.setdefault(line, {}).get(title)
            ratio = f"{row['ratio']:.2f}"
            ratios[line][title] = f"{text} / {ratio}" if text else ratio
    print_table("ours, ms", titles, dict(sorted(times.items())))
    for comparison in ("same scheme", "same error", "in a loop", "floor"):
        print_table(
            f"{comparison}: theirs / ours",
            titles,
            {
                line.removeprefix(f"{comparison}: "): cells
                for line, cells in ratios.items()
                if line.startswith(comparison)
            },
        )
    served = {
        row["method"].rsplit(", batch ", 1)[0]: {
            r["method"].rsplit(", ", 1)[1]: f"{r['forward_ms']:.2f} ms"
            for r in rows
            if r["library"] == "serving"
            and r["method"].startswith(row["method"].rsplit(", batch ", 1)[0])
        }
        for row in rows
        if row["library"] == "serving"
    }
    print_table("exported model", ["batch 1", "batch 256"], served)


def plot(rows, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shapes = list(dict.fromkeys((r["d"], r["batch"]) for r in rows if r["d"]))
    figure, axes = plt.subplots(
        2, len(shapes), figsize=(3.4 * len(shapes), 6), squeeze=False
    )
    for column, shape in enumerate(shapes):
        for line, key in enumerate(("forward_ms", "forward_backward_ms")):
            axis = axes[line][column]
            for library in BUILDERS:
                points = [
                    (row["error"], row[key])
                    for row in rows
                    if (row["d"], row["batch"]) == shape
                    and row["library"] == library
                    and row["error"] is not None
                ]
                if points:
                    marker = "o" if library.startswith("ours") else "x"
                    axis.loglog(
                        *zip(*points, strict=True),
                        marker,
                        markersize=5,
                        label=library,
                    )
            kind = "forward" if line == 0 else "forward and backward"
            axis.set_title(f"d = {shape[0]}, batch {shape[1]}, {kind}", size=8)
            axis.set_xlabel("largest error, relative", size=8)
            axis.set_ylabel("ms", size=8)
    figure.legend(
        *axes[0][0].get_legend_handles_labels(),
        loc="lower center",
        ncol=len(BUILDERS),
        fontsize=8,
    )
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=120)


def gpu_name():
    return subprocess.run(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def conditions():
    """Machine, device and versions."""
    names = "tensorflow", "keras", "tensorflow-probability", "numpy"
    names += "torch", "torchdiffeq", "jax", "diffrax"
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "machine": f"{model}, {len(os.sched_getaffinity(0))} cores",
        "device": gpu_name() if _DEVICE.value == "gpu" else "cpu",
        "tf32": _TF32.value,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def main(argv):
    del argv
    if _WORKER.value:
        work(_WORKER.value)
        return
    results = {**conditions(), "rows": []}
    if _OUTPUT.value and Path(_OUTPUT.value).exists():
        earlier = json.loads(Path(_OUTPUT.value).read_text())
        if {**earlier, "rows": []} == results:
            results = earlier
    rows = results["rows"]
    shapes = [tuple(map(int, s.split("x"))) for s in _SHAPES.value]
    for libraries, wanted, seconds in (
        (LIBRARIES, shapes, _SECONDS.value),
        (["serving"], [(0, 0)], 5.0),
    ):
        done = {(row["d"], row["batch"]) for row in rows}
        wanted = [shape for shape in wanted if shape not in done]
        workers = [Worker(library) for library in libraries if wanted]
        for shape in wanted:
            rows += compare(shape, workers, seconds)
            if _OUTPUT.value:
                write(results, _OUTPUT.value)
        for worker in workers:
            worker.stop()
    print_tables(rows)
    if _PLOT.value:
        plot(rows, _PLOT.value)


if __name__ == "__main__":
    app.run(main)
