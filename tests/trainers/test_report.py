import csv
import io
import json

import numpy as np
import pytest
import rich.console

from trainers import report


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
    results["models"][2]["pgd"] = [{"epsilon": 0.05, "accuracy": 0.625}]
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
    assert rows[1]["saved_model_fgsm_0.1"] == rows[1]["pgd_0.05"] == ""
    assert rows[2]["pgd_0.05"] == "0.625"


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
