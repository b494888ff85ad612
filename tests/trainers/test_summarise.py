import json
from pathlib import Path

import pytest
from absl.testing import flagsaver
from bars import in_place_of_data
from programs import SMALL, run, small_model

from trainers import evaluate, summarise


@pytest.fixture
def data(monkeypatch):
    return in_place_of_data(monkeypatch)


def test_evaluations_are_set_beside_each_other(tmp_path, data, capsys):
    for seed, name in enumerate(("ordinary", "stable_network")):
        path = tmp_path / f"{name}.keras"
        small_model(seed).save(path)
        run(evaluate, model=path, output=tmp_path / name, **SMALL)
    capsys.readouterr()
    files = [
        str(tmp_path / name / "evaluation.json")
        for name in ("ordinary", "stable_network")
    ]
    summarise.main(["summarise", *files])
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

    with flagsaver.flagsaver(plot=str(tmp_path / "models.png")):
        with pytest.raises(SystemExit, match="ordinary without pgd"):
            summarise.main(["summarise", *files])
        for file in files:
            record = json.loads(Path(file).read_text())
            record["attacks"]["pgd"] = record["attacks"]["fgsm"]
            Path(file).write_text(json.dumps(record))
        summarise.main(["summarise", *files])
    assert (tmp_path / "models.png").is_file()

    record = json.loads((tmp_path / "ordinary/evaluation.json").read_text())
    record["num_images"] = 31
    (tmp_path / "ordinary/evaluation.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit, match="error: .*must be of one data set"):
        summarise.main(["summarise", *files])


def test_attacks_with_budgets_of_their_own(tmp_path, data, capsys):
    path = tmp_path / "model.keras"
    small_model().save(path)
    output = tmp_path / "evaluated"
    run(evaluate, model=path, output=output, **SMALL)
    other = SMALL | {"epsilons": "0,0.2"}
    run(evaluate, model=path, output=output, **other, attacks="pgd")
    capsys.readouterr()
    summarise.main(["summarise", str(output / "evaluation.json")])
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
        summarise.main(["summarise", *files])


def comparison(**config):
    return {
        "dataset": "mnist",
        "preset": "default",
        "seed": config["seed"],
        "config": config,
        "models": [],
    }


def test_runs_that_differ_by_more_than_the_seed_are_not_averaged():
    alike = [comparison(seed=0, epochs=12), comparison(seed=1, epochs=12)]
    assert "seeds 0, 1" in summarise.summary(alike)
    with pytest.raises(ValueError, match="Received: different config.epochs$"):
        summarise.summary([*alike, comparison(seed=2, epochs=1)])


@pytest.mark.parametrize("text", ["[]", "1", "{}", "["])
def test_files_of_something_else_are_named(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(SystemExit, match="error: .*results.json"):
        summarise.main(["summarise", str(path)])
