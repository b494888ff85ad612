"""Mean and spread of several comparisons, as a Markdown table.

    python -m trainers.summarize results/seed*/mnist/results.json
    python -m trainers.summarize results/mnist/baselines/seed*/results.json
    python -m trainers.summarize results/*/evaluation.json

The files must be of the same models, trained and attacked alike but for the
seed. The spread is half the distance between the largest and the smallest
value, for several files. A second table says what the stability constraint does
at the same encoder and read-out: differences of accuracies and their standard
errors, over the seeds, or paired by image where there is one file.
Files of `trainers.evaluate` are set beside each other instead, named after
their directories; --plot=models.png draws their FGSM and PGD.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainers import attack_pictures, attack_report, command_line, effects
from trainers.report import (
    Results,
    dataset_title,
    effect_rows,
    model_title,
    points_by_epsilon,
)
from trainers.settings import Settings, setting

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


@dataclasses.dataclass(frozen=True)
class Options(Settings):
    """What is drawn besides."""

    plot: str | None = setting(
        None, "PNG file for the attacks of trainers.evaluate."
    )


def summary(results: Sequence[Results]) -> str:
    """Returns a Markdown table: a column per model, or a row if they are many.

    Raises:
      ValueError: if the comparisons differ by more than the seed.
    """
    kinds = [_choices(result) for result in results]
    differing = sorted(
        name
        for name in set().union(*kinds)
        if any(kind.get(name) != kinds[0].get(name) for kind in kinds)
    )
    if differing:
        raise ValueError(
            "The results must differ by the seed alone. "
            f"Received: different {', '.join(differing)}"
        )
    runs = list(zip(*(r["models"] for r in results), strict=True))
    titles = [model_title(models[0]["name"]) for models in runs]
    many = len(titles) > _MOST_COLUMNS
    rows: dict[str, list[str]] = {}

    def add(label: str, columns: list[list[float]], digits: int) -> None:
        rows[label] = [_spread(values, digits) for values in columns]

    clean = [[100 * m["clean_accuracy"] for m in models] for models in runs]
    add("clean accuracy, %", clean, 2)
    for key, attack in effects.ATTACKS.items():
        curves = [[points_by_epsilon(m, key) for m in ms] for ms in runs]
        for epsilon in _FEW_EPSILONS if many else _EPSILONS:
            if all(epsilon in c for cs in curves for c in cs):
                left = [[100 * c[epsilon] for c in cs] for cs in curves]
                add(f"{attack}, ε = {epsilon:g}, %", left, 1)
    for label, key, digits in _FEW_QUANTITIES if many else _QUANTITIES:
        add(label, [[m[key] for m in models] for models in runs], digits)
    corner = _seeds(results)
    if many:
        columns = zip(titles, *rows.values(), strict=True)
        return attack_report.markdown_table([corner, *rows], list(columns))
    table = [[label, *cells] for label, cells in rows.items()]
    return attack_report.markdown_table([corner, *titles], table)


def _spread(values: Sequence[float], digits: int) -> str:
    """Returns the mean, and half the range where there are several values."""
    mean, half = np.mean(values), np.ptp(values) / 2
    form = f".{digits}f" if abs(mean) < 1e6 else ".1e"
    cell = f"{round(mean, digits) + 0.0:{form}}"
    return f"{cell} ± {half:{form}}" if len(values) > 1 else cell


def effect_summary(results: Sequence[Results]) -> str:
    """Returns what the constraint does, as a Markdown table and sentences.

    Where the results hold both models of no pair, the answer is empty.
    """
    if len(results) > 1:
        found = effects.of_seeds(
            [
                {
                    model["name"]: {
                        key: points_by_epsilon(model, key)
                        for key in effects.ATTACKS
                    }
                    for model in result["models"]
                }
                for result in results
            ]
        )
    else:
        found = results[0].get("effects", [])
    head, rows = effect_rows(found)
    if not rows:
        return ""
    over = "seeds" if len(results) > 1 else "images"
    corner = f"{_seeds(results)}, points ± standard error over {over}: ε"
    title = dataset_title(results[0]["dataset"])
    return "\n\n".join(
        [
            attack_report.markdown_table([corner, *head[1:]], rows),
            *effects.sentences(found, title),
        ]
    )


def _seeds(results: Sequence[Results]) -> str:
    numbers = ", ".join(str(result["seed"]) for result in results)
    return f"seed{'s' * (len(results) > 1)} {numbers}"


def _choices(results: Results) -> dict[str, Any]:
    """All choices behind a comparison but for the seeds, by their names."""
    choices: dict[str, Any] = {
        "dataset": results["dataset"],
        "preset": results["preset"],
        "models": [model["name"] for model in results["models"]],
    }

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{name}.{key}", inner)
        elif not name.endswith(".seed"):
            choices[name] = value

    add("config", results["config"])
    add("attack", results.get("attack", {}))
    return choices


def _read(path: Path) -> dict[str, Any]:
    """What a program of this package has written to a JSON file."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON file: {error}") from error
    if not isinstance(content, dict) or not {"models", "attacks"} & set(
        content
    ):
        raise ValueError(
            f"{path} must be a results.json of trainers.compare or "
            ".baselines, or an evaluation.json of trainers.evaluate. "
            "Received: something else"
        )
    return content


@command_line.program
def main(options: Options, files: list[str]) -> None:
    """Prints the table of the files named on the command line."""
    if not files:
        raise ValueError("Name at least one results.json.")
    paths = [Path(file) for file in files]
    contents = [_read(path) for path in paths]
    if all("attacks" in content for content in contents):
        names = [path.parent.name for path in paths]
        if len(set(names)) < len(names):
            raise ValueError(
                "The directories of the evaluations must have different "
                f"names. Received: {', '.join(names)}"
            )
        titles = [model_title(name) for name in names]
        print(attack_report.markdown(contents, titles))
        if options.plot:
            records = dict(zip(names, contents, strict=True))
            attack_pictures.plot_models(records, options.plot)
    elif options.plot:
        raise ValueError("--plot is for files of trainers.evaluate.")
    else:
        try:
            results: Any = contents
            print(summary(results))
            if gained := effect_summary(results):
                print(f"\n{gained}")
        except KeyError as error:
            raise ValueError(f"The results lack {error}.") from error


if __name__ == "__main__":
    main()
