import json
import shutil

import pytest
from bars import in_place_of_data
from programs import SMALL, run, small_model

from trainers import evaluate, summarize


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """What evaluations of two models have written."""
    directory = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        in_place_of_data(patch)
        for seed, name in enumerate(("ordinary", "stable_network")):
            path = directory / f"{name}.keras"
            small_model(seed).save(path)
            run(evaluate, model=path, output=directory / name, **SMALL)
    return directory


@pytest.fixture
def files(evaluated, tmp_path):
    """A copy of what they have written, to be changed."""
    shutil.copytree(evaluated, tmp_path, dirs_exist_ok=True)
    return [
        tmp_path / name / "evaluation.json"
        for name in ("ordinary", "stable_network")
    ]


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_evaluations_are_set_beside_each_other(files, tmp_path, capsys):
    words = list(map(str, files))
    summarize.main(words)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "| MNIST, 30 images, ε in ℓ∞ | ordinary: FGSM | stable network: FGSM |"
    )
    assert [line.split(" | ")[0] for line in lines[2:5]] == [
        *("| 0", "| 0.1", "| 0.3"),
    ]
    assert lines[6] == "| check | ordinary | stable network |"
    assert any("zero | passed, share 0 | passed" in line for line in lines)
    assert all(line.count("|") == 4 for line in lines if line)

    plot = f"--plot={tmp_path / 'models.png'}"
    with pytest.raises(SystemExit, match="ordinary without pgd"):
        summarize.main([plot, *words])
    for file in files:
        fgsm = json.loads(file.read_text())["attacks"]["fgsm"]
        change(file, attacks={"fgsm": fgsm, "pgd": fgsm})
    summarize.main([plot, *words])
    assert (tmp_path / "models.png").is_file()

    change(files[0], num_images=31)
    with pytest.raises(SystemExit, match="error: .*must be of one data set"):
        summarize.main(words)


def test_attacks_with_budgets_of_their_own(files, capsys):
    fgsm = json.loads(files[0].read_text())["attacks"]["fgsm"]
    settings = fgsm["settings"] | {"epsilons": [0.0, 0.2]}
    other = fgsm | {"settings": settings, "accuracies": [0.5, 0.25]}
    change(files[0], attacks={"fgsm": fgsm, "pgd": other})
    summarize.main([str(files[0])])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:6]] == [
        *("| 0", "| 0.1", "| 0.3", "| 0.2"),
    ]
    assert lines[4].endswith("| – |") and "| 0.2 | – | " in lines[5]


def test_evaluations_of_one_name_are_not_drawn_over_each_other(tmp_path):
    files = []
    for place in ("a", "b"):
        (tmp_path / place / "model").mkdir(parents=True)
        file = tmp_path / place / "model" / "evaluation.json"
        file.write_text(json.dumps({"attacks": {}}))
        files.append(str(file))
    with pytest.raises(SystemExit, match="error: .*names. Received: model, mo"):
        summarize.main([*files])


def comparison(**config):
    return {
        "dataset": "mnist",
        "preset": "default",
        "seed": config["seed"],
        "config": config,
        "models": [],
    }


def trained(seed, stable=0.5, **others):
    """A comparison of two models, of which PGD leaves little and `stable`."""
    numbers = {
        "clean_accuracy": 0.98,
        "delta_lower": 1.0,
        "delta_upper": 2.0,
        "distance_to_stable": 3.0,
        "lipschitz_bound": 4.0,
        "training_seconds": 5.0,
    }
    models = [
        {
            "name": name,
            "fgsm": [
                {"epsilon": 0.0, "accuracy": 0.98},
                {"epsilon": 0.1, "accuracy": accuracy},
            ],
            "pgd": [{"epsilon": 0.1, "accuracy": accuracy / 2}],
            **numbers,
            **others,
        }
        for name, accuracy in (
            ("bounded_ends", 0.2),
            ("stable_network", stable),
        )
    ]
    return comparison(seed=seed) | {"models": models}


def test_mean_and_spread_over_seeds():
    lines = summarize.summary([trained(0), trained(1, 0.7)]).splitlines()
    assert lines[0] == (
        "| seeds 0, 1 | bounded ends (A free) | stable network |"
    )
    assert lines[2] == "| clean accuracy, % | 98.00 ± 0.00 | 98.00 ± 0.00 |"
    assert lines[3] == "| FGSM, ε = 0.1, % | 20.0 ± 0.0 | 60.0 ± 10.0 |"
    assert lines[4] == "| PGD-100, ε = 0.1, % | 10.0 ± 0.0 | 30.0 ± 5.0 |"


def test_many_models_are_rows():
    many = trained(0, lipschitz_bound=2e10)
    many["models"] *= 3
    rows = summarize.summary([many]).splitlines()
    assert len(rows) == 2 + 6
    assert rows[-1].endswith("| 2.0e+10 |")
    assert rows[2].startswith("| bounded ends (A free) | ")
    assert {row.count("|") for row in rows} == {rows[0].count("|")}


def test_effects_over_seeds(tmp_path, capsys):
    files = []
    for seed, stable in enumerate((0.5, 0.6, 0.7)):
        files.append(tmp_path / f"{seed}.json")
        files[-1].write_text(json.dumps(trained(seed, stable)))
    summarize.main([*map(str, files)])
    table, _, said = (
        capsys.readouterr()
        .out.partition("over seeds: ε ")[2][:-1]
        .partition("\n\n")
    )
    assert table.splitlines() == [
        "| ends bounded: FGSM | ends bounded: PGD-100 |",
        "| --- | --- | --- |",
        "| 0.1 | +40.0 ± 5.8 | +20.0 ± 2.9 |",
    ]
    assert said == (
        "On MNIST, with the same bounded ends, the stability constraint alone "
        "takes PGD-100 accuracy at ε = 0.1 from 10.0 % to 30.0 % (+20.0 ± 2.9 "
        "points; standard error over 3 seeds). Clean accuracy is 98.0 % and "
        "98.0 %."
    )


def test_effects_of_one_run_are_those_it_has_measured():
    one = trained(0)
    assert summarize.effect_summary([one]) == ""
    one["effects"] = [
        {"ends": "free", "attack": "pgd", "epsilon": 0.1}
        | {"difference": -0.02, "standard_error": 0.01}
    ]
    lines = summarize.effect_summary([one]).splitlines()
    assert lines[0].startswith("| seed 0, points ± standard error over images")
    assert lines[2:] == ["| 0.1 | -2.0 ± 1.0 |"]


def test_runs_that_differ_by_more_than_the_seed_are_not_averaged():
    alike = [comparison(seed=0, epochs=12), comparison(seed=1, epochs=12)]
    assert "seeds 0, 1" in summarize.summary(alike)
    with pytest.raises(ValueError, match="Received: different config.epochs$"):
        summarize.summary([*alike, comparison(seed=2, epochs=1)])


@pytest.mark.parametrize("text", ["[]", "1", "{}", "["])
def test_files_of_something_else_are_named(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(SystemExit, match="error: .*results.json"):
        summarize.main([str(path)])
