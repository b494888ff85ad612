"""Results as JSON, CSV and a terminal table.

Everything here takes plain data and writes or returns something to look at;
nothing is computed. Files are written under a temporary name and renamed, so
that a file of results is always a complete one.
"""

import contextlib
import csv
import decimal
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from rich import table as rich_table

from trainers import effects


class AccuracyPoint(TypedDict):
    """Accuracy, a share in [0, 1], under an attack with one budget."""

    epsilon: float
    accuracy: float


class ModelResult(TypedDict):
    """What is known about one trained model.

    Accuracies are shares in [0, 1]. `delta_lower` and `delta_upper` enclose
    the worst-case logarithmic norm of A, `delta_bar` is the bound it was
    trained under (None if free), `pgd` is the accuracy under the stronger of
    two runs for each image, `certified` is from
    `trainers.measurement.certified_points` (None if no bound is known), and
    `distance_to_stable` is the Frobenius norm of the smallest change found
    that would bring A under the bound.
    """

    name: str
    clean_accuracy: float
    fgsm: list[AccuracyPoint]
    pgd: list[AccuracyPoint]
    saved_model_fgsm: list[AccuracyPoint]
    certified: dict[str, Any] | None
    delta_lower: float
    delta_upper: float
    delta_bar: float | None
    lipschitz_bound: float | None
    lipschitz_bound_holds_for: str
    distance_to_stable: float
    encoder_norm: float
    readout_norm: float
    training_seconds: float
    steps: int
    zero_gradient_share: float


class Results(TypedDict):
    """One comparison: the content of results.json."""

    dataset: str
    preset: str
    seed: int
    config: dict[str, Any]
    attack: dict[str, Any]
    versions: dict[str, str]
    machine: str
    models: list[ModelResult]
    effects: list[effects.Effect]


_TITLES = {
    "ordinary": "ordinary",
    "stable_ode": "stable ODE (only A)",
    "bounded_ends": "bounded ends (A free)",
    "stable_network": "stable network",
    "mu_inf_penalty": "μ∞ penalty on A",
    "shift": "shift A − cI",
    "spectral_norm": "bound on the norm of A",
    "gaussian_noise": "Gaussian noise",
    "fgsm_training": "FGSM training",
    "stable_network_fgsm": "stable network, FGSM training",
}
_DATASETS = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
_SHOWN_RADII = (0.1, 0.3, 0.5, 1.0)
_CURVES = ("fgsm", "pgd", "saved_model_fgsm")
_SCALARS = [
    name
    for name in ModelResult.__annotations__
    if name not in ("name", "certified", *_CURVES)
]


def write_json(results: Results, path: str | Path) -> None:
    """Writes results as JSON; numpy numbers and arrays are welcome.

    Args:
        results: see `Results`.
        path: for example results/mnist/results.json.

    Raises:
        ValueError: if a number is NaN or infinite, which JSON cannot say.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = Path(directory, "results.json")
        ...     write_json({"seed": np.int64(0)}, path)
        ...     json.loads(path.read_text())
        {'seed': 0}
    """
    try:
        text = json.dumps(results, indent=2, allow_nan=False, default=_plain)
    except ValueError as error:
        raise ValueError(
            f"results must hold finite numbers only. Received: {error}"
        ) from error
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_csv(results: Results, path: str | Path) -> None:
    """Writes results as CSV, one row per model.

    The columns are dataset, preset, seed, name, the numbers of `ModelResult`
    and one column per budget, `fgsm_EPSILON`, `pgd_EPSILON`,
    `saved_model_fgsm_EPSILON` and `certified_RADIUS`. A number that is not
    known is an empty field.

    Args:
        results: see `Results`.
        path: for example results/mnist/results.csv.
    """
    rows = []
    for model in results["models"]:
        row: dict[str, Any] = {
            "dataset": results["dataset"],
            "preset": results["preset"],
            "seed": results["seed"],
            "name": model["name"],
        }
        row |= {name: model.get(name) for name in _SCALARS}
        for prefix in _CURVES:
            for epsilon, accuracy in points_by_epsilon(model, prefix).items():
                row[f"{prefix}_{epsilon:g}"] = accuracy
        for radius, accuracy in certified_by_radius(model).items():
            row[f"certified_{radius:g}"] = accuracy
        rows.append(row)
    write_rows(rows, path)


