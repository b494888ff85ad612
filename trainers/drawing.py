"""What all pictures share: their figures, and how lines are told apart.

Matplotlib is imported only when a picture is drawn.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stable_node_tf.files import atomic

# Okabe and Ito's palette, told apart under every common color blindness.
_STYLES = {
    "ordinary": ("#D55E00", "o"),
    "stable_ode": ("#CC79A7", "s"),
    "bounded_ends": ("#000000", "X"),
    "stable_network": ("#0072B2", "D"),
    "fgsm_training": ("#E69F00", "^"),
    "stable_network_fgsm": ("#009E73", "v"),
}
# A is free in these: told from the others without colors too.
_DASHED = ("ordinary", "bounded_ends")
_DASHES = (0, (3, 1.2))
_APART = 6  # pixels between labels and the frame
# What belongs to no model is gray.
GREY = "#6B6B6B"


def require_matplotlib() -> None:
    """Raises ModuleNotFoundError, saying what to do, without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "Pictures need matplotlib: pip install stable_node_tf[plots]"
        )


def new_figure(width: float, height: float, title: str = "") -> Any:
    """Returns an empty Matplotlib figure, in inches, without a window."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure


def one_panel(width: float, height: float, title: str) -> tuple[Any, Any]:
    """Returns a figure with one panel under a title, and the panel's axes."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    bare(axes)
    axes.set_title(title, loc="left", fontsize=12)
    return figure, axes


def save(figure: Any, path: str | Path) -> None:
    """Writes a figure as a PNG; `path` is never half-written."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def style_of(name: str) -> dict[str, Any]:
    """How the line of a model is drawn, as arguments of `Axes.plot`."""
    color, marker = _STYLES.get(name, (GREY, "o"))
    return {
        "color": color,
        "marker": marker,
        "markersize": 5 if marker == "X" else 4,
        "linestyle": _DASHES if name in _DASHED else "-",
        "linewidth": 2,
    }


def bare(axes: Any) -> None:
    """Leaves axes with a frame at left and below, and horizontal lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.grid(True, color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)


def label_lines(figure: Any, axes: Any, lines: Mapping[str, Any]) -> None:
    """Writes each line's label beside it, where there is most room.

    Args:
        figure: the whole one, drawn already but for labels.
        axes: those of the lines.
        lines: the Matplotlib lines by their labels.
    """
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
                center = anchor + np.multiply(side, size / 2 + 5)
                box = Bbox.from_extents(
                    *(center - size / 2), *(center + size / 2)
                )
                room = min(_gap(box, others), 40)
                room += 20 * min(_gap(box, paths[line]), 4)
                inside = np.all(box.min >= axes.bbox.min + _APART) and np.all(
                    box.max <= axes.bbox.max - _APART
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
