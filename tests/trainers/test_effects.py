import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trainers import effects

BITS = st.lists(st.booleans(), min_size=2, max_size=60)


@given(st.data(), BITS)
def test_effect_over_images_is_the_paired_difference(data, without):
    n = len(without)
    constrained = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    effect = effects.over_images(without, constrained)
    both = np.array([without, constrained], float)
    np.testing.assert_allclose(
        [effect["without"], effect["constrained"]], both.mean(axis=1)
    )
    np.testing.assert_allclose(
        effect["difference"], both[1].mean() - both[0].mean(), atol=1e-12
    )
    # Of the four counts of a paired table alone, as McNemar has it.
    gained = np.mean(both[1] > both[0])
    lost = np.mean(both[1] < both[0])
    variance = (gained + lost - (gained - lost) ** 2) / (n - 1)
    np.testing.assert_allclose(
        effect["standard_error"], np.sqrt(variance), atol=1e-12
    )
    swapped = effects.over_images(constrained, without)
    assert swapped["difference"] == -effect["difference"]
    assert swapped["p_value"] == effect["p_value"] > 0.0


def test_standard_error_agrees_with_a_paired_bootstrap():
    rng = np.random.default_rng(0)
    without = rng.random(400) < 0.3
    constrained = without ^ (rng.random(400) < 0.25)
    effect = effects.over_images(without, constrained)
    resampled = stats.bootstrap(
        (without.astype(float), constrained.astype(float)),
        lambda a, b, axis: b.mean(axis) - a.mean(axis),
        paired=True,
        n_resamples=2000,
        rng=rng,
    )
    assert effect["standard_error"] == pytest.approx(
        resampled.standard_error, rel=0.05
    )


def test_effect_over_seeds_is_the_paired_t_test():
    without, constrained = [0.06, 0.05, 0.08], [0.45, 0.46, 0.43]
    effect = effects.over_seeds(without, constrained)
    expected = stats.ttest_rel(constrained, without)
    assert effect["p_value"] == pytest.approx(expected.pvalue)
    assert effect["difference"] / effect["standard_error"] == pytest.approx(
        expected.statistic
    )
    assert effect["count"] == 3
    for alike, p in ((0.5, 1.0), (0.25, 0.0)):
        assert effects.over_seeds([0.5, 0.5], [alike] * 2)["p_value"] == p


def outcome(rights):
    right = np.zeros([2, 1000], bool)
    for row, count in zip(right, rights, strict=True):
        row[:count] = True
    return types.SimpleNamespace(epsilons=np.array([0.0, 0.1]), right=right)


def run(stable):
    """A run in which both attacks leave the same, of 1000 images each."""
    rights = {
        "ordinary": (980, 24),
        "stable_ode": (980, 24),
        "bounded_ends": (980, 65),
        "stable_network": (964, stable),
    }
    return effects.of_run(
        {
            name: dict.fromkeys(("fgsm", "pgd"), outcome(counts))
            for name, counts in rights.items()
        }
    )


def test_sentences_are_true_whatever_the_sign():
    gain, none = effects.sentences(run(454), "MNIST")
    assert gain == (
        "On MNIST, with the same bounded ends, the stability constraint alone "
        "takes PGD-100 accuracy at ε = 0.1 from 6.5 % to 45.4 % (+38.9 ± 1.5 "
        "points; standard error paired over 1000 images). Clean accuracy is "
        "98.0 % and 96.4 %."
    )
    assert none == (
        "On MNIST, with free ends, PGD-100 accuracy at ε = 0.1 is 2.4 % "
        "without the stability constraint and 2.4 % with it: no significant "
        "difference (+0.0 ± 0.0 points; standard error paired over 1000 "
        "images). Clean accuracy is 98.0 % and 98.0 %."
    )
    loss, _ = effects.sentences(run(20), "MNIST")
    assert "from 6.5 % to 2.0 % (-4.5 ± 0.7 points" in loss
    slight, _ = effects.sentences(run(63), "MNIST")
    assert "no significant difference (-0.2 ± 0.1 points" in slight


def test_effects_over_seeds_need_both_models_and_shared_budgets():
    def models(shift, budgets=(0.0, 0.1)):
        curve = {epsilon: 0.5 + shift for epsilon in budgets}
        return {
            "bounded_ends": {"fgsm": {0.0: 0.9, 0.1: 0.2}, "pgd": curve},
            "stable_network": {"fgsm": {0.0: 0.8, 0.1: 0.4}, "pgd": curve},
            "ordinary": {"fgsm": {0.0: 0.9}, "pgd": {}},
        }

    found = effects.of_seeds([models(0.0), models(0.1, [0.1, 0.2])])
    keys = [(e["ends"], e["attack"], e["epsilon"]) for e in found]
    assert keys == [
        ("bounded", "fgsm", 0.0),
        ("bounded", "fgsm", 0.1),
        ("bounded", "pgd", 0.1),
    ]
    [said] = effects.sentences(found, "MNIST")
    assert "is 55.0 % without" in said and "over 2 seeds" in said


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ModuleNotFoundError, match=r"stable_node_tf\[compare\]"):
        effects.over_images([True, False], [True, True])
