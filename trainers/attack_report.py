"""The record of an evaluation as tables, CSV and Markdown.

A record is what `trainers.attack_suite` fills in: plain data, as in
evaluation.json.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from trainers.attack_suite import TITLES
from trainers.report import dataset_title, write_rows

_NORMS = {"linf": "ℓ∞", "l2": "ℓ2"}
_CERTIFIED = "certified"
_UNKNOWN = "–"
_COLUMNS = (
    *("model", "dataset", "num_images", "kind"),
    *("name", "norm", "epsilon", "figure", "value", "passed"),
)


def heading(record: dict[str, Any]) -> Text:
    """What the tables are about, in one line."""
    return Text(
        f"{record['model']}: accuracy on {record['num_images']} test images "
        f"of {dataset_title(record['dataset'])}",
        "bold",
    )


def tables(record: dict[str, Any], names: Sequence[str]) -> list[Table]:
    """The accuracies, a table per norm: a row per budget, a column per attack.

    Args:
      record: see above.
      names: the attacks to show.
    """
    layouts = []
    for norm, symbol in _NORMS.items():
        shown = [n for n in names if record["attacks"][n]["norm"] == norm]
        if not shown:
            continue
        layout = Table()
        layout.add_column(f"ε, {symbol}", justify="right")
        if norm == "l2" and _CERTIFIED in record:
            shown.append(_CERTIFIED)
        for name in shown:
            layout.add_column(_title(name), justify="right")
        curves = [_accuracies(record, name) for name in shown]
        for epsilon in dict.fromkeys(e for curve in curves for e in curve):
            cells = [
                f"{curve[epsilon]:.2%}" if epsilon in curve else _UNKNOWN
                for curve in curves
            ]
            layout.add_row(f"{epsilon:g}", *cells)
        layouts.append(layout)
    return layouts


def check_lines(record: dict[str, Any]) -> list[Text]:
    """The checks, a line each: green where passed, red where failed."""
    lines = []
    for check in record["checks"]:
        figures = ", ".join(
            f"{name.replace('_', ' ')} {value:.4g}"
            for name, value in check["measured"].items()
        )
        mark, style = ("✓", "green") if check["passed"] else ("✗", "bold red")
        lines.append(Text(f"{mark} {check['name']} ({figures})", style))
    return lines


def write_csv(record: dict[str, Any], path: str | Path) -> None:
    """Writes a record as CSV: a row for every figure of attacks and checks.

    Args:
      record: see above.
      path: for example results/evaluation.csv.
    """
    head = {key: record[key] for key in ("model", "dataset", "num_images")}
    rows = []
    for name, attack in record["attacks"].items():
        common = head | {
            "kind": "attack",
            "name": name,
            "norm": attack["norm"],
        }
        for epsilon, accuracy in _accuracies(record, name).items():
            rows.append(
                common
                | {"epsilon": epsilon, "figure": "accuracy", "value": accuracy}
            )
        for figure in ("zero_gradient_share", "seconds"):
            if attack[figure] is not None:
                rows.append(
                    common | {"figure": figure, "value": attack[figure]}
                )
    if _CERTIFIED in record:
        common = head | {"kind": _CERTIFIED, "name": _CERTIFIED, "norm": "l2"}
        for radius, accuracy in _accuracies(record, _CERTIFIED).items():
            rows.append(
                common
                | {"epsilon": radius, "figure": "accuracy", "value": accuracy}
            )
    for check in record.get("checks", []):
        for figure, value in check["measured"].items():
            rows.append(
                head
                | {
                    "kind": "check",
                    "name": check["name"],
                    "figure": figure,
                    "value": value,
                    "passed": check["passed"],
                }
            )
    write_rows([{c: row.get(c) for c in _COLUMNS} for row in rows], path)


def markdown(records: Sequence[dict[str, Any]], titles: Sequence[str]) -> str:
    """Several models beside each other, as Markdown.

    There is a table of accuracies for each norm, with a row per budget and a
    column per model and attack, and one of the checks.

    Args:
      records: of evaluations with the same attacks, budgets and images.
      titles: what to call the models.

    Raises:
      ValueError: if the records do not go together.
    """
    kinds = {
        (
            record["dataset"],
            record["num_images"],
            tuple(
                (attack["norm"], name, tuple(attack["settings"]["epsilons"]))
                for name, attack in sorted(record["attacks"].items())
            ),
        )
        for record in records
    }
    if len(kinds) != 1:
        raise ValueError(
            "The evaluations must be of one data set, with the same attacks "
            f"and budgets. Received: {sorted(map(str, kinds))}"
        )
    [(dataset, num_images, _)] = kinds
    head = f"{dataset_title(dataset)}, {num_images} images"
    blocks = []
    for norm, symbol in _NORMS.items():
        shown = [
            (record, title, name)
            for record, title in zip(records, titles, strict=True)
            for name in [*TITLES, _CERTIFIED]
            if record["attacks"].get(name, {}).get("norm") == norm
            or (name in record and norm == "l2")
        ]
        if shown:
            curves = [_accuracies(record, name) for record, _, name in shown]
            columns = [f"{title}: {_title(name)}" for _, title, name in shown]
            rows = [
                [f"{epsilon:g}"]
                + [
                    f"{100 * c[epsilon]:.1f}" if epsilon in c else _UNKNOWN
                    for c in curves
                ]
                for epsilon in dict.fromkeys(e for c in curves for e in c)
            ]
            blocks.append(
                markdown_table([f"{head}, ε in {symbol}", *columns], rows)
            )
    names = dict.fromkeys(
        c["name"] for r in records for c in r.get("checks", [])
    )
    if names:
        rows = [[name] + [_verdict(r, name) for r in records] for name in names]
        blocks.append(markdown_table(["check", *titles], rows))
    return "\n\n".join(blocks)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _verdict(record: dict[str, Any], name: str) -> str:
    for check in record.get("checks", []):
        if check["name"] == name:
            figure, value = next(iter(check["measured"].items()))
            verdict = "passed" if check["passed"] else "**failed**"
            return f"{verdict}, {figure.replace('_', ' ')} {value:.3g}"
    return _UNKNOWN


def _title(name: str) -> str:
    return TITLES.get(name, name)


def _accuracies(record: dict[str, Any], name: str) -> dict[float, float]:
    if name == _CERTIFIED:
        return {p["radius"]: p["accuracy"] for p in record[name][_CERTIFIED]}
    attack = record["attacks"][name]
    return dict(
        zip(attack["settings"]["epsilons"], attack["accuracies"], strict=True)
    )
