import subprocess
import sys

import numpy as np
import pytest
from figures import texts

from trainers import comparison_pictures, drawing

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def results():
    def curve(steepness, epsilons, key="epsilon"):
        return [
            {key: e, "accuracy": float(0.98 * np.exp(-steepness * e))}
            for e in epsilons
        ]

    return {
        "dataset": "fashion_mnist",
        "models": [
            {
                "name": name,
                "fgsm": curve(steepness, (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)),
                "pgd": curve(2 * steepness, (0.0, 0.05, 0.1, 0.2)),
                "certified": {
                    "certified": curve(steepness / 4, (0.0, 1.0, 2.5), "radius")
                },
            }
            for name, steepness in (
                ("ordinary", 30),
                ("stable_ode", 27),
                ("bounded_ends", 25),
                ("stable_network", 22),
            )
        ],
    }


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_accuracy_has_a_panel_for_each_attack_and_one_for_proofs(
    results, monkeypatch, dataset
):
    results["dataset"] = dataset
    ordinary, stable_ode = results["models"][:2]
    for point in ordinary["certified"]["certified"]:
        point["accuracy"] = 0.0
    stable_ode["certified"] = None
    figure, found = texts(
        monkeypatch,
        lambda: comparison_pictures.plot_accuracy(results, "unused", 0.1),
    )
    title = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}[dataset]
    assert any(text.startswith(f"{title}: right answers") for text in found)
    fgsm, pgd, proven = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "under FGSM",
        "under PGD-100",
        "certified: under any attack",
    ]
    assert "ℓ∞" in fgsm.get_xlabel() and "ℓ2" in proven.get_xlabel()
    listed = [text.get_text() for text in proven.texts]
    assert listed == ["below 3 %:", "ordinary"]  # not what is not known
    # Up to where next to nothing is left of any curve.
    assert [axes.get_xlim()[1] for axes in figure.axes] == [0.2, 0.2, 1.0]
    assert [len(axes.lines) for axes in figure.axes] == [5, 5, 3]
    guessing = found["guessing"].get_window_extent()
    for line in fgsm.lines[:4]:
        assert drawing._gap(guessing, drawing._pixels(fgsm, line)) > 0
    plotted = [100 * p["accuracy"] for p in results["models"][3]["pgd"]]
    np.testing.assert_allclose(pgd.lines[3].get_ydata(), plotted)
    for label in (
        "ordinary",
        "stable ODE (only A)",
        "bounded ends (A free)",
        "stable network",
    ):
        [box] = [
            text.get_window_extent()
            for text in figure.legends[0].get_texts()
            if text.get_text() == label
        ]
        assert 0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 and box.y1 < min(
            axes.get_tightbbox().y0 for axes in figure.axes
        )


def test_results_without_proofs_have_no_panel_for_them(results, monkeypatch):
    for model in results["models"]:
        model["certified"] = None
    figure, _ = texts(
        monkeypatch,
        lambda: comparison_pictures.plot_accuracy(results, "unused", 0.1),
    )
    assert len(figure.axes) == 2


def test_four_models_are_told_apart_without_colors():
    styles = [
        drawing.style_of(name)
        for name in ("ordinary", "stable_ode", "bounded_ends", "stable_network")
    ]
    for key in ("color", "marker"):
        assert len({style[key] for style in styles}) == 4
    ordinary, stable_ode, bounded_ends, stable_network = (
        style["linestyle"] for style in styles
    )
    assert ordinary == bounded_ends != stable_ode == stable_network


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
            "unused", [4, 7], [0, 0.1, 0.2], attacked, "mnist", "0123456789"
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
        comparison_pictures.plot_accuracy(
            results, tmp_path / "accuracy.png", 0.1
        )
        comparison_pictures.plot_attacked_images(
            tmp_path / "images.png",
            [4, 7],
            [0, 0.1, 0.2],
            {"ordinary": attacked_grid()},
            "mnist",
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
        comparison_pictures.plot_accuracy(
            results, tmp_path / "accuracy.png", 0.1
        )
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
