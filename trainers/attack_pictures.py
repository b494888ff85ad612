"""The pictures of evaluations under attack, as PNG files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stable_node_tf.attacks.norms import NORMS
from trainers import attack_report, drawing
from trainers.report import dataset_title, model_title

# From light to strong attacks.
_SEQUENCE = ("#56B4E9", "#009E73", "#E69F00", "#D55E00")


def plot_attacks(record: Mapping[str, Any], path: str | Path) -> None:
    """Draws accuracy under every attack against the budget, as a PNG.

    There is a panel for each norm, and in it a curve for each attack; in that
    of the 2-norm also certified accuracy, where the record has it.
    """
    shown = attack_report.curves(record)
    norms = [norm for norm in NORMS if any(c.norm == norm for c in shown)]
    figure = drawing.new_figure(6.4 * len(norms), 4.2)
    figure.suptitle(
        f"{dataset_title(record['dataset'])}: accuracy on "
        f"{record['num_images']} test images under attack, %",
        x=0.01,
        ha="left",
        fontsize=12,
    )
    panels = figure.subplots(1, len(norms), sharey=True, squeeze=False)[0]
    labelled = []
    for axes, norm in zip(panels, norms, strict=True):
        drawing.bare(axes)
        symbol = NORMS[norm].symbol
        axes.set_xlabel(f"{symbol} budget ε (pixels range from 0 to 1)")
        lines = {}
        for curve in shown:
            if curve.norm == norm:
                x, y = _points(curve)
                style = {"markersize": 4, "linewidth": 1.5} | curve.style
                [line] = axes.plot(x, y, **style)
                title = curve.title
                if curve.name == attack_report.CERTIFIED:
                    gray = {"color": drawing.GREY, "alpha": 0.15}
                    axes.fill_between(x, 0, y, **gray, linewidth=0)
                    title += ":\nno attack gets\nbelow"
                lines[title] = line
        right = max(line.get_xdata()[-1] for line in lines.values())
        axes.set(xlim=(0, right), ylim=(0, 101))
        lines["chance"] = axes.axhline(
            100 / record.get("num_classes", 10),
            color=drawing.GREY,
            linewidth=1,
            linestyle=(0, (4, 3)),
        )
        labelled.append((axes, lines))
    for axes, lines in labelled:
        drawing.label_lines(figure, axes, lines)
    drawing.save(figure, path)


def plot_models(
    records: Mapping[str, Mapping[str, Any]], path: str | Path
) -> None:
    """Draws accuracy under FGSM and PGD, a color for each model, as a PNG.

    The records, by the names of the models, must be of the same images.
    """
    for name, record in records.items():
        if missing := {"fgsm", "pgd"} - record["attacks"].keys():
            raise ValueError(
                "Every model must have been attacked by fgsm and pgd. "
                f"Received: {name} without {', '.join(sorted(missing))}"
            )
    first = next(iter(records.values()))
    figure, axes = drawing.one_panel(
        8.4,
        5.2,
        f"{dataset_title(first['dataset'])}: accuracy on "
        f"{first['num_images']} test images under PGD (solid) and FGSM "
        "(dashed), %",
    )
    axes.set_xlabel("ℓ∞ budget ε (pixels range from 0 to 1)")
    for name, record in records.items():
        style = drawing.style_of(name) | {"linestyle": "-"}
        pgd, fgsm = attack_report.curves(record, ["pgd", "fgsm"])[:2]
        axes.plot(*_points(pgd), **style, label=model_title(name))
        style |= {"linestyle": (0, (4, 2)), "linewidth": 1.2, "marker": ""}
        axes.plot(*_points(fgsm), **style)
    right = max(line.get_xdata()[-1] for line in axes.lines)
    axes.set(xlim=(0, right), ylim=(0, 101))
    dots = {"color": drawing.GREY, "linewidth": 1, "linestyle": (0, (1, 2))}
    axes.axhline(10, **dots, label="chance")
    axes.legend(loc="upper right", frameon=False, labelcolor="linecolor")
    drawing.save(figure, path)


def plot_margins(
    path: str | Path, margins: Mapping[str, np.ndarray], dataset: str
) -> None:
    """Draws how the lead of the true class is distributed, as a PNG.

    Args:
        path: for example results/margins.png.
        margins: `evaluation.margins` of each kind of image, clean or attacked;
            at most four kinds, in the order of attack strength.
        dataset: name of the data set, for the title.
    """
    figure, axes = drawing.one_panel(
        7.2,
        4.2,
        f"{dataset_title(dataset)}: lead of the true class, share of images",
    )
    axes.set_xlabel("logit of the true class minus its largest rival")
    everything = np.concatenate(list(margins.values()))
    left, right = np.quantile(everything, [0.001, 0.999])
    width = max(right - left, 1e-6) / 60
    # One edge of a bin is zero, which separates right from wrong.
    edges = width * np.arange(np.floor(left / width), right / width + 1)
    lines = {}
    for (name, values), color in zip(
        margins.items(), _SEQUENCE[-len(margins) :], strict=True
    ):
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        shares = counts / len(values)
        axes.stairs(shares, edges, fill=True, color=color, alpha=0.15)
        middles = (edges[:-1] + edges[1:]) / 2
        [line] = axes.plot(
            middles,
            shares,
            color=color,
            linewidth=1.8,
            drawstyle="steps-mid",
        )
        wrong = np.mean(values <= 0)
        lines[f"{name}\n{100 * wrong:.1f} % wrong"] = line
    axes.axvline(0, color=drawing.GREY, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlim=(edges[0], edges[-1]))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    drawing.label_lines(figure, axes, lines)
    drawing.save(figure, path)


def _points(curve: attack_report.Curve) -> np.ndarray:
    """Budgets in ascending order, and accuracies in per cent."""
    budgets, accuracies = np.array(sorted(curve.accuracies.items())).T
    return np.array([budgets, 100 * accuracies])
