"""The pictures of a comparison, as PNG files.

Matplotlib is imported only when a picture is drawn.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainers.attack_suite import TITLES
from trainers.report import (
    Results,
    atomic,
    dataset_title,
    model_title,
    points_by_epsilon,
    rounded_up,
)

# Okabe and Ito's palette, told apart under every common colour blindness.
_COLOURS = {
    "ordinary": "#D55E00",
    "stable_ode": "#CC79A7",
    "stable_network": "#0072B2",
    "fgsm_training": "#E69F00",
    "stable_network_fgsm": "#009E73",
}
_MARKERS = {
    "ordinary": "o",
    "stable_ode": "s",
    "stable_network": "D",
    "fgsm_training": "^",
    "stable_network_fgsm": "v",
}
_RIGHT, _WRONG = "#009E73", "#D55E00"
_GREY = "#6B6B6B"
_NORMS = {"linf": "ℓ∞", "l2": "ℓ2"}
_ATTACK_STYLES = {
    "fgsm": ("#E69F00", "o"),
    "pgd": ("#0072B2", "s"),
    "margin": ("#CC79A7", "D"),
    "square": ("#009E73", "^"),
    "pgd_l2": ("#0072B2", "s"),
    "margin_l2": ("#CC79A7", "D"),
}
# From light to strong attacks.
_SEQUENCE = ("#56B4E9", "#009E73", "#E69F00", "#D55E00")


def plot_accuracy(results: Results, path: str | Path) -> None:
    """Draws accuracy against attack budget as a PNG, a curve per model.

    Args:
        results: see `Results`.
        path: for example results/mnist/accuracy.png.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    figure = _figure(7.2, 4.2)
    axes = figure.add_subplot()
    _bare(axes)
    axes.set_title(
        f"{dataset_title(results['dataset'])}: test accuracy under attack, %",
        loc="left",
        fontsize=12,
    )
    axes.set_xlabel("FGSM budget ε (pixels range from 0 to 1)")
    lines = {}
    for model in results["models"]:
        x, y = np.array(sorted(points_by_epsilon(model, "fgsm").items())).T
        [line] = axes.plot(x, 100 * y, **_style(model["name"]))
        lines[model_title(model["name"])] = line
    right = max(line.get_xdata()[-1] for line in lines.values())
    axes.set(xlim=(0, right), ylim=(0, 101))
    chance = axes.axhline(10, color=_GREY, linewidth=1, linestyle=(0, (4, 3)))
    _label_lines(figure, axes, lines | {"chance": chance})
    _save(figure, path)


