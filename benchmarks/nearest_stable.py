"""Nearest stable matrices: ours, two SDP solvers and the paper's method.

    python benchmarks/nearest_stable.py --quick
    python benchmarks/nearest_stable.py --output benchmarks/nearest_stable.json

All times are of one run on one machine: compare them as ratios. Each solver
gets the same matrices, standard normal / √d. CLARABEL and SCS solve the
semidefinite program of `project_certified` through cvxpy; their time is the
solver's own, setup included, without cvxpy's modelling, which the column
`wall` includes. SCS runs at the first tolerance at which its matrix, moved
into the certified set as ours is in the end, by a multiple of the identity, is
as near as ours to 1e-4. Ours is the whole call, checks, certificate and lower
bound included, at its default tolerance.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import cvxpy
import numpy as np
import tensorflow as tf

from benchmarks.paper_method import two_level
from stable_node_tf.stability.log_norm import (
    certified_log_norm,
    worst_case_log_norm,
)
from stable_node_tf.stability.projection.certified_projection import (
    Problem,
    project_certified,
)
from stable_node_tf.stability.projection.nearest import nearest_stable


def gaussian(size, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((size, size)) / np.sqrt(size)


def semidefinite_programme(matrix, delta_bar, alpha):
    """The program that both SDP solvers are given."""
    size = len(matrix)
    middle, radius = (1 + alpha) / 2, (1 - alpha) / 2
    B, t = cvxpy.Variable((size, size)), cvxpy.Variable(size)
    eye = np.eye(size)
    corner = delta_bar * eye - middle * (B + B.T) / 2
    corner -= radius / 2 * cvxpy.diag(t)
    low = np.sqrt(radius / 2) * B
    block = cvxpy.bmat([[corner, low.T], [low, cvxpy.diag(t)]])
    problem = cvxpy.Problem(
        cvxpy.Minimize(cvxpy.sum_squares(B - matrix)),
        [(block + block.T) / 2 >> 0],
    )
    return problem, B, t


def solve_sdp(matrix, delta_bar, alpha, solver, **options):
    """B, t, and the solver's time without and with cvxpy's."""
    problem, B, t = semidefinite_programme(matrix, delta_bar, alpha)
    start = time.perf_counter()
    problem.solve(solver=solver, **options)
    wall = time.perf_counter() - start
    stats = problem.solver_stats
    seconds = stats.solve_time + (stats.setup_time or 0.0)
    return B.value, t.value, seconds, wall


def certified_distance(matrix, B, t, delta_bar, alpha):
    """‖Δ‖ of B - cI with the least c for which T + cI proves δ̄ (theory.md)."""
    t = np.maximum(t, 1e-9)
    eye = np.eye(len(B))
    shift = max(0.0, certified_log_norm(B, alpha, t) - delta_bar) / alpha
    low, high = 0.0, shift
    for _ in range(40):
        middle = (low + high) / 2
        value = certified_log_norm(B - middle * eye, alpha, t + middle)
        low, high = (middle, high) if value > delta_bar else (low, middle)
    return np.linalg.norm(B - high * eye - matrix)


def fastest(function, repeats):
    """The result and the least of several wall-clock times, in seconds."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return result, min(times)


def row(name, matrix, B, seconds, delta_bar, alpha, **more):
    bracket = worst_case_log_norm(B, alpha)
    entry = dict(
        method=name,
        size=len(matrix),
        alpha=alpha,
        delta_bar=delta_bar,
        distance=float(np.linalg.norm(B - matrix)),
        delta_lower=bracket.lower,
        delta_upper=bracket.upper,
        seconds=seconds,
        **more,
    )
    print(
        f"{entry['size']:5d} {name:10s} {entry['distance']:10.5f} "
        f"{entry['delta_lower'] - delta_bar:+11.2e} "
        f"{entry['delta_upper'] - delta_bar:+11.2e} {seconds:10.4f} "
        + " ".join(f"{key}={value:.5g}" for key, value in more.items()),
        flush=True,
    )
    return entry


