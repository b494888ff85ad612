import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from bars import split

from stable_node_tf import attacks, evaluation
from trainers import outcomes

PGD = attacks.PGD(steps=3)
EPSILONS = [0.0, 0.1, 0.4]


def linear(x):
    weights = tf.random.stateless_normal([784, 10], [0, 0])
    return tf.reshape(x, [-1, 784]) @ weights


@pytest.fixture(scope="module")
def outcome():
    return outcomes.attacked(PGD, linear, split(40, 2), EPSILONS, "PGD")


def assert_equal(one, other):
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, vars(other)[name])


def test_an_outcome_gives_the_curve_of_the_attack(outcome):
    data = split(40, 2)
    expected = evaluation.accuracy_curve(
        linear, data.pixels, data.labels, PGD, EPSILONS
    )
    curve = evaluation.AccuracyCurve.of(outcome)
    for mine, theirs in zip(curve, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert outcome.adversarial.size == 0
    assert not np.any(outcome.right[1:] & ~outcome.right[:-1])


def test_the_strongest_pgd_has_two_losses_and_many_steps():
    pgd = outcomes.strongest_pgd(seed=3)
    assert [attack.name for attack in pgd.attacks] == ["pgd", "pgd_dlr"]
    for attack in pgd.attacks:
        assert (attack.steps, attack.seed, attack.restarts) == (100, 3, 1)
    assert outcomes.settings(pgd, [0.1])["attacks"][1]["loss"] == "dlr"


def refuse():
    raise AssertionError("attacked once more")


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"else" * 100])
def test_an_outcome_is_kept_while_what_it_is_made_from_stays(
    tmp_path, outcome, damage
):
    path = tmp_path / "attacks" / "model_pgd.npz"
    made_from = {"settings": outcomes.settings(PGD, EPSILONS), "weights": "00"}
    outcomes.kept(path, made_from, lambda: outcome)
    assert_equal(outcomes.kept(path, made_from, refuse), outcome)
    other = dataclasses.replace(outcome, success=~outcome.success)
    changed = made_from | {"weights": "ff"}
    assert_equal(outcomes.kept(path, changed, lambda: other), other)
    path.write_bytes(damage)
    assert_equal(outcomes.kept(path, changed, lambda: outcome), outcome)
    assert_equal(outcomes.kept(path, changed, refuse), outcome)
    assert list(path.parent.iterdir()) == [path]