def plot_attacks(record: Mapping[str, Any], path: str | Path) -> None:
    """Draws accuracy under every attack against the budget, as a PNG.

    There is a panel for each norm, and in it a curve for each attack; in that
    of the 2-norm also certified accuracy, where the record has it.

    Args:
        record: of `trainers.attack_suite`.
        path: for example results/attacks.png.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    norms = {
        norm: symbol
        for norm, symbol in _NORMS.items()
        if any(a["norm"] == norm for a in record["attacks"].values())
    }
    figure = _figure(6.4 * len(norms), 4.2)
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
        _bare(axes)
        axes.set_xlabel(f"{symbol} budget ε (pixels range from 0 to 1)")
        lines = {}
        for name, attack in record["attacks"].items():
            if attack["norm"] == norm:
                colour, marker = _ATTACK_STYLES[name]
                [line] = axes.plot(
                    *_curve(attack),
                    color=colour,
                    marker=marker,
                    markersize=4,
                    linewidth=1.5,
                )
                lines[TITLES[name]] = line
        if norm == "l2" and "certified" in record:
            lines["certified:\nno attack gets\nbelow"] = _plot_certified(
                axes, record["certified"]["certified"]
            )
        right = max(line.get_xdata()[-1] for line in lines.values())
        axes.set(xlim=(0, right), ylim=(0, 101))
        lines["chance"] = axes.axhline(
            10, color=_GREY, linewidth=1, linestyle=(0, (4, 3))
        )
        labelled.append((axes, lines))
    for axes, lines in labelled:
        _label_lines(figure, axes, lines)
    _save(figure, path)


def plot_models(
    records: Mapping[str, Mapping[str, Any]], path: str | Path
) -> None:
    """Draws accuracy under FGSM and PGD, a colour for each model, as a PNG.

    Args:
        records: of `trainers.attack_suite`, by the names of the models; of the
            same images, with the attacks "fgsm" and "pgd".
        path: for example results/models.png.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if an attack is missing.
    """
    for name, record in records.items():
        if missing := {"fgsm", "pgd"} - record["attacks"].keys():
            raise ValueError(
                "Every model must have been attacked by fgsm and pgd. "
                f"Received: {name} without {', '.join(sorted(missing))}"
            )
    first = next(iter(records.values()))
    figure = _figure(8.4, 5.2)
    axes = figure.add_subplot()
    _bare(axes)
    axes.set_title(
        f"{dataset_title(first['dataset'])}: accuracy on "
        f"{first['num_images']} test images under PGD (solid) and FGSM "
        "(dashed), %",
        loc="left",
        fontsize=12,
    )
    axes.set_xlabel("ℓ∞ budget ε (pixels range from 0 to 1)")
    for name, record in records.items():
        style = _style(name)
        pgd = _curve(record["attacks"]["pgd"])
        axes.plot(*pgd, **style, label=model_title(name))
        style |= {"linestyle": (0, (4, 2)), "linewidth": 1.2, "marker": ""}
        axes.plot(*_curve(record["attacks"]["fgsm"]), **style)
    right = max(line.get_xdata()[-1] for line in axes.lines)
    axes.set(xlim=(0, right), ylim=(0, 101))
    dots = {"color": _GREY, "linewidth": 1, "linestyle": (0, (1, 2))}
    axes.axhline(10, **dots, label="chance")
    axes.legend(loc="upper right", frameon=False, labelcolor="linecolor")
    _save(figure, path)


def _curve(attack: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Budgets in ascending order, and accuracies in per cent."""
    budgets = np.array(attack["settings"]["epsilons"])
    order = np.argsort(budgets)
    return budgets[order], 100 * np.array(attack["accuracies"])[order]


def _plot_certified(axes: Any, points: Sequence[Mapping[str, float]]) -> Any:
    """Draws a certified curve, what is below it filled."""
    x, y = np.array(sorted((p["radius"], p["accuracy"]) for p in points)).T
    axes.fill_between(x, 0, 100 * y, color=_GREY, alpha=0.15, lw=0)
    [line] = axes.plot(x, 100 * y, color=_GREY, linewidth=2)
    return line


