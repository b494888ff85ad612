import csv
import json

import numpy as np
import pytest
import tensorflow as tf
from bars import in_place_of_data, split
from programs import SMALL, run, small_model

from stable_node_tf import ode_classifier
from stable_node_tf.files import write_json
from stable_node_tf.saved_model import (
    save_classifier,
)
from trainers import (
    attack_report,
    attack_suite,
    evaluate,
    outcomes,
    summarize,
)
from trainers.data import datasets


@pytest.fixture
def data(monkeypatch):
    return in_place_of_data(monkeypatch)


@pytest.fixture
def quick(monkeypatch):
    """No checks and no pictures, which cost more than small attacks."""
    monkeypatch.setattr(evaluate, "_checks", lambda *_: [])
    monkeypatch.setattr(evaluate, "_draw_margins", lambda *_: None)
    monkeypatch.setattr(
        evaluate.attack_pictures, "plot_attacks", lambda *_: None
    )


def test_evaluate_reports_and_writes(tmp_path, data, capsys):
    pytest.importorskip("matplotlib")
    model = small_model()
    model.save(tmp_path / "model.keras")
    output = tmp_path / "out"
    run(
        evaluate,
        model=tmp_path / "model.keras",
        dataset="fashion_mnist",
        epsilons="0,0.1",
        output=output,
    )
    assert data == [("fashion_mnist", None, False)]
    record = json.loads((output / "evaluation.json").read_text())
    test = split(40, 2)
    answers = np.argmax(model(test.images.astype(np.float32) / 255.0), -1)
    clean = np.mean(answers == test.labels)
    assert record["clean_accuracy"] == pytest.approx(clean)
    assert record["num_images"] == 40
    fgsm = record["attacks"]["fgsm"]
    assert fgsm["settings"]["epsilons"] == [0.0, 0.1]
    assert fgsm["accuracies"][0] == clean
    checks = {check["name"]: check for check in record["checks"]}
    assert len(checks) == 4  # of all seven, those that FGSM alone allows
    same = checks["Exported and in-memory gradients are equal"]
    assert same["passed"]
    printed = capsys.readouterr().out
    assert f"{clean:.2%}" in printed
    assert printed.count("✓") + printed.count("✗") == 4
    rows = list(csv.DictReader((output / "evaluation.csv").open()))
    attacked = [row for row in rows if row["figure"] == "accuracy"]
    assert [row["epsilon"] for row in attacked[:2]] == ["0.0", "0.1"]
    assert float(attacked[0]["value"]) == pytest.approx(clean)
    assert {row["kind"] for row in rows} == {"attack", "check"}
    for picture in ("attacks.png", "margins.png"):
        assert (output / picture).stat().st_size > 1000


def test_evaluate_runs_every_attack_and_check(tmp_path, data, capsys):
    save_classifier(small_model(), tmp_path)
    small_model().save(tmp_path / "model.keras")
    out = tmp_path / "out"
    run(evaluate, model=tmp_path, attacks="all", output=out, **SMALL)
    record = json.loads((out / "evaluation.json").read_text())
    assert record["attacks"].keys() == {
        *("fgsm", "pgd", "pgd_dlr", "square", "pgd_l2", "pgd_l2_dlr"),
        *("fmn", "fmn_l2"),
    }
    for name, attack in record["attacks"].items():
        assert attack["norm"] == ("l2" if "_l2" in name else "linf")
        accuracies = attack["accuracies"]
        assert accuracies[0] == record["clean_accuracy"]
        assert accuracies == sorted(accuracies, reverse=True)
    assert record["attacks"]["square"]["zero_gradient_share"] is None
    assert len(record["checks"]) == 7
    [zeros] = [c for c in record["checks"] if "zero" in c["name"]]
    shares = {
        name: attack["zero_gradient_share"]
        for name, attack in record["attacks"].items()
    }
    assert shares["pgd_l2_dlr"] == shares["pgd_dlr"] > 0
    smooth = max(shares[name] for name in ("fgsm", "pgd", "pgd_l2"))
    assert zeros["measured"]["share"] == smooth < shares["pgd_dlr"]
    certified = record["certified"]["certified"]
    assert [point["radius"] for point in certified] == [0.0, 1.0]
    for name in ("pgd_l2", "pgd_l2_dlr", "fmn_l2"):
        attacked = record["attacks"][name]["accuracies"]
        for point, accuracy in zip(certified, attacked, strict=True):
            assert point["accuracy"] <= accuracy
    printed = capsys.readouterr().out
    assert "Not checked" not in printed and "certified" in printed
    rows = list(csv.DictReader((out / "evaluation.csv").open()))
    assert sum(row["kind"] == "certified" for row in rows) == 2
    summarize.main([str(out / "evaluation.json")])
    assert (
        "| out: PGD, 2-norm | out: PGD, 2-norm, DLR loss | out: certified |"
        in capsys.readouterr().out
    )


