"""How far apart the proven ends of the worst-case logarithmic norm are.

    python benchmarks/log_norm_gap.py --output=benchmarks/log_norm_gap.json

Matrices: standard normal / √d, numpy's default_rng(seed); skew-symmetric ones,
the hardest; and what was trained, out of saved_models/. The lower end is set
beside the best of a search from ten times as many starts, which tells whether a
gap is one of the search or of the relaxation.
"""

import json
import os
import platform
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from absl import app, flags

from stable_node_tf import worst_case_log_norm
from stable_node_tf.files import write_json

_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
_SIZES = flags.DEFINE_list("sizes", ["16", "32", "64", "128"], "Dimensions d.")
_ALPHAS = flags.DEFINE_list("alphas", ["0.1", "0.5"], "Smallest slopes.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Matrices of each kind.", 1)
_ZOO = flags.DEFINE_string("saved_models", "saved_models", "Trained models.")


def drawn():
    """Yields (kind, d, alpha, matrices)."""
    for size in map(int, _SIZES.value):
        normal = [
            np.random.default_rng(seed).standard_normal((size, size))
            / np.sqrt(size)
            for seed in range(_SEEDS.value)
        ]
        for alpha in map(float, _ALPHAS.value):
            yield "Gaussian", size, alpha, normal
            yield "skew", size, alpha, [(A - A.T) / 2 for A in normal]


def trained():
    """Yields (name, d, alpha, [the square kernel of the neural ODE])."""
    for path in sorted(Path(_ZOO.value).glob("*/results.json")):
        recipe = json.loads(path.read_text())["recipe"]
        if "delta_bar" not in recipe:  # certified ones bound Euler's steps
            continue
        weights = tf.train.load_checkpoint(
            str(path.parent / "1" / "variables" / "variables")
        )
        shapes = weights.get_variable_to_shape_map()
        for key in sorted(shapes):
            shape = shapes[key]
            if len(shape) == 2 and shape[0] == shape[1]:
                kernel = weights.get_tensor(key)
                yield path.parent.name, shape[0], recipe["alpha"], [kernel]


def gap(matrix, alpha):
    """The gap and what a longer search adds, in % of |A|₂; the gap of δ⁺.

    The last is NaN where δ⁺ is almost zero.
    """
    norm = np.linalg.norm(matrix, 2)
    bracket = worst_case_log_norm(matrix, alpha)
    longer = worst_case_log_norm(matrix, alpha, starts=2560, seed=1)
    return (
        100 * (bracket.upper - bracket.lower) / norm,
        100 * max(longer.lower - bracket.lower, 0.0) / norm,
        100 * (bracket.upper - bracket.lower) / abs(bracket.upper)
        if abs(bracket.upper) > 0.01 * norm
        else np.nan,
    )


def spelt(values):
    """The smallest and the largest of some percentages."""
    if np.isnan(values).any():
        return "–"
    ends = sorted({f"{values.min():.2f}", f"{values.max():.2f}"}, key=float)
    return " to ".join(ends)


def main(argv):
    del argv
    rows = []
    print("| matrix | d | α | gap / δ⁺, % | gap / ‖A‖₂, % | longer search, % |")
    print("|---|---|---|---|---|---|")
    for source in (drawn(), trained()):
        for name, size, alpha, matrices in source:
            gaps = np.array([gap(matrix, alpha) for matrix in matrices])
            rows.append(
                {
                    "matrix": name,
                    "d": size,
                    "alpha": alpha,
                    "of_norm_percent": gaps[:, 0].tolist(),
                    "longer_search_percent": gaps[:, 1].tolist(),
                    "of_upper_percent": [
                        None if np.isnan(value) else value
                        for value in gaps[:, 2].tolist()
                    ],
                }
            )
            spread = " | ".join(map(spelt, gaps[:, [2, 0, 1]].T))
            print(f"| {name} | {size} | {alpha:g} | {spread} |", flush=True)
    if _OUTPUT.value:
        results = {
            "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
            "tensorflow": tf.__version__,
            "rows": rows,
        }
        write_json(results, _OUTPUT.value)


if __name__ == "__main__":
    app.run(main)