def plot_margins(
    path: str | Path, margins: Mapping[str, np.ndarray], dataset: str
) -> None:
    """Draws how the lead of the true class is distributed, as a PNG.

    Args:
        path: for example results/margins.png.
        margins: for each kind of image, clean or attacked, the logit of the
            true class minus its largest rival, of every image; two to four
            kinds fit well, in the order of attack strength.
        dataset: "mnist" or "fashion_mnist", for the title.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    figure = _figure(7.2, 4.2)
    axes = figure.add_subplot()
    _bare(axes)
    axes.set_title(
        f"{dataset_title(dataset)}: lead of the true class, share of images",
        loc="left",
        fontsize=12,
    )
    axes.set_xlabel("logit of the true class minus its largest rival")
    everything = np.concatenate(list(margins.values()))
    left, right = np.quantile(everything, [0.001, 0.999])
    width = max(right - left, 1e-6) / 60
    # One edge of a bin is zero, which separates right from wrong.
    edges = width * np.arange(np.floor(left / width), right / width + 1)
    lines = {}
    for (name, values), colour in zip(
        margins.items(), _SEQUENCE[-len(margins) :], strict=True
    ):
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        shares = counts / len(values)
        axes.stairs(shares, edges, fill=True, color=colour, alpha=0.15)
        middles = (edges[:-1] + edges[1:]) / 2
        [line] = axes.plot(
            middles,
            shares,
            color=colour,
            linewidth=1.8,
            drawstyle="steps-mid",
        )
        wrong = np.mean(values <= 0)
        lines[f"{name}\n{100 * wrong:.1f} % wrong"] = line
    axes.axvline(0, color=_GREY, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlim=(edges[0], edges[-1]))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    _label_lines(figure, axes, lines)
    _save(figure, path)


def plot_attacked_images(
    path: str | Path,
    labels: Sequence[int],
    epsilons: Sequence[float],
    attacked: Mapping[str, tuple[np.ndarray, np.ndarray]],
    class_names: Sequence[str] | None = None,
) -> None:
    """Draws attacked images and the answers to them as a PNG.

    Every model sees the images as attacked through its own gradient. A row
    of the picture is one image, with its true class at the left; there is a
    block of columns per model, and in it a column per budget.

    Args:
        path: for example results/mnist/attacked_images.png.
        labels: the true classes, n of them; three to five fit well.
        epsilons: the E budgets; four or five fit well.
        attacked: for each model name the attacked images, floats in [0, 1],
            shape (E, n, height, width, 1), and the classes the model answers,
            integers (E, n).
        class_names: names to print for the classes, by default their numbers.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if a shape does not fit.
    """
    for name, (images, answers) in attacked.items():
        expected = (len(epsilons), len(labels))
        if images.shape[:2] != expected or answers.shape != expected:
            raise ValueError(
                f"attacked must hold arrays of shape {expected} + .... "
                f"Received: {name} with {images.shape} and {answers.shape}"
            )

    def word(number: int) -> str:
        return str(number) if class_names is None else class_names[number]

    width, gap = len(epsilons), 0.15
    ratios = ([1] * width + [gap]) * len(attacked)
    figure = _figure(0.8 + 0.97 * sum(ratios), 0.55 + 1.2 * len(labels))
    grid = figure.add_gridspec(
        len(labels), len(ratios) - 1, width_ratios=ratios[:-1]
    )
    for block, (name, (images, answers)) in enumerate(attacked.items()):
        for n, label in enumerate(labels):
            for i, epsilon in enumerate(epsilons):
                axes = figure.add_subplot(grid[n, block * (width + 1) + i])
                answer = int(answers[i, n])
                right = answer == int(label)
                colour = _RIGHT if right else _WRONG
                pixels = images[i, n].reshape(images.shape[2:4])
                axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set(color=colour, linewidth=2)
                axes.set_xlabel(
                    f"{'✓' if right else '✗'} {word(answer)}",
                    color=colour,
                    fontsize=9 if len(word(answer)) > 1 else 11,
                    labelpad=3,
                )
                if n == 0:
                    head = f"{model_title(name)}\n" if i == 0 else ""
                    axes.set_title(
                        f"{head}ε = {epsilon:g}", loc="left", fontsize=11
                    )
                if block == i == 0:
                    axes.set_ylabel(
                        word(int(label)),
                        rotation=0,
                        ha="right",
                        va="center",
                        fontsize=9 if len(word(int(label))) > 1 else 11,
                    )
    _save(figure, path)


def plot_separation(
    path: str | Path,
    times: np.ndarray,
    separations: Mapping[str, np.ndarray],
    delta_upper: Mapping[str, float],
    dataset: str,
) -> None:
    """Draws how far neighbouring trajectories drift apart as a PNG.

    For each model: the median and the maximum over pairs of trajectories, and
    exp(delta_upper t), which bounds the exact flow and not a discretisation.

    Args:
        path: for example results/mnist/separation.png.
        times: increasing times, shape (k,), starting at 0.
        separations: for each model name the ratios of distances, shape
            (k, pairs), from `stable_node_tf.evaluation.separation`.
        delta_upper: for each model name an upper bound of the worst-case
            logarithmic norm.
        dataset: "mnist" or "fashion_mnist", for the title.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    from matplotlib import ticker

    figure = _figure(0.6 + 2.9 * len(separations), 3.7)
    panels = figure.subplots(1, len(separations), sharey=True, squeeze=False)
    figure.suptitle(
        f"{dataset_title(dataset)}: distance of neighbouring "
        "trajectories (1 at the start)",
        x=0.01,
        ha="left",
        fontsize=12,
    )
    labelled = []
    for axes, (name, ratios) in zip(
        panels[0], separations.items(), strict=True
    ):
        style = _style(name) | {"marker": ""}
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
        axes.set_xlabel("time t")
        axes.locator_params(axis="x", nbins=2)
        _bare(axes)
        axes.set_title(
            model_title(name), loc="left", fontsize=11, color=style["color"]
        )
    lowest, highest = panels[0, 0].get_ylim()
    digits = (1, 2, 5) if highest < 100 * lowest else (1,)
    panels[0, 0].yaxis.set_major_locator(ticker.LogLocator(subs=digits))
    panels[0, 0].yaxis.set_major_formatter("{x:g}")
    panels[0, 0].yaxis.set_minor_locator(ticker.NullLocator())
    for axes, lines in labelled:
        _label_lines(figure, axes, lines)
    _save(figure, path)


