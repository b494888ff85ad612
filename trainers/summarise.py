"""Mean and spread of several comparisons, as a Markdown table.

    python -m trainers.summarise results/seed*/mnist/results.json
    python -m trainers.summarise results/mnist/rivals/seed*/results.json
    python -m trainers.summarise results/*/evaluation.json

The files must be of the same data set, preset and models. The spread is half
the distance between the largest and the smallest value, for several files.
Files of `trainers.evaluate` are set beside each other instead, named after
their directories; --plot=models.png draws their FGSM and PGD.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

from trainers import attack_pictures, attack_report, command_line
from trainers.report import Results, model_title, points_by_epsilon

_EPSILONS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2)
_QUANTITIES = (
    ("δ(A), from below", "delta_lower", 4),
    ("δ(A), from above", "delta_upper", 4),
    ("‖Δ‖ to reach δ̄", "distance_to_stable", 2),
    ("Lipschitz bound", "lipschitz_bound", 2),
    ("training, s", "training_seconds", 0),
)
# What is shown of more models than fit beside each other.
_MOST_COLUMNS = 4
_FEW_EPSILONS = (0.05, 0.1)
_FEW_QUANTITIES = (
    ("δ(A), from above", "delta_upper", 2),
    ("Lipschitz bound", "lipschitz_bound", 1),
)

_PLOT = flags.DEFINE_string(
    "plot", None, "PNG file for the attacks of trainers.evaluate."
)


def summary(results: Sequence[Results]) -> str:
    """The table as Markdown: a column per model, or a row where they are many.

    Raises:
      ValueError: if the comparisons are not of one data set, preset and set of
        models.
    """
    kinds = {
        (r["dataset"], r["preset"], tuple(m["name"] for m in r["models"]))
        for r in results
    }
    if len(kinds) != 1:
        raise ValueError(
            "The results must be of one data set, preset and set of models. "
            f"Received: {sorted(kinds)}"
        )
    runs = list(zip(*(r["models"] for r in results), strict=True))
    titles = [model_title(models[0]["name"]) for models in runs]

    def spread(values: Sequence[float], scale: float, digits: int) -> str:
        array = scale * np.asarray(values)
        mean, half = array.mean(), np.ptp(array) / 2
        form = f".{digits}f" if abs(mean) < 1e6 else ".1e"
        cell = f"{round(mean, digits) + 0.0:{form}}"
        return f"{cell} ± {half:{form}}" if len(array) > 1 else cell

    many = len(titles) > _MOST_COLUMNS
    rows = {
        "clean accuracy, %": [
            spread([m["clean_accuracy"] for m in models], 100, 2)
            for models in runs
        ]
    }
    for key, attack in (("fgsm", "FGSM"), ("pgd", "PGD-100")):
        curves = [[points_by_epsilon(m, key) for m in ms] for ms in runs]
        for epsilon in _FEW_EPSILONS if many else _EPSILONS:
            if all(epsilon in c for cs in curves for c in cs):
                rows[f"{attack}, ε = {epsilon:g}, %"] = [
                    spread([curve[epsilon] for curve in cs], 100, 1)
                    for cs in curves
                ]
    for label, key, digits in _FEW_QUANTITIES if many else _QUANTITIES:
        rows[label] = [
            spread([m[key] for m in models], 1, digits)  # type: ignore[literal-required]
            for models in runs
        ]
    corner = f"seeds {', '.join(str(r['seed']) for r in results)}"
    if many:
        columns = zip(titles, *rows.values(), strict=True)
        return attack_report.markdown_table([corner, *rows], list(columns))
    table = [[label, *cells] for label, cells in rows.items()]
    return attack_report.markdown_table([corner, *titles], table)


def main(argv: Sequence[str]) -> None:
    """Prints the table of the files named on the command line."""
    if len(argv) < 2:
        raise app.UsageError("Name at least one results.json.")
    try:
        paths = [Path(path) for path in argv[1:]]
        files = [json.loads(path.read_text()) for path in paths]
        if all("attacks" in file for file in files):
            names = [path.parent.name for path in paths]
            titles = [model_title(name) for name in names]
            print(attack_report.markdown(files, titles))
            if _PLOT.value:
                records = dict(zip(names, files, strict=True))
                attack_pictures.plot_models(records, _PLOT.value)
        elif _PLOT.value:
            raise ValueError("--plot is for files of trainers.evaluate.")
        else:
            print(summary(files))
    except (OSError, ImportError, ValueError, KeyError) as error:
        sys.exit(f"error: {error}")


def run() -> None:
    """Entry point of the command line."""
    command_line.run(main)


if __name__ == "__main__":
    run()