def test_evaluate_shows_failed_checks_in_red():
    record = {
        "checks": [
            {"name": "One", "passed": True, "measured": {"share": 0.5}},
            {"name": "Two", "passed": False, "measured": {"at_epsilon": 0.25}},
        ]
    }
    passed, failed = attack_report.check_lines(record)
    assert (passed.plain, str(passed.style)) == ("✓ One (share 0.5)", "green")
    assert failed.plain == "✗ Two (at epsilon 0.25)"
    assert "red" in str(failed.style)


def test_evaluate_says_what_it_cannot_check(tmp_path, data, quick, capsys):
    save_classifier(small_model(), tmp_path / "saved")
    run(evaluate, model=tmp_path / "saved", **SMALL)
    assert "Not checked" in capsys.readouterr().out


def test_evaluate_carries_on_where_it_was_interrupted(
    tmp_path, data, quick, monkeypatch, capsys
):
    path = tmp_path / "model.keras"
    small_model().save(path)
    values = SMALL | {"model": path, "output": tmp_path / "out"}
    values["attacks"] = "fgsm,pgd,square"
    calls = []
    whole = outcomes.attacked

    def interrupted(attack, *arguments):
        calls.append(attack.name)
        if attack.name == "square":
            raise KeyboardInterrupt
        return whole(attack, *arguments)

    def counted(attack, *arguments):
        calls.append(attack.name)
        return whole(attack, *arguments)

    monkeypatch.setattr(outcomes, "attacked", interrupted)
    with pytest.raises(SystemExit) as exit_:
        run(evaluate, **values)
    assert exit_.value.code == 130
    assert calls == ["fgsm", "pgd", "square"]
    assert "The same command carries on" in capsys.readouterr().err
    file = tmp_path / "out/evaluation.json"
    before = json.loads(file.read_text())["attacks"]
    assert before.keys() == {"fgsm", "pgd"}

    calls.clear()
    monkeypatch.setattr(outcomes, "attacked", counted)
    run(evaluate, **values)
    assert calls == ["square"]
    after = json.loads(file.read_text())["attacks"]
    assert after.keys() == {"fgsm", "pgd", "square"}
    assert {name: after[name] for name in before} == before

    calls.clear()
    run(evaluate, **values | {"pgd_steps": 11})
    assert calls == ["pgd"]


def test_evaluate_says_what_to_do_where_xla_fails(tmp_path, data, monkeypatch):
    def refused(*arguments):
        raise tf.errors.UnimplementedError(None, None, "no such thing\nat all")

    monkeypatch.setattr(outcomes, "attacked", refused)
    small_model().save(tmp_path / "model.keras")
    with pytest.raises(SystemExit, match="^error: no such thing .*nojit"):
        run(evaluate, model=tmp_path / "model.keras")


def test_evaluate_does_not_take_the_figures_of_another_model(
    tmp_path, data, quick
):
    out = tmp_path / "out"
    figures = []
    for seed in (0, 1):
        path = tmp_path / "model.keras"
        small_model(seed).save(path)
        run(evaluate, model=path, output=out, **SMALL)
        figures.append(json.loads((out / "evaluation.json").read_text()))
    assert figures[0]["digest"] != figures[1]["digest"]
    assert figures[0]["attacks"]["fgsm"] != figures[1]["attacks"]["fgsm"]