def _bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.grid(True, color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)


def _label_lines(figure: Any, axes: Any, lines: Mapping[str, Any]) -> None:
    """Writes each line's label beside it, where there is most room."""
    from matplotlib.transforms import Bbox

    figure.canvas.draw()
    paths = {line: _pixels(axes, line) for line in axes.lines}
    occupied: list[Any] = []
    for text, line in lines.items():
        label = axes.annotate(
            text,
            (0, 0),
            xycoords="figure pixels",
            color=line.get_color(),
            fontsize=10,
            va="bottom",
        )
        size = label.get_window_extent().size
        others = np.concatenate(
            [path for other, path in paths.items() if other is not line]
            + [box.corners() for box in occupied]
        )
        best, most = label.get_window_extent(), -np.inf
        for anchor in paths[line][:: max(1, len(paths[line]) // 150)]:
            for side in (1, 1), (1, -1), (-1, -1), (-1, 1), (0, 1), (0, -1):
                centre = anchor + np.multiply(side, size / 2 + 5)
                box = Bbox.from_extents(
                    *(centre - size / 2), *(centre + size / 2)
                )
                room = min(_gap(box, others), 40)
                room += 20 * min(_gap(box, paths[line]), 4)
                inside = np.all(box.min >= axes.bbox.min) and np.all(
                    box.max <= axes.bbox.max
                )
                if inside and room > most:
                    best, most = box, room
        label.xyann = axes.transAxes.inverted().transform(best.p0)
        label.anncoords = "axes fraction"
        occupied.append(best)


def _pixels(axes: Any, line: Any) -> np.ndarray:
    """Points along a line, in pixels, no further than two apart."""
    corners = line.get_transform().transform(line.get_xydata())
    steps = np.linalg.norm(np.diff(corners, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(steps)])
    fine = np.linspace(0, along[-1], 2 + int(along[-1] / 2))
    points = [np.interp(fine, along, corners[:, i]) for i in range(2)]
    return np.stack(points, axis=1)


def _gap(box: Any, points: np.ndarray) -> float:
    """The distance in pixels from a box to the nearest of the points."""
    outside = np.maximum(box.min - points, points - box.max)
    return float(np.linalg.norm(np.maximum(outside, 0), axis=1).min())


def require_matplotlib() -> None:
    """Raises ModuleNotFoundError, saying what to do, without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "Pictures need matplotlib: pip install stable_node_tf[plots]"
        )


def _figure(width: float, height: float) -> Any:
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: str | Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _style(name: str) -> dict[str, Any]:
    return {
        "color": _COLOURS.get(name, _GREY),
        "marker": _MARKERS.get(name, "o"),
        "markersize": 4,
        "linewidth": 2,
    }
