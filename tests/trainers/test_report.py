import csv
import io
import json

import numpy as np
import pytest
import rich.cells
import rich.console

from stable_node_tf.files import write_json
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
        "pgd": [
            {"epsilon": p["epsilon"], "accuracy": p["accuracy"] / 2}
            for p in curve[1:3]
        ],
        "saved_model_fgsm": saved,
        "certified": {
            "clean_accuracy": 0.98,
            "certified": [{"radius": 0.3, "accuracy": 0.625}],
            "holds_for": "float32",
            "num_images": 100,
        },
        "delta_lower": 0.12345678,
        "delta_upper": 0.12345678,
        "delta_bar": delta_bar,
        "lipschitz_bound": None if delta_bar is None else 3.00001,
        "lipschitz_bound_holds_for": "discretized network, l2, logits",
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
            model("bounded_ends", 20),
            model("stable_network", 9, 0.2),
        ],
        "effects": [
            {
                "ends": "bounded",
                "attack": attack,
                "epsilon": epsilon,
                "difference": difference,
                "standard_error": 0.0156,
            }
            for attack, epsilon, difference in (
                ("fgsm", 0.05, 0.1),
                ("fgsm", 0.1, -0.0004),
                ("pgd", 0.1, 0.389),
            )
        ],
    }


def test_json_comes_back_as_it_went_in(results, tmp_path):
    path = tmp_path / "new" / "results.json"
    write_json(results, path)
    assert json.loads(path.read_text()) == results
    assert list(path.parent.iterdir()) == [path]


def test_json_takes_numpy(results, tmp_path):
    results["models"][0]["clean_accuracy"] = np.float32(0.5)
    results["models"][0]["steps"] = np.int64(7)
    results["config"]["epsilons"] = np.array([0.0, 0.5])
    write_json(results, tmp_path / "results.json")
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
    write_json(results, path)
    before = path.read_bytes()
    results["models"][0]["delta_upper"] = value
    with pytest.raises(error, match="results must hold"):
        write_json(results, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_csv_holds_every_number(results, tmp_path):
    results["models"][1]["saved_model_fgsm"] = []
    results["models"][1]["pgd"] = []
    results["models"][1]["certified"] = None
    report.write_csv(results, tmp_path / "results.csv")
    rows = list(
        csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text()))
    )
    assert [row["name"] for row in rows] == [
        "ordinary",
        "stable_ode",
        "bounded_ends",
        "stable_network",
    ]
    for row, expected in zip(rows, results["models"], strict=True):
        assert row["dataset"] == "fashion_mnist" and row["seed"] == "3"
        for key in ("fgsm", "pgd", "saved_model_fgsm"):
            for point in expected[key]:
                cell = row[f"{key}_{point['epsilon']:g}"]
                assert float(cell) == point["accuracy"]
        assert float(row["delta_upper"]) == expected["delta_upper"]
    assert rows[0]["delta_bar"] == "" and rows[3]["delta_bar"] == "0.2"
    assert rows[1]["saved_model_fgsm_0.1"] == rows[1]["pgd_0.05"] == ""
    assert [row["certified_0.3"] for row in rows] == [
        *("0.625", "", "0.625", "0.625"),
    ]


def printed(results, layout=report.table):
    console = rich.console.Console(
        width=80, file=io.StringIO(), color_system=None
    )
    console.print(layout(results))
    return console.file.getvalue()


def cells(text, label):
    [line] = [
        line for line in text.splitlines() if line.startswith(f"│ {label} ")
    ]
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


def test_table_fits_and_is_complete(results):
    text = printed(results)
    assert max(map(rich.cells.cell_len, text.splitlines())) <= 80
    assert "Fashion-MNIST, preset default, seed 3" in text
    assert "discretized network, l2, logits" in text
    assert cells(text, "clean accuracy") == ["98.00 %"] * 4
    assert cells(text, "FGSM, ε = 0.1")[::3] == ["1.79 %", "39.84 %"]
    assert cells(text, "PGD-100, ε = 0.1")[::3] == ["0.90 %", "19.92 %"]
    assert cells(text, "certified, ℓ2 0.3") == ["62.50 %"] * 4
    assert cells(text, "SavedModel differs") == ["0.03 points"] * 4
    assert cells(text, "steps") == ["9380"] * 4


def test_table_of_effects(results):
    text = printed(results, report.effect_table)
    assert max(map(rich.cells.cell_len, text.splitlines())) <= 80
    assert "0.1 │" in text and "0.05 │" not in text  # PGD was not run there
    assert "+0.0 ± 1.6" in text and "+38.9 ± 1.6" in text


def test_bounds_are_rounded_so_that_they_stay_bounds(results):
    text = printed(results)
    assert cells(text, "δ(A), from below") == ["0.1234"] * 4
    assert cells(text, "δ(A), from above") == ["0.1235"] * 4
    assert cells(text, "Lipschitz bound") == [
        *("–", "3.0001", "–", "3.0001"),
    ]
    results["models"][0]["delta_lower"] = -0.12345678
    results["models"][0]["delta_upper"] = -0.3
    text = printed(results)
    assert cells(text, "δ(A), from below")[0] == "-0.1235"
    assert cells(text, "δ(A), from above")[0] == "-0.3000"


def test_missing_measurements_are_dashes(results):
    results["models"][0]["saved_model_fgsm"] = []
    results["models"][0]["certified"] = None
    text = printed(results)
    assert cells(text, "SavedModel differs")[0] == "–"
    assert cells(text, "certified, ℓ2 0.3")[0] == "–"