@pytest.mark.parametrize("text", ["[]", "{", '"attacks"'])
def test_a_record_that_is_none_is_begun_anew(tmp_path, text):
    model, path = tmp_path / "model.keras", tmp_path / "evaluation.json"
    model.write_bytes(b"model")
    path.write_text(text)
    record = attack_suite.open_record(path, model, "mnist", digits(30))
    assert record["attacks"] == {} and record["num_images"] == 30


def digits(rows, first=0):
    labels = (np.arange(rows) + first) % 10
    return datasets.Split(np.zeros([rows, 28, 28, 1], np.uint8), labels)


def test_a_record_is_of_one_model_and_of_its_images(tmp_path):
    model, path = tmp_path / "model.keras", tmp_path / "evaluation.json"
    model.write_bytes(b"model")

    def known(split):
        return attack_suite.open_record(path, model, "mnist", split)["attacks"]

    record = attack_suite.open_record(path, model, "mnist", digits(30))
    record["attacks"] = {"fgsm": {}}
    write_json(record, path)
    assert known(digits(30)) == {"fgsm": {}}
    assert known(digits(20)) == known(digits(30, first=1)) == {}
    model.write_bytes(b"another")
    assert known(digits(30)) == {}


def corrupt(tmp_path, what):
    path = tmp_path / "model.keras"
    if what == "truncated":
        ode_classifier(width=8).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "folder":
        path = tmp_path / "folder"
        path.mkdir()
    elif what == "saved_model":
        path = tmp_path / "saved"
        version = save_classifier(ode_classifier(width=8), path)
        (version / "saved_model.pb").write_bytes(b"rubbish")
    elif what == "other input":
        ode_classifier(image_shape=(8, 8, 1), width=8).save(path)
    return path


@pytest.mark.parametrize(
    "what",
    ["missing", "truncated", "empty", "folder", "saved_model", "other input"],
)
def test_evaluate_refuses_what_is_no_model(tmp_path, data, what):
    path = corrupt(tmp_path, what)
    with pytest.raises(SystemExit) as exit_:
        run(evaluate, model=path)
    message = str(exit_.value.code)
    assert message.startswith("error: ")
    if what != "other input":
        assert str(path) in message
        assert len(message.splitlines()) == 1


def test_evaluate_into_a_file_is_refused_before_the_attacks(
    tmp_path, data, monkeypatch
):
    monkeypatch.setattr(attack_suite, "run", lambda *_: pytest.fail("attacked"))
    small_model().save(tmp_path / "model.keras")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="error: .*file"):
        run(
            evaluate,
            model=tmp_path / "model.keras",
            output=tmp_path / "file",
            **SMALL,
        )


def test_evaluate_shows_what_is_certified_at_other_budgets(
    tmp_path, data, quick, capsys
):
    """Of an earlier run, which had the model in memory as well."""
    model = small_model()
    save_classifier(model, tmp_path)
    model.save(tmp_path / "model.keras")
    output = tmp_path / "evaluated"
    run(evaluate, model=tmp_path, output=output, **SMALL, attacks="pgd_l2")
    (tmp_path / "model.keras").unlink()
    capsys.readouterr()
    other = SMALL | {"epsilons_l2": "0,2"}
    run(evaluate, model=tmp_path, output=output, **other, attacks="pgd_l2")
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
    ]
    [(_, _, certified)] = [row for row in rows if row and row[0] == "2"]
    assert certified == "–"


def test_a_keras_model_that_is_an_export_too_is_refused(tmp_path, data):
    """It would be compared with itself, and pass."""
    save_classifier(small_model(), tmp_path)
    with pytest.raises(SystemExit, match=f"error: There is no file {tmp_path}"):
        run(evaluate, model=tmp_path, keras_model=tmp_path, **SMALL)
