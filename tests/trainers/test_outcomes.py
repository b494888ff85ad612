import numpy as np
import pytest
import tensorflow as tf
from bars import split

from trainers import outcomes
from trainers.attack_suite import Suite, attack_curve

SUITE = Suite(["pgd"], [0.0, 0.1, 0.4], [], pgd_steps=3, jit_compile=False)


def linear(seed=0):
    weights = tf.random.stateless_normal([784, 10], [seed, 0])
    return lambda x: tf.reshape(x, [-1, 784]) @ weights


@pytest.fixture(scope="module")
def outcome():
    return outcomes.attacked(
        "pgd", linear(), split(40, 2), SUITE.settings("pgd"), "PGD"
    )


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_outcome_gives_the_curve_of_the_attack(outcome):
    data = split(40, 2)
    expected = attack_curve(
        *("pgd", linear(), data.pixels, data.labels),
        *(SUITE.settings("pgd"), "PGD"),
    )
    assert_equal(outcome.curve(), expected)
    np.testing.assert_array_equal(outcome.right[0], outcome.clean)
    assert not np.any(outcome.right[1:] & ~outcome.right[:-1])


def test_the_strongest_is_right_only_where_all_are(outcome):
    weaker = outcome._replace(right=outcome.right | (np.arange(40) < 20))
    assert_equal(outcomes.strongest([weaker, outcome]), outcome)


def refuse():
    raise AssertionError("attacked once more")


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"else" * 100])
def test_an_outcome_is_kept_while_what_it_is_made_from_stays(
    tmp_path, outcome, damage
):
    path = tmp_path / "attacks" / "model_pgd.npz"
    made_from = {"settings": SUITE.settings("pgd"), "weights": "00"}
    outcomes.kept(path, made_from, lambda: outcome)
    assert_equal(outcomes.kept(path, made_from, refuse), outcome)
    other = outcome._replace(clean=~outcome.clean)
    changed = made_from | {"weights": "ff"}
    assert_equal(outcomes.kept(path, changed, lambda: other), other)
    path.write_bytes(damage)
    assert_equal(outcomes.kept(path, changed, lambda: outcome), outcome)
    assert_equal(outcomes.kept(path, changed, refuse), outcome)
    assert list(path.parent.iterdir()) == [path]
