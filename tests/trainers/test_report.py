import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import rich.console

from trainers import pictures, report

PNG = b"\x89PNG\r\n\x1a\n"


def model(name, steepness, delta_bar=None):
    epsilons = [0.0, 0.05, 0.1, 0.3]
    curve = [
        {"epsilon": e, "accuracy": float(0.98 * np.exp(-steepness * e))}
        for e in epsilons
    ]
    saved = [dict(point) for point in curve]
    saved[2]["accuracy"] += 0.0003
    return {
        "name": name,
        "clean_accuracy": 0.98,
        "fgsm": curve,
        "saved_model_fgsm": saved,
        "delta_lower": 0.12345678,
        "delta_upper": 0.12345678,
        "delta_bar": delta_bar,
        "lipschitz_bound": None if delta_bar is None else 3.00001,
        "lipschitz_bound_holds_for": "discretised network, l2, logits",
        "distance_to_stable": 0.0,
        "encoder_norm": 5.0,
        "readout_norm": 2.0,
        "training_seconds": 61.4,
        "steps": 9380,
        "zero_gradient_share": 0.0012,
    }


@pytest.fixture
def results():
    return {
        "dataset": "fashion_mnist",
        "preset": "default",
        "seed": 3,
        "config": {"alpha": 0.1},
        "versions": {"tensorflow": "2.21"},
        "machine": "2 cores",
        "models": [
            model("ordinary", 40),
            model("stable_ode", 30, 0.2),
            model("stable_network", 9, 0.2),
        ],
    }


def test_json_comes_back_as_it_went_in(results, tmp_path):
    path = tmp_path / "new" / "results.json"
    report.write_json(results, path)
    assert json.loads(path.read_text()) == results
    assert list(path.parent.iterdir()) == [path]


def test_json_takes_numpy(results, tmp_path):
    results["models"][0]["clean_accuracy"] = np.float32(0.5)
    results["models"][0]["steps"] = np.int64(7)
    results["config"]["epsilons"] = np.array([0.0, 0.5])
    report.write_json(results, tmp_path / "results.json")
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["models"][0]["clean_accuracy"] == 0.5
    assert written["models"][0]["steps"] == 7
    assert written["config"]["epsilons"] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("value", "error"),
    [(np.nan, ValueError), (np.float32("inf"), ValueError), ({1}, TypeError)],
)
def test_refused_json_leaves_the_earlier_file(results, tmp_path, value, error):
    path = tmp_path / "results.json"
    report.write_json(results, path)
    before = path.read_bytes()
    results["models"][0]["delta_upper"] = value
    with pytest.raises(error, match="results must hold"):
        report.write_json(results, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_csv_holds_every_number(results, tmp_path):
    results["models"][1]["saved_model_fgsm"] = []
    report.write_csv(results, tmp_path / "results.csv")
    rows = list(
        csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text()))
    )
    assert [row["name"] for row in rows] == [
        "ordinary",
        "stable_ode",
        "stable_network",
    ]
    for row, expected in zip(rows, results["models"], strict=True):
        assert row["dataset"] == "fashion_mnist" and row["seed"] == "3"
        for key in ("fgsm", "saved_model_fgsm"):
            for point in expected[key]:
                cell = row[f"{key}_{point['epsilon']:g}"]
                assert float(cell) == point["accuracy"]
        assert float(row["delta_upper"]) == expected["delta_upper"]
    assert rows[0]["delta_bar"] == "" and rows[2]["delta_bar"] == "0.2"
    assert rows[1]["saved_model_fgsm_0.1"] == ""


def printed(results):
    console = rich.console.Console(
        width=80, file=io.StringIO(), color_system=None
    )
    console.print(report.table(results))
    return console.file.getvalue()


def cells(text, label):
    [line] = [
        line for line in text.splitlines() if line.startswith(f"│ {label} ")
    ]
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


def test_table_fits_and_is_complete(results):
    text = printed(results)
    assert max(map(len, text.splitlines())) <= 80
    assert "Fashion-MNIST, preset default, seed 3" in text
    assert "discretised network, l2, logits" in text
    assert cells(text, "clean accuracy") == ["98.00 %"] * 3
    assert cells(text, "FGSM, ε = 0.1") == ["1.79 %", "4.88 %", "39.84 %"]
    assert cells(text, "SavedModel differs by") == ["0.03 points"] * 3
    assert cells(text, "steps") == ["9380"] * 3


def test_bounds_are_rounded_so_that_they_stay_bounds(results):
    text = printed(results)
    assert cells(text, "δ(A), from below") == ["0.1234"] * 3
    assert cells(text, "δ(A), from above") == ["0.1235"] * 3
    assert cells(text, "Lipschitz bound") == ["–", "3.0001", "3.0001"]
    results["models"][0]["delta_lower"] = -0.12345678
    results["models"][0]["delta_upper"] = -0.3
    text = printed(results)
    assert cells(text, "δ(A), from below")[0] == "-0.1235"
    assert cells(text, "δ(A), from above")[0] == "-0.3000"


