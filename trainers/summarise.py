"""Mean and spread of several comparisons, as a Markdown table.

    python -m trainers.summarise results/seed*/mnist/results.json
    python -m trainers.summarise results/*/evaluation.json

The files must be of the same data set and preset. The spread is half the
distance between the largest and the smallest value, for several files. Files
of `trainers.evaluate` are set beside each other instead, named after their
directories.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app

from trainers import attack_report, command_line
from trainers.report import Results, model_title, points_by_epsilon

_EPSILONS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2)


def summary(results: Sequence[Results]) -> str:
    """The table, a column per model, as Markdown.

    Raises:
      ValueError: if the comparisons are not of one data set and preset.
    """
    kinds = {(r["dataset"], r["preset"]) for r in results}
    if len(kinds) != 1:
        raise ValueError(
            "The results must be of one data set and one preset. "
            f"Received: {sorted(kinds)}"
        )
    runs = list(zip(*(r["models"] for r in results), strict=True))
    titles = [model_title(models[0]["name"]) for models in runs]

    def spread(values: Sequence[float], scale: float, digits: int) -> str:
        array = scale * np.asarray(values)
        mean, half = array.mean(), np.ptp(array) / 2
        cell = f"{round(mean, digits) + 0.0:.{digits}f}"
        return f"{cell} ± {half:.{digits}f}" if len(array) > 1 else cell

    lines = [
        f"| seeds {', '.join(str(r['seed']) for r in results)} | "
        + " | ".join(titles)
        + " |",
        "|---" * (len(titles) + 1) + "|",
    ]

    def add(label: str, cells: Sequence[str]) -> None:
        lines.append(f"| {label} | " + " | ".join(cells) + " |")

    add(
        "clean accuracy, %",
        [
            spread([m["clean_accuracy"] for m in models], 100, 2)
            for models in runs
        ],
    )
    for epsilon in _EPSILONS:
        add(
            f"FGSM, ε = {epsilon:g}, %",
            [
                spread(
                    [points_by_epsilon(m, "fgsm")[epsilon] for m in models],
                    100,
                    1,
                )
                for models in runs
            ],
        )
    for label, key, digits in (
        ("δ(A), from below", "delta_lower", 4),
        ("δ(A), from above", "delta_upper", 4),
        ("‖Δ‖ to reach δ̄", "distance_to_stable", 2),
        ("Lipschitz bound", "lipschitz_bound", 2),
        ("training, s", "training_seconds", 0),
    ):
        add(
            label,
            [
                spread([m[key] for m in models], 1, digits)  # type: ignore[literal-required]
                for models in runs
            ],
        )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Prints the table of the files named on the command line."""
    if len(argv) < 2:
        raise app.UsageError("Name at least one results.json.")
    try:
        paths = [Path(path) for path in argv[1:]]
        files = [json.loads(path.read_text()) for path in paths]
        if all("attacks" in file for file in files):
            names = [model_title(path.parent.name) for path in paths]
            print(attack_report.markdown(files, names))
        else:
            print(summary(files))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"error: {error}")


def run() -> None:
    """Entry point of the command line."""
    command_line.run(main)


if __name__ == "__main__":
    run()
