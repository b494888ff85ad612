"""The record of an evaluation as tables, CSV and Markdown.

A record is what `trainers.attack_suite` fills in: plain data, as in
evaluation.json.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from stable_node_tf.attacks.norms import NORMS
from trainers import drawing
from trainers.report import dataset_title, write_rows

CERTIFIED = "certified"
_UNKNOWN = "–"
_COLUMNS = (
    *("model", "dataset", "num_images", "kind"),
    *("name", "norm", "epsilon", "figure", "value", "passed"),
)


class Curve(NamedTuple):
    """Accuracies by budget, under an attack or certified."""

    name: str
    title: str
    norm: str
    style: dict[str, Any]
    accuracies: dict[float, float]


def curves(
    record: Mapping[str, Any], names: Sequence[str] | None = None
) -> list[Curve]:
    """The curves of these attacks, or of all, and what is certified."""
    found = []
    for name in record["attacks"] if names is None else names:
        attack = record["attacks"][name]
        budgets = attack["settings"]["epsilons"]
        points = dict(zip(budgets, attack["accuracies"], strict=True))
        title, norm, style = (attack[k] for k in ("title", "norm", "style"))
        found.append(Curve(name, title, norm, style, points))
    if CERTIFIED in record:
        points = {
            point["radius"]: point["accuracy"]
            for point in record[CERTIFIED][CERTIFIED]
        }
        gray = {"color": drawing.GREY}
        found.append(Curve(CERTIFIED, CERTIFIED, "l2", gray, points))
    return found


def heading(record: dict[str, Any]) -> Text:
    """What the tables are about, in one line."""
    return Text(
        f"{record['model']}: accuracy on {record['num_images']} test images "
        f"of {dataset_title(record['dataset'])}",
        "bold",
    )


def tables(record: dict[str, Any], names: Sequence[str]) -> list[Table]:
    """A table per norm: a row for each budget, a column for each attack."""
    layouts = []
    for norm, ball in NORMS.items():
        shown = [c for c in curves(record, names) if c.norm == norm]
        if shown:
            layout = Table()
            for title in (f"ε, {ball.symbol}", *(c.title for c in shown)):
                layout.add_column(title, justify="right")
            for row in _rows(shown, "{:.2%}".format):
                layout.add_row(*row)
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
    """Writes a record as CSV: a row for every figure of attacks and checks."""
    rows: list[dict[str, Any]] = []

    def add(**row: Any) -> None:
        known = record | row
        rows.append({column: known.get(column) for column in _COLUMNS})

    for curve in curves(record):
        kind = CERTIFIED if curve.name == CERTIFIED else "attack"
        about = {"kind": kind, "name": curve.name, "norm": curve.norm}
        for epsilon, accuracy in curve.accuracies.items():
            add(**about, epsilon=epsilon, figure="accuracy", value=accuracy)
        for figure in ("zero_gradient_share", "seconds"):
            value = record["attacks"].get(curve.name, {}).get(figure)
            if value is not None:
                add(**about, figure=figure, value=value)
    for check in record.get("checks", []):
        about = {key: check[key] for key in ("name", "passed")}
        for figure, value in check["measured"].items():
            add(kind="check", **about, figure=figure, value=value)
    write_rows(rows, path)


def markdown(records: Sequence[dict[str, Any]], titles: Sequence[str]) -> str:
    """Several models beside each other, as Markdown.

    There is a table of accuracies for each norm, with a row per budget and a
    column per model and attack, and one of the checks.

    Args:
      records: evaluations with the same attacks, budgets and images.
      titles: what to call the models.

    Raises:
      ValueError: if the records do not go together.
    """
    kinds = {
        (
            record["dataset"],
            record["num_images"],
            *sorted(
                (attack["norm"], name, *attack["settings"]["epsilons"])
                for name, attack in record["attacks"].items()
            ),
        )
        for record in records
    }
    if len(kinds) != 1:
        raise ValueError(
            "The evaluations must be of one data set, with the same attacks "
            f"and budgets. Received: {sorted(map(str, kinds))}"
        )
    first = records[0]
    head = f"{dataset_title(first['dataset'])}, {first['num_images']} images"
    blocks = []
    for norm, ball in NORMS.items():
        shown = [
            curve._replace(title=f"{title}: {curve.title}")
            for record, title in zip(records, titles, strict=True)
            for curve in curves(record)
            if curve.norm == norm
        ]
        if shown:
            columns = [f"{head}, ε in {ball.symbol}", *(c.title for c in shown)]
            rows = _rows(shown, lambda share: f"{100 * share:.1f}")
            blocks.append(markdown_table(columns, rows))
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


def _rows(
    shown: Sequence[Curve], cell: Callable[[float], str]
) -> list[list[str]]:
    """A row for each budget of any curve, and a cell for each curve."""
    budgets = dict.fromkeys(e for curve in shown for e in curve.accuracies)
    return [
        [f"{epsilon:g}"]
        + [
            cell(known[epsilon]) if epsilon in known else _UNKNOWN
            for known in (curve.accuracies for curve in shown)
        ]
        for epsilon in budgets
    ]


def _verdict(record: dict[str, Any], name: str) -> str:
    for check in record.get("checks", []):
        if check["name"] == name:
            figure, value = next(iter(check["measured"].items()))
            verdict = "passed" if check["passed"] else "**failed**"
            return f"{verdict}, {figure.replace('_', ' ')} {value:.3g}"
    return _UNKNOWN
