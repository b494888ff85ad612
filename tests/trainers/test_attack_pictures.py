import numpy as np
import pytest
from figures import texts

from stable_node_tf import attacks
from trainers import attack_pictures


def evaluation(shift):
    def attack(name, accuracies):
        budgets = [0.2, 0.0, 0.1]
        described = attacks.registered()[name].describe()
        return {
            "settings": {"epsilons": budgets},
            "accuracies": [max(a - shift, 0.0) for a in accuracies],
            **{key: described[key] for key in ("title", "norm", "style")},
        }

    return {
        "dataset": "mnist",
        "num_images": 10,
        "attacks": {
            "fgsm": attack("fgsm", [0.3, 0.9, 0.6]),
            "pgd": attack("pgd", [0.2, 0.9, 0.5]),
        },
    }


def test_models_under_both_attacks_have_one_colour_each(monkeypatch):
    names = ["ordinary", "stable_network", "fgsm_training"]
    records = {n: evaluation(0.1 * i) for i, n in enumerate(names)}
    figure, found = texts(
        monkeypatch, lambda: attack_pictures.plot_models(records, "unused")
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
        attack_pictures.plot_models({"ordinary": record}, "unused")


def test_attacks_have_a_panel_for_each_norm(monkeypatch):
    record = evaluation(0.0)
    record["attacks"]["pgd_l2"] = record["attacks"]["pgd"] | {"norm": "l2"}
    certified = [{"radius": 0.1, "accuracy": 0.4}]
    certified += [{"radius": 0.0, "accuracy": 0.9}]
    record["certified"] = {"certified": certified}
    figure, found = texts(
        monkeypatch, lambda: attack_pictures.plot_attacks(record, "unused")
    )
    linf, l2 = figure.axes
    assert linf.get_xlabel().startswith("ℓ∞ budget")
    assert l2.get_xlabel().startswith("ℓ2 budget")
    for line, curve in zip(
        linf.lines, ([90, 60, 30], [90, 50, 20]), strict=False
    ):
        np.testing.assert_allclose(line.get_ydata(), curve)
    pgd, proven, chance = l2.lines
    assert (pgd.get_color(), pgd.get_marker()) == ("#0072B2", "s")
    assert {"FGSM", "PGD"} <= found.keys()
    np.testing.assert_allclose(pgd.get_ydata(), [90, 50, 20])
    np.testing.assert_allclose(proven.get_xdata(), [0.0, 0.1])
    np.testing.assert_allclose(proven.get_ydata(), [90, 40])
    assert "certified:\nno attack gets\nbelow" in found


def test_margins_are_shares_with_an_edge_at_zero(monkeypatch):
    margins = {"clean": np.linspace(-1, 9, 1000), "FGSM": np.full(1000, -0.5)}
    figure, found = texts(
        monkeypatch,
        lambda: attack_pictures.plot_margins("unused", margins, "mnist"),
    )
    assert {"clean\n10.0 % wrong", "FGSM\n100.0 % wrong"} <= found.keys()
    [axes] = figure.axes
    for line in axes.lines[:2]:
        assert line.get_ydata().sum() == pytest.approx(1.0)
        middles = line.get_xdata()
        offset = middles / (middles[1] - middles[0]) - 0.5
        np.testing.assert_allclose(offset, np.round(offset), atol=1e-6)