def test_missing_measurements_are_dashes(results):
    results["models"][0]["saved_model_fgsm"] = []
    results["models"][0]["fgsm"] = results["models"][0]["fgsm"][:2]
    text = printed(results)
    assert cells(text, "SavedModel differs by")[0] == "–"
    assert cells(text, "FGSM, ε = 0.1")[0] == "–"


def texts(monkeypatch, draw):
    """Draws without writing, and returns every text in the picture."""
    figures = []
    monkeypatch.setattr(pictures, "_save", lambda f, path: figures.append(f))
    draw()
    [figure] = figures
    figure.canvas.draw()
    from matplotlib.text import Text

    found = [t for t in figure.findobj(Text) if t.get_text()]
    return figure, {t.get_text(): t for t in found}


def overlap(one, other):
    a, b = one.get_window_extent(), other.get_window_extent()
    return a.overlaps(b)


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_accuracy_curves_are_labelled_where_they_are(
    results, monkeypatch, dataset
):
    results["dataset"] = dataset
    figure, found = texts(
        monkeypatch, lambda: pictures.plot_accuracy(results, "unused")
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
            assert pictures._gap(box, pictures._pixels(axes, line)) > 0
    plotted = [100 * point["accuracy"] for point in model("x", 9)["fgsm"]]
    np.testing.assert_allclose(axes.lines[2].get_ydata(), plotted)


def attacked_grid():
    rng = np.random.default_rng(0)
    pictures = rng.uniform(size=(3, 2, 28, 28, 1))
    return pictures, np.array([[4, 7], [4, 1], [9, 1]])


def test_attacked_images_show_answers(monkeypatch):
    attacked = {
        name: attacked_grid() for name in ("ordinary", "stable_network")
    }
    figure, _ = texts(
        monkeypatch,
        lambda: pictures.plot_attacked_images(
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
        pictures.plot_attacked_images(
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
        lambda: pictures.plot_separation(
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


def evaluation(shift):
    def attack(accuracies):
        budgets = [0.2, 0.0, 0.1]
        return {
            "settings": {"epsilons": budgets},
            "accuracies": [max(a - shift, 0.0) for a in accuracies],
        }

    return {
        "dataset": "mnist",
        "num_images": 10,
        "attacks": {
            "fgsm": attack([0.3, 0.9, 0.6]),
            "pgd": attack([0.2, 0.9, 0.5]),
        },
    }


def test_models_under_both_attacks_have_one_colour_each(monkeypatch):
    names = ["ordinary", "stable_network", "fgsm_training"]
    records = {n: evaluation(0.1 * i) for i, n in enumerate(names)}
    figure, found = texts(
        monkeypatch, lambda: pictures.plot_models(records, "unused")
    )
    [axes] = figure.axes
    *curves, chance = axes.lines
    assert len(curves) == 6 and len({c.get_color() for c in curves}) == 3
    for index, (pgd, fgsm) in enumerate(
        zip(curves[::2], curves[1::2], strict=True)
    ):
        assert pgd.get_color() == fgsm.get_color()
        assert (pgd.get_linestyle(), fgsm.get_linestyle()) == ("-", "--")
        np.testing.assert_array_equal(pgd.get_xdata(), [0.0, 0.1, 0.2])
        expected = np.array([90.0, 50.0, 20.0]) - 10.0 * index
        np.testing.assert_allclose(pgd.get_ydata(), expected)
    assert {"ordinary", "stable network", "FGSM training"} <= found.keys()
    legend = axes.get_legend().get_window_extent()
    for line in axes.lines[:-1]:
        points = axes.transData.transform(line.get_xydata())
        assert not any(legend.contains(x, y) for x, y in points)


def test_models_need_both_attacks():
    record = evaluation(0.0)
    del record["attacks"]["pgd"]
    with pytest.raises(ValueError, match="Received: ordinary without pgd"):
        pictures.plot_models({"ordinary": record}, "unused")


def test_pictures_are_written_alike_twice(results, tmp_path):
    times, ratios = separations()
    deltas = dict.fromkeys(ratios, 0.2)
    written = []
    for _ in range(2):
        pictures.plot_accuracy(results, tmp_path / "accuracy.png")
        pictures.plot_attacked_images(
            tmp_path / "images.png",
            [4, 7],
            [0, 0.1, 0.2],
            {"ordinary": attacked_grid()},
            [f"class {i}" for i in range(10)],
        )
        pictures.plot_separation(
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
        pictures.plot_accuracy(results, tmp_path / "accuracy.png")
    assert list(tmp_path.iterdir()) == []


def test_imports_without_matplotlib():
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.modules['matplotlib'] = None; "
            "from trainers import pictures",
        ],
        check=True,
    )
