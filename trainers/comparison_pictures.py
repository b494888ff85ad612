"""The pictures of a comparison, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainers import drawing, effects
from trainers.report import (
    Results,
    certified_by_radius,
    dataset_title,
    model_title,
    points_by_epsilon,
    rounded_up,
)

_LITTLE = 0.03  # where curves are cut off
_RIGHT, _WRONG = "#009E73", "#D55E00"


def plot_accuracy(results: Results, path: str | Path, guessing: float) -> None:
    """Draws accuracy under attack, and what is proven, a curve per model.

    There is a panel for FGSM, one for PGD, and one for certified accuracy
    where any is known. They end where all curves of a norm are close to 0.

    Args:
        results: the content of results.json.
        path: where the picture goes.
        guessing: the accuracy of a guess, which a dotted line shows.
    """
    models = results["models"]
    panels = [
        (
            f"under {title}",
            "ℓ∞ budget ε (pixels from 0 to 1)",
            [points_by_epsilon(model, key) for model in models],
        )
        for key, title in effects.ATTACKS.items()
    ]
    proven = [certified_by_radius(model) for model in models]
    if any(proven):
        unit = "ℓ2 budget ε (norm of the change)"
        panels.append(("certified: under any attack", unit, proven))
    figure = drawing.new_figure(
        0.6 + 2.9 * len(panels),
        3.9,
        f"{dataset_title(results['dataset'])}: right answers, %",
    )
    figure.get_layout_engine().set(wspace=0.05)
    lines = {}
    axes_of = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, unit, curves) in zip(axes_of, panels, strict=True):
        drawing.bare(axes)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel(unit)
        little = []
        for model, curve in zip(models, curves, strict=True):
            name, style = model["name"], drawing.style_of(model["name"])
            if max(curve.values(), default=0.0) > _LITTLE:
                x, y = np.array(sorted(curve.items())).T
                [line] = axes.plot(x, 100 * y, **style)
                lines[model_title(name)] = line
            elif curve:
                little.append((model_title(name), style["color"]))
        _list_below(axes, f"below {100 * _LITTLE:g} %:", little)
        alike = [c for _, other, cs in panels if other == unit for c in cs]
        axes.set(xlim=(0, _end(alike)), ylim=(0, 101))
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.axhline(
            100 * guessing,
            color=drawing.GREY,
            linewidth=1,
            linestyle=(0, (1, 2)),
        )
    axes_of[0].annotate(
        "guessing",
        (0, 100 * guessing),
        xycoords=("axes fraction", "data"),
        xytext=(4, 2),
        textcoords="offset points",
        color=drawing.GREY,
        fontsize=9,
    )
    figure.legend(
        lines.values(),
        lines,
        loc="outside lower left",
        ncols=len(lines),
        frameon=False,
        labelcolor="linecolor",
        handlelength=3.2,
        fontsize=10,
    )
    drawing.save(figure, path)


def _list_below(axes: Any, head: str, names: Sequence[tuple[str, str]]) -> None:
    """Writes names in their colors into the upper right corner, if any."""
    for row, (text, color) in enumerate([(head, drawing.GREY), *names]):
        if names:
            axes.annotate(
                text,
                (1, 1),
                xycoords="axes fraction",
                xytext=(-4, -4 - 13 * row),
                textcoords="offset points",
                ha="right",
                va="top",
                color=color,
                fontsize=10,
            )


def _end(curves: Sequence[Mapping[float, float]]) -> float:
    """Where all curves are close to 0, or as far as they go."""
    left = {x for c in curves for x, share in c.items() if share > _LITTLE}
    beyond = {x for c in curves for x in c if x > max(left, default=0.0)}
    return min(beyond) if beyond else max(left)


def plot_attacked_images(
    path: str | Path,
    labels: Sequence[int] | np.ndarray,
    epsilons: Sequence[float],
    attacked: Mapping[str, tuple[np.ndarray, np.ndarray]],
    dataset: str,
    class_names: Sequence[str],
) -> None:
    """Draws attacked images and the answers to them as a PNG.

    Every model sees the images as attacked through its own gradient. A row
    of the picture is one image, with its true class at the left; there is a
    block of columns per model, and in it a column per budget.

    Args:
        path: where the picture goes.
        labels: the true classes, n of them; three to five fit well.
        epsilons: the E budgets; four or five fit well.
        attacked: for each model name the attacked images, floats in [0, 1],
            shape (E, n, height, width, channels), and the classes the model
            answers, integers (E, n).
        dataset: what the title names.
        class_names: a name for each class.
    """
    width, gap = len(epsilons), 0.15
    ratios = ([1] * width + [gap]) * len(attacked)
    figure = drawing.new_figure(
        0.8 + 0.97 * sum(ratios),
        0.85 + 1.2 * len(labels),
        f"{dataset_title(dataset)} under FGSM, through each model's own "
        "gradient, and its answers",
    )
    grid = figure.add_gridspec(
        len(labels), len(ratios) - 1, width_ratios=ratios[:-1]
    )
    for block, (name, (images, answers)) in enumerate(attacked.items()):
        for n, label in enumerate(labels):
            for i, epsilon in enumerate(epsilons):
                axes = figure.add_subplot(grid[n, block * (width + 1) + i])
                answer = int(answers[i, n])
                right = answer == int(label)
                color = _RIGHT if right else _WRONG
                axes.imshow(images[i, n], cmap="gray", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set(color=color, linewidth=2)
                axes.set_xlabel(
                    f"{'✓' if right else '✗'} {class_names[answer]}",
                    color=color,
                    fontsize=9 if len(class_names[answer]) > 1 else 11,
                    labelpad=3,
                )
                if n == 0:
                    head = f"{model_title(name)}\n" if i == 0 else ""
                    axes.set_title(
                        f"{head}ε = {epsilon:g}", loc="left", fontsize=11
                    )
                if block == i == 0:
                    axes.set_ylabel(
                        class_names[label],
                        rotation=0,
                        ha="right",
                        va="center",
                        fontsize=9 if len(class_names[label]) > 1 else 11,
                    )
    drawing.save(figure, path)


def plot_separation(
    path: str | Path,
    times: np.ndarray,
    separations: Mapping[str, np.ndarray],
    delta_upper: Mapping[str, float],
    dataset: str,
) -> None:
    """Draws how far neighboring trajectories drift apart as a PNG.

    For each model: the median and the maximum over pairs of trajectories, and
    exp(delta_upper t), which bounds the exact flow and not a discretization.

    Args:
        path: where the picture goes.
        times: increasing times, shape (k,), starting at 0.
        separations: for each model name the ratios of distances, shape
            (k, pairs), from `stable_node_tf.evaluation.accuracy.separation`.
        delta_upper: for each model name an upper bound of the worst-case
            logarithmic norm.
        dataset: what the title names.
    """
    from matplotlib import ticker

    rows = -(-len(separations) // 2)
    figure = drawing.new_figure(
        8.0,
        0.6 + 2.9 * rows,
        f"{dataset_title(dataset)}: distance of neighboring "
        "trajectories (1 at the start)",
    )
    panels = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
    labelled = []
    for axes, (name, ratios) in zip(
        panels.flat[: len(separations)], separations.items(), strict=True
    ):
        style = drawing.style_of(name) | {"marker": "", "linestyle": "-"}
        largest, median = ratios.max(axis=1), np.median(ratios, axis=1)
        bound = np.exp(delta_upper[name] * times)
        axes.fill_between(
            times, median, largest, color=style["color"], alpha=0.15, lw=0
        )
        [dotted] = axes.plot(
            times, bound, **style | {"linestyle": (0, (1, 1.5))}
        )
        [thick] = axes.plot(times, largest, **style)
        [thin] = axes.plot(times, median, **style | {"linewidth": 1})
        delta = rounded_up(delta_upper[name])
        lines = {
            f"bound for the exact\nflow, exp({delta} t)": dotted,
            f"largest of {ratios.shape[1]}": thick,
            "median": thin,
        }
        labelled.append((axes, lines))
        axes.set(yscale="log", xlim=(times[0], times[-1]))
        axes.set_xlabel("time t" if axes in panels[-1] else "")
        axes.locator_params(axis="x", nbins=2)
        drawing.bare(axes)
        axes.set_title(
            model_title(name), loc="left", fontsize=11, color=style["color"]
        )
    for axes in panels.flat[len(separations) :]:
        axes.set_visible(False)
    lowest, highest = panels[0, 0].get_ylim()
    digits = (1, 2, 5) if highest < 100 * lowest else (1,)
    panels[0, 0].yaxis.set_major_locator(ticker.LogLocator(subs=digits))
    panels[0, 0].yaxis.set_major_formatter("{x:g}")
    panels[0, 0].yaxis.set_minor_locator(ticker.NullLocator())
    for axes, lines in labelled:
        drawing.label_lines(figure, axes, lines)
    drawing.save(figure, path)
