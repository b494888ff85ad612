"""The picture of a sweep over δ̄, as a PNG file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainers import drawing
from trainers.report import dataset_title, points_by_epsilon

STAGES = {
    "replaced": "A replaced by A + Δ",
    "readout_trained": "read-out trained again",
}
_SHOWN = {
    0.02: {"color": "#56B4E9", "marker": "o", "linestyle": "-"},
    0.04: {"color": "#009E73", "marker": "s", "linestyle": "--"},
    0.06: {"color": "#E69F00", "marker": "^", "linestyle": "-."},
    0.1: {"color": "#D55E00", "marker": "v", "linestyle": ":"},
}


def plot_delta_sweep(results: Mapping[str, Any], path: str | Path) -> None:
    """Draws accuracy against δ̄, falling from left to right, as a PNG.

    There is a panel for each stage: A replaced, and the read-out trained again;
    in each a curve for the clean images and for some budgets of FGSM.

    Args:
        results: the content of sweep.json.
        path: where the picture goes.
    """
    figure = drawing.new_figure(
        8.8,
        3.9,
        f"{dataset_title(results['recipe']['dataset'])}: test accuracy of a "
        "trained network that is stabilized, %",
    )
    panels = figure.subplots(1, 2, sharey=True)
    steps = results["steps"]
    bounds = [step["delta_bar"] for step in steps]
    labelled = []
    for axes, (stage, title) in zip(panels, STAGES.items(), strict=True):
        clean = [100 * step[stage]["clean_accuracy"] for step in steps]
        [line] = axes.plot(
            bounds, clean, color="black", marker="D", markersize=4, linewidth=2
        )
        lines = {"no attack": line}
        for epsilon, style in _SHOWN.items():
            accuracies = [
                100 * points_by_epsilon(step[stage], "fgsm")[epsilon]
                for step in steps
            ]
            [line] = axes.plot(
                bounds, accuracies, **style, markersize=4, linewidth=2
            )
            lines[f"FGSM, ε = {epsilon:g}"] = line
        axes.set(xlim=(max(bounds), min(bounds)), ylim=(0, 101))
        axes.set_xlabel("bound δ̄ on the logarithmic norm (left: that of A)")
        axes.set_title(title, loc="left", fontsize=11)
        drawing.bare(axes)
        labelled.append((axes, lines))
    for axes, lines in labelled:
        drawing.label_lines(figure, axes, lines)
    drawing.save(figure, path)