def write_rows(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Writes rows as CSV; what a row does not have is an empty field.

    Args:
        rows: by the names of the columns, which come in the order in which the
            rows name them first.
        path: for example results/mnist/results.csv.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic(path) as temporary:
        temporary.write_text(stream.getvalue(), encoding="utf-8")


def table(results: Results) -> rich_table.Table:
    """Lays results out for the terminal: a column per model.

    Args:
        results: see `Results`.

    Returns:
        A table for `rich.print`, at most 80 characters wide.
    """
    models = results["models"]
    layout = rich_table.Table(
        title=f"{dataset_title(results['dataset'])}, "
        f"preset {results['preset']}, seed {results['seed']}",
        title_style="bold",
    )
    layout.add_column("", no_wrap=True)
    for model in models:
        layout.add_column(model_title(model["name"]), justify="right")

    def add(label: str, cells: Sequence[str], style: str = "") -> None:
        layout.add_row(label, *cells, style=style)

    add("clean accuracy", [_percent(m["clean_accuracy"]) for m in models])
    for key, attack in effects.ATTACKS.items():
        layout.add_section()
        curves = [points_by_epsilon(model, key) for model in models]
        for epsilon in _budgets(models):
            cells = [_percent(curve.get(epsilon)) for curve in curves]
            add(f"{attack}, ε = {epsilon:g}", cells)
    layout.add_section()
    proven = [certified_by_radius(model) for model in models]
    for radius in _SHOWN_RADII:
        cells = [_percent(curve.get(radius)) for curve in proven]
        add(f"certified, ℓ2 {radius:g}", cells)
    layout.add_section()
    add("SavedModel differs", [_disagreement(m) for m in models])
    add("zero gradients", [_percent(m["zero_gradient_share"]) for m in models])
    layout.add_section()
    add("δ(A), from below", [rounded_down(m["delta_lower"]) for m in models])
    add("δ(A), from above", [rounded_up(m["delta_upper"]) for m in models])
    add("δ̄ in training", [_number(m["delta_bar"]) for m in models])
    add("‖Δ‖ to reach δ̄", [_number(m["distance_to_stable"]) for m in models])
    add("‖encoder‖₂", [_number(m["encoder_norm"]) for m in models])
    add("‖read-out‖₂", [_number(m["readout_norm"]) for m in models])
    add("Lipschitz bound", [rounded_up(m["lipschitz_bound"]) for m in models])
    layout.add_section()
    add("training", [f"{m['training_seconds']:.0f} s" for m in models])
    add("steps", [f"{m['steps']:d}" for m in models])
    claims = dict.fromkeys(m["lipschitz_bound_holds_for"] for m in models)
    layout.caption = "Lipschitz bound of the " + "; ".join(claims)
    return layout


def effect_table(results: Results) -> rich_table.Table:
    """Lays out what the stability constraint does, a row per budget.

    Args:
        results: see `Results`.

    Returns:
        A table for `rich.print`, at most 80 characters wide.
    """
    layout = rich_table.Table(
        title="What the stability constraint alone does, in points",
        title_style="bold",
        caption="accuracy with δ(A) bounded minus accuracy with A free; "
        "± standard error, paired by image",
    )
    head, rows = effect_rows(results["effects"])
    for column in head:
        layout.add_column(column, justify="right")
    for row in rows:
        layout.add_row(*row)
    return layout


def effect_rows(
    found: Sequence[effects.Effect],
) -> tuple[list[str], list[list[str]]]:
    """Effects as the cells of a table: its head, and a row per budget.

    Args:
        found: in points; budgets under which not all attacks were run are left
            out.
    """
    columns: dict[tuple[str, str], dict[float, str]] = {}
    for effect in found:
        column = columns.setdefault((effect["ends"], effect["attack"]), {})
        column[effect["epsilon"]] = effects.points(effect)
    head = ["ε"] + [
        f"ends {ends}: {effects.ATTACKS[attack]}" for ends, attack in columns
    ]
    shared = set.intersection(*map(set, columns.values())) if columns else set()
    return head, [
        [f"{epsilon:g}", *(column[epsilon] for column in columns.values())]
        for epsilon in sorted(shared)
    ]


def model_title(model: str) -> str:
    """How tables and pictures call a model."""
    return _TITLES.get(model, model)


def dataset_title(name: str) -> str:
    """How tables and pictures call a data set."""
    return _DATASETS.get(name, name)


def points_by_epsilon(model: ModelResult, key: str) -> dict[float, float]:
    """A curve of `results.json` as a dictionary from budget to accuracy."""
    points: list[AccuracyPoint] = model.get(key) or []  # type: ignore[assignment]
    return {point["epsilon"]: point["accuracy"] for point in points}


def certified_by_radius(model: ModelResult) -> dict[float, float]:
    """Certified accuracy as a dictionary from radius to accuracy."""
    curve = model.get("certified") or {"certified": []}
    return {p["radius"]: p["accuracy"] for p in curve["certified"]}


def _budgets(models: Sequence[ModelResult]) -> list[float]:
    """The budgets, but for zero, under which every attack was run."""
    curves = [
        points_by_epsilon(model, key)
        for key in effects.ATTACKS
        for model in models
    ]
    return sorted(set.intersection(*map(set, curves)) - {0.0})


def _disagreement(model: ModelResult) -> str:
    memory, saved = (
        points_by_epsilon(model, "fgsm"),
        points_by_epsilon(model, "saved_model_fgsm"),
    )
    both = memory.keys() & saved.keys()
    if not both:
        return "–"
    return f"{100 * max(abs(memory[e] - saved[e]) for e in both):.2f} points"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def rounded_down(value: float | None) -> str:
    """Four decimals, rounded downwards: a lower bound stays one."""
    return _rounded(value, decimal.ROUND_FLOOR)


def rounded_up(value: float | None) -> str:
    """Four decimals, rounded upwards: an upper bound stays one."""
    return _rounded(value, decimal.ROUND_CEILING)


def _rounded(value: float | None, direction: str) -> str:
    """Four decimals, rounded so that a bound stays a bound."""
    if value is None:
        return "–"
    exact = decimal.Decimal(repr(float(value)))
    rounded = exact.quantize(decimal.Decimal("1e-4"), rounding=direction)
    return f"{abs(rounded) if rounded.is_zero() else rounded:f}"


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(
        f"results must hold plain data. Received: {type(value).__name__}"
    )


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path that takes the place of `path` at the end."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
