import subprocess
import sys

import numpy as np
import pytest
from figures import texts

from trainers import comparison_pictures, drawing

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def results():
    return {
        "dataset": "fashion_mnist",
        "models": [
            {
                "name": name,
                "fgsm": [
                    {
                        "epsilon": epsilon,
                        "accuracy": float(0.98 * np.exp(-steepness * epsilon)),
                    }
                    for epsilon in (0.0, 0.05, 0.1, 0.3)
                ],
            }
            for name, steepness in (
                ("ordinary", 40),
                ("stable_ode", 30),
                ("stable_network", 9),
            )
        ],
    }


def overlap(one, other):
    a, b = one.get_window_extent(), other.get_window_extent()
    return a.overlaps(b)


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_accuracy_curves_are_labelled_where_they_are(
    results, monkeypatch, dataset
):
    results["dataset"] = dataset
    figure, found = texts(
        monkeypatch,
        lambda: comparison_pictures.plot_accuracy(results, "unused"),
    )
    [axes] = figure.axes
    assert axes.get_title(loc="left").startswith(
        {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}[dataset]
    )
    labels = [
        found[name]
        for name in (
            "ordinary",
            "stable ODE (only A)",
            "stable network",
            "chance",
        )
    ]
    for i, label in enumerate(labels):
        box = label.get_window_extent()
        assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
        assert axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
        assert not any(overlap(label, other) for other in labels[:i])
        for line in axes.lines:
            assert drawing._gap(box, drawing._pixels(axes, line)) > 0
    plotted = [
        100 * point["accuracy"] for point in results["models"][2]["fgsm"]
    ]
    np.testing.assert_allclose(axes.lines[2].get_ydata(), plotted)


def attacked_grid():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(3, 2, 28, 28, 1))
    return images, np.array([[4, 7], [4, 1], [9, 1]])


def test_attacked_images_show_answers(monkeypatch):
    attacked = {
        name: attacked_grid() for name in ("ordinary", "stable_network")
    }
    figure, _ = texts(
        monkeypatch,
        lambda: comparison_pictures.plot_attacked_images(
            "unused", [4, 7], [0, 0.1, 0.2], attacked
        ),
    )
    assert len(figure.axes) == 12
    answers = [axes.get_xlabel() for axes in figure.axes[:6]]
    assert answers == ["✓ 4", "✓ 4", "✗ 9", "✓ 7", "✗ 1", "✗ 1"]
    assert [axes.get_ylabel() for axes in figure.axes[:6:3]] == ["4", "7"]
    heads = [axes.get_title(loc="left") for axes in figure.axes[::6]]
    assert heads == ["ordinary\nε = 0", "stable network\nε = 0"]
    np.testing.assert_array_equal(
        figure.axes[4].images[0].get_array(), attacked_grid()[0][1, 1, ..., 0]
    )


def test_attacked_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="attacked must hold"):
        comparison_pictures.plot_attacked_images(
            "unused", [4], [0, 0.1, 0.2], {"ordinary": attacked_grid()}
        )


def separations():
    times = np.linspace(0, 1, 6)
    rates = np.linspace(-1, 0.2, 9)
    return times, {
        "ordinary": np.exp(times[:, None] * (rates + 2)),
        "stable_network": np.exp(times[:, None] * rates),
    }


def test_separation_shows_median_maximum_and_bound(monkeypatch):
    times, ratios = separations()
    figure, found = texts(
        monkeypatch,
        lambda: comparison_pictures.plot_separation(
            "unused",
            times,
            ratios,
            {"ordinary": 3.0, "stable_network": 0.25},
            "mnist",
        ),
    )
    assert "bound for the exact\nflow, exp(0.2500 t)" in found
    assert "largest of 9" in found and "median" in found
    for axes, rate, bound in zip(figure.axes, (2, 0), (3, 0.25), strict=True):
        dotted, largest, median = (line.get_ydata() for line in axes.lines)
        np.testing.assert_allclose(dotted, np.exp(bound * times))
        np.testing.assert_allclose(largest, np.exp((rate + 0.2) * times))
        np.testing.assert_allclose(median, np.exp((rate - 0.4) * times))


def test_pictures_are_written_alike_twice(results, tmp_path):
    times, ratios = separations()
    deltas = dict.fromkeys(ratios, 0.2)
    written = []
    for _ in range(2):
        comparison_pictures.plot_accuracy(results, tmp_path / "accuracy.png")
        comparison_pictures.plot_attacked_images(
            tmp_path / "images.png",
            [4, 7],
            [0, 0.1, 0.2],
            {"ordinary": attacked_grid()},
            [f"class {i}" for i in range(10)],
        )
        comparison_pictures.plot_separation(
            tmp_path / "separation.png", times, ratios, deltas, "mnist"
        )
        written.append({p.name: p.read_bytes() for p in tmp_path.iterdir()})
    assert sorted(written[0]) == [
        "accuracy.png",
        "images.png",
        "separation.png",
    ]
    assert all(content.startswith(PNG) for content in written[0].values())
    assert written[0] == written[1]


def test_without_matplotlib(results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"stable_node_tf\[plots\]"):
        comparison_pictures.plot_accuracy(results, tmp_path / "accuracy.png")
    assert list(tmp_path.iterdir()) == []


def test_imports_without_matplotlib():
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.modules['matplotlib'] = None; "
            "from trainers import attack_pictures, comparison_pictures",
        ],
        check=True,
    )
