"""The pictures of evaluations under attack, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stable_node_tf.attacks.norms import NORMS
from trainers import drawing
from trainers.report import dataset_title, model_title

# From light to strong attacks.
_SEQUENCE = ("#56B4E9", "#009E73", "#E69F00", "#D55E00")


def plot_attacks(record: Mapping[str, Any], path: str | Path) -> None:
    """Draws accuracy under every attack against the budget, as a PNG.

    There is a panel for each norm, and in it a curve for each attack; in that
    of the 2-norm also certified accuracy, where the record has it.

    Args:
        record: what `trainers.attack_suite` fills in.
        path: for example results/attacks.png.
    """
    norms = {
        norm: ball.symbol
        for norm, ball in NORMS.items()
        if any(a["norm"] == norm for a in record["attacks"].values())
    }
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
    for axes, (norm, symbol) in zip(panels, norms.items(), strict=True):
        drawing.bare(axes)
        axes.set_xlabel(f"{symbol} budget ε (pixels range from 0 to 1)")
        lines = {}
        for attack in record["attacks"].values():
            if attack["norm"] == norm:
                [line] = axes.plot(
                    *_curve(attack),
                    **attack["style"],
                    markersize=4,
                    linewidth=1.5,
                )
                lines[attack["title"]] = line
        if norm == "l2" and "certified" in record:
            lines["certified:\nno attack gets\nbelow"] = _plot_certified(
                axes, record["certified"]["certified"]
            )
        right = max(line.get_xdata()[-1] for line in lines.values())
        axes.set(xlim=(0, right), ylim=(0, 101))
        lines["chance"] = axes.axhline(
            10, color=drawing.GREY, linewidth=1, linestyle=(0, (4, 3))
        )
        labelled.append((axes, lines))
    for axes, lines in labelled:
        drawing.label_lines(figure, axes, lines)
    drawing.save(figure, path)


def plot_models(
    records: Mapping[str, Mapping[str, Any]], path: str | Path
) -> None:
    """Draws accuracy under FGSM and PGD, a color for each model, as a PNG.

    Args:
        records: what `trainers.attack_suite` fills in, by the names of the
            models; of the same images, with the attacks "fgsm" and "pgd".
        path: for example results/models.png.
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
        pgd = _curve(record["attacks"]["pgd"])
        axes.plot(*pgd, **style, label=model_title(name))
        style |= {"linestyle": (0, (4, 2)), "linewidth": 1.2, "marker": ""}
        axes.plot(*_curve(record["attacks"]["fgsm"]), **style)
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
        margins: for each kind of image, clean or attacked, the logit of the
            true class minus its largest rival, of every image; two to four
            kinds fit well, in the order of attack strength.
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


def _curve(attack: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Budgets in ascending order, and accuracies in per cent."""
    budgets = np.array(attack["settings"]["epsilons"])
    order = np.argsort(budgets)
    return budgets[order], 100 * np.array(attack["accuracies"])[order]


def _plot_certified(axes: Any, points: Sequence[Mapping[str, float]]) -> Any:
    """Draws a certified curve, what is below it filled."""
    x, y = np.array(sorted((p["radius"], p["accuracy"]) for p in points)).T
    axes.fill_between(x, 0, 100 * y, color=drawing.GREY, alpha=0.15, lw=0)
    [line] = axes.plot(x, 100 * y, color=drawing.GREY, linewidth=2)
    return line
