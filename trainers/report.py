"""Results as JSON, CSV and terminal tables: plain data in, nothing computed.

A file of results is always a complete one.
"""

import csv
import decimal
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import table as rich_table

from stable_node_tf.files import atomic
from trainers import effects
from trainers.data import datasets

Results = Mapping[str, Any]  # the content of results.json
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
_SCALARS = (
    *("clean_accuracy", "delta_lower", "delta_upper", "delta_bar"),
    *("lipschitz_bound", "lipschitz_bound_holds_for", "distance_to_stable"),
    *("encoder_norm", "readout_norm", "training_seconds", "steps"),
    "zero_gradient_share",
)


def read_json(path: Path, expected: Results) -> dict[str, Any]:
    """Returns what a JSON file holds, if it holds what is expected.

    Where there is no such file, or an item differs, the answer is empty.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    same = isinstance(found, dict) and all(
        found.get(key) == value for key, value in expected.items()
    )
    return found if same else {}


def write_csv(results: Results, path: str | Path) -> None:
    """Writes results as CSV, one row per model.

    The columns are dataset, preset, seed, name, the numbers known of a model,
    and one column per budget, `fgsm_EPSILON`, `pgd_EPSILON`,
    `saved_model_fgsm_EPSILON` and `certified_RADIUS`. A number that is not
    known is an empty field.
    """
    rows = []
    for model in results["models"]:
        row = {key: results[key] for key in ("dataset", "preset", "seed")}
        row |= {name: model.get(name) for name in ("name", *_SCALARS)}
        for prefix in _CURVES:
            for epsilon, accuracy in points_by_epsilon(model, prefix).items():
                row[f"{prefix}_{epsilon:g}"] = accuracy
        for radius, accuracy in certified_by_radius(model).items():
            row[f"certified_{radius:g}"] = accuracy
        rows.append(row)
    write_rows(rows, path)


def write_rows(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Writes rows as CSV; columns come in the order in which rows name them."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic(path) as temporary:
        temporary.write_text(stream.getvalue(), encoding="utf-8")


def table(results: Results) -> rich_table.Table:
    """Lays results out for the terminal, a column per model, 80 wide."""
    models = results["models"]
    layout = rich_table.Table(
        title=f"{dataset_title(results['dataset'])}, "
        f"preset {results['preset']}, seed {results['seed']}",
        title_style="bold",
    )
    layout.add_column("", no_wrap=True)
    for model in models:
        layout.add_column(model_title(model["name"]), justify="right")

    def add(label: str, cells: Sequence[str]) -> None:
        layout.add_row(label, *cells)

    add("clean accuracy", [_percent(m["clean_accuracy"]) for m in models])
    curves = {
        key: [points_by_epsilon(model, key) for model in models]
        for key in effects.ATTACKS
    }
    budgets = set.intersection(*(set(c) for cs in curves.values() for c in cs))
    for key, attack in effects.ATTACKS.items():
        layout.add_section()
        for epsilon in sorted(budgets - {0.0}):
            cells = [_percent(curve[epsilon]) for curve in curves[key]]
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
    for label, key, form in (
        ("δ(A), from below", "delta_lower", rounded_down),
        ("δ(A), from above", "delta_upper", rounded_up),
        ("δ̄ in training", "delta_bar", _number),
        ("‖Δ‖ to reach δ̄", "distance_to_stable", _number),
        ("‖encoder‖₂", "encoder_norm", _number),
        ("‖read-out‖₂", "readout_norm", _number),
        ("Lipschitz bound", "lipschitz_bound", rounded_up),
    ):
        add(label, [form(model[key]) for model in models])
    layout.add_section()
    add("training", [f"{m['training_seconds']:.0f} s" for m in models])
    add("steps", [f"{m['steps']:d}" for m in models])
    claims = dict.fromkeys(m["lipschitz_bound_holds_for"] for m in models)
    layout.caption = "Lipschitz bound of the " + "; ".join(claims)
    return layout


def effect_table(results: Results) -> rich_table.Table:
    """Lays out what the stability constraint does, a row per budget."""
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
    """Returns effects in points as the head and the rows of a table.

    Budgets under which not all attacks were run are left out.
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
    """Returns what tables and pictures call a model."""
    return _TITLES.get(model, model)


def dataset_title(name: str) -> str:
    """Returns what tables and pictures call a data set."""
    return _DATASETS.get(name) or datasets.title(name)


def points_by_epsilon(model: Results, key: str) -> dict[float, float]:
    """Returns a curve of `results.json` as accuracy by budget."""
    return {p["epsilon"]: p["accuracy"] for p in model.get(key) or []}


def certified_by_radius(model: Results) -> dict[float, float]:
    """Returns certified accuracy by radius, nothing if no bound is known."""
    curve = model.get("certified") or {"certified": []}
    return {p["radius"]: p["accuracy"] for p in curve["certified"]}


def _disagreement(model: Results) -> str:
    memory = points_by_epsilon(model, "fgsm")
    saved = points_by_epsilon(model, "saved_model_fgsm")
    both = memory.keys() & saved.keys()
    if not both:
        return "–"
    return f"{100 * max(abs(memory[e] - saved[e]) for e in both):.2f} points"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def rounded_down(value: float | None) -> str:
    """Rounds downwards to four decimals: a lower bound stays one."""
    return _rounded(value, decimal.ROUND_FLOOR)


def rounded_up(value: float | None) -> str:
    """Rounds upwards to four decimals: an upper bound stays one."""
    return _rounded(value, decimal.ROUND_CEILING)


def _rounded(value: float | None, direction: str) -> str:
    if value is None:
        return "–"
    exact = decimal.Decimal(repr(float(value)))
    rounded = exact.quantize(decimal.Decimal("1e-4"), rounding=direction)
    return f"{abs(rounded) if rounded.is_zero() else rounded:f}"