def compare(size, delta_bar, alpha, methods, repeats):
    matrix = gaussian(size)
    rows = []

    def add(name, B, seconds, **more):
        more["ratio"] = seconds / rows[0]["seconds"] if rows else 1.0
        rows.append(row(name, matrix, B, seconds, delta_bar, alpha, **more))

    result, seconds = fastest(
        lambda: nearest_stable(matrix, delta_bar, alpha), repeats
    )
    add(
        "ours",
        result.matrix,
        seconds,
        lower_bound=result.distance_lower_bound,
    )
    if "clarabel" in methods:
        B, _, seconds, wall = solve_sdp(matrix, delta_bar, alpha, "CLARABEL")
        add("clarabel", B, seconds, wall=wall)
    if "scs" in methods:
        for eps in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8):
            B, t, seconds, wall = solve_sdp(
                matrix, delta_bar, alpha, "SCS", eps=eps, max_iters=100_000
            )
            reached = certified_distance(matrix, B, t, delta_bar, alpha)
            if reached < result.distance * (1 + 1e-4):
                break
        add("scs", B, seconds, wall=wall, eps=eps, certified=reached)
    if "paper" in methods:
        start = time.perf_counter()
        found = two_level(matrix, delta_bar, alpha)
        add("paper", found.matrix, time.perf_counter() - start)
    return rows


def where_the_time_goes(size, delta_bar, alpha, repeats):
    """Steps of ADMM, their time, and the floor that LAPACK sets."""
    matrix = gaussian(size)
    projection, seconds = fastest(
        lambda: project_certified(
            Problem(matrix, delta_bar, alpha), 1e-4, 1000
        ),
        repeats,
    )
    block = np.block([[matrix, matrix.T], [matrix, matrix]])
    _, decomposition = fastest(
        lambda: np.linalg.eigh(block + block.T), 3 * repeats
    )
    _, whole = fastest(
        lambda: nearest_stable(matrix, delta_bar, alpha), repeats
    )
    entry = dict(
        size=size,
        seconds=whole,
        iteration_seconds=seconds,
        eigendecompositions=projection.steps,
        eigendecomposition_seconds=decomposition,
        floor_seconds=projection.steps * decomposition,
    )
    print(
        f"{size:5d} {whole:9.4f} {seconds:9.4f} {projection.steps:6d} "
        f"{decomposition * 1e3:9.3f} {entry['floor_seconds']:9.4f} "
        f"{entry['floor_seconds'] / whole:7.2f}",
        flush=True,
    )
    return entry


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line for line in file if line.startswith("model name")]
    return dict(
        processor=models[0].split(":")[1].strip() if models else "unknown",
        cores=os.cpu_count(),
        load=os.getloadavg()[0],
        python=platform.python_version(),
        numpy=np.__version__,
        tensorflow=tf.__version__,
        cvxpy=cvxpy.__version__,
        solvers=cvxpy.installed_solvers(),
    )


def plot(growth, path):
    import matplotlib.pyplot as plt

    sizes = [entry["size"] for entry in growth]
    figure, axes = plt.subplots(figsize=(5, 4))
    for key, label in (
        ("seconds", "nearest_stable"),
        ("floor_seconds", "its eigendecompositions"),
    ):
        axes.loglog(sizes, [entry[key] for entry in growth], "o-", label=label)
    axes.set_xticks(sizes, sizes)
    axes.minorticks_off()
    axes.set_xlabel("d")
    axes.set_ylabel("seconds")
    axes.legend()
    axes.grid(True, alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="d <= 16 only")
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--delta_bar", type=float, default=0.2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", help="JSON file to write")
    parser.add_argument("--plot", help="picture of the growth with d to write")
    flags = parser.parse_args()

    setting = machine()
    print(json.dumps(setting))
    print("\n    d method       distance  lower-δ̄     upper-δ̄      seconds")
    sizes = (4, 8, 16) if flags.quick else (4, 8, 16, 32, 40, 64)
    comparison = []
    for size in sizes:
        methods = (
            ["clarabel", "scs", "paper"] if size <= 40 else ["scs", "paper"]
        )
        comparison += compare(
            size, flags.delta_bar, flags.alpha, methods, flags.repeats
        )
    print("\n    d   seconds iteration  eighs  ms/eigh     floor  floor/s")
    sizes = (16, 32) if flags.quick else (16, 32, 64, 128, 256, 512)
    growth = [
        where_the_time_goes(
            size,
            flags.delta_bar,
            flags.alpha,
            flags.repeats if size < 256 else 1,
        )
        for size in sizes
    ]
    if flags.output:
        path = pathlib.Path(flags.output)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(
            json.dumps(
                dict(machine=setting, comparison=comparison, growth=growth),
                indent=1,
            )
        )
        temporary.replace(path)
    if flags.plot:
        plot(growth, flags.plot)


if __name__ == "__main__":
    main()
