import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import (
    DeepODELayer,
    PiecewiseODELayer,
    StableODELayer,
    attacks,
    certification,
    evaluation,
    ode_classifier,
)
from stable_node_tf.evaluation import sanity_checks
from stable_node_tf.models import with_finer_solver

BUDGETS = [0.0, 0.1, 0.5]


def curve(*accuracies, budgets=BUDGETS, clean=1.0, zero=0.0, count=1000):
    return evaluation.AccuracyCurve(
        np.array(budgets), np.array(accuracies), clean, zero, count
    )


def test_pgd_must_not_leave_more_than_fgsm():
    fgsm = curve(1.0, 0.6, 0.1)
    equal = sanity_checks.pgd_at_least_as_strong(fgsm, fgsm)
    assert equal.passed and equal.measured["largest_excess_points"] == 0
    weaker = sanity_checks.pgd_at_least_as_strong(curve(1.0, 0.601, 0.0), fgsm)
    assert not weaker.passed
    assert weaker.measured["at_epsilon"] == 0.1
    assert weaker.measured["largest_excess_points"] == pytest.approx(0.1)


def test_square_must_not_beat_all_others_at_any_budget():
    others = [curve(1.0, 0.6, 0.0), curve(1.0, 0.5, 0.2)]
    fine = sanity_checks.square_never_strongest(curve(1.0, 0.5, 0.0), others)
    assert fine.passed
    masked = sanity_checks.square_never_strongest(curve(1.0, 0.4, 0.3), others)
    assert not masked.passed
    assert masked.measured["at_epsilon"] == 0.1
    assert masked.measured["largest_excess_points"] == pytest.approx(10)
    with pytest.raises(ValueError, match="gradient_attacks must not be empty"):
        sanity_checks.square_never_strongest(others[0], [])


def test_square_unmasks_a_model_without_useful_gradients():
    """Rounded inputs have a gradient of zero, and fall to Square alone."""

    def staircase(x):
        brightness = tf.reduce_mean(tf.round(4 * x) / 4, axis=[1, 2, 3])
        slope = 1e-3 * tf.reduce_mean(x, axis=[1, 2, 3])  # misleads
        return tf.stack([brightness - 0.3 - slope, 0.0 * slope], axis=1)

    images = np.full([20, 6, 6, 1], 0.6, np.float32)
    labels = np.zeros(20, int)
    pgd, square = (
        evaluation.accuracy_curve(staircase, images, labels, attack, 0.3)
        for attack in (attacks.PGD(), attacks.Square())
    )
    assert pgd.accuracies[0] == 1.0
    assert not sanity_checks.square_never_strongest(square, [pgd]).passed


def test_an_attack_below_certified_accuracy_refutes_the_certificate():
    attacked = curve(1.0, 0.6, 0.1)
    proven = certification.CertifiedCurve(
        np.array(BUDGETS), np.array([0.9, 0.6, 0.0]), 1.0, "2-norm", 1000
    )
    weaker = curve(1.0, 0.7, 0.2)
    assert sanity_checks.certified_at_most_attacked(
        proven, [weaker, attacked]
    ).passed
    wrong = proven._replace(accuracies=np.array([0.9, 0.6, 0.102]))
    refuted = sanity_checks.certified_at_most_attacked(
        wrong, [weaker, attacked]
    )
    assert not refuted.passed
    assert refuted.measured["at_epsilon"] == 0.5
    with pytest.raises(ValueError, match="same number of images"):
        sanity_checks.certified_at_most_attacked(
            proven._replace(num_images=999), [attacked]
        )
    with pytest.raises(ValueError, match="attacks must not be empty"):
        sanity_checks.certified_at_most_attacked(proven, [])


def test_accuracy_must_fall_to_chance_at_the_largest_budget():
    shuffled = curve(0.05, 0.1, 0.9, budgets=[0.1, 0.5, 0.0])
    assert sanity_checks.falls_to_chance(shuffled, 10).passed
    failed = sanity_checks.falls_to_chance(curve(1.0, 0.0, 0.2), 10)
    assert not failed.passed
    assert failed.measured == {"epsilon": 0.5, "accuracy": 0.2, "chance": 0.1}


def test_zero_gradients_must_be_rare():
    assert sanity_checks.few_zero_gradients(curve(1, 1, 1, zero=0.01)).passed
    assert not sanity_checks.few_zero_gradients(
        curve(1, 1, 1, zero=0.011)
    ).passed
    with pytest.raises(ValueError, match="that uses gradients"):
        sanity_checks.few_zero_gradients(curve(1, 1, 1, zero=None))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(30, 6, 6, 1)).astype(np.float32)
    return images, rng.integers(10, size=30)


def test_equal_models_have_the_same_gradient(data):
    model = ode_classifier(image_shape=(6, 6, 1), width=8)
    check = sanity_checks.same_gradient(model, model, *data, batch_size=7)
    assert check.passed
    assert check.measured["largest_relative_distance"] == 0


def test_masked_gradients_of_a_twin_are_found(data):
    model = ode_classifier(image_shape=(6, 6, 1), width=8)

    @tf.custom_gradient
    def saturated(x):
        return x, lambda upstream: 0.5 * upstream

    check = sanity_checks.same_gradient(
        model, lambda x: saturated(model(x)), *data
    )
    assert not check.passed
    measured = check.measured
    assert measured["largest_relative_distance"] == pytest.approx(0.5)
    assert measured["share_of_differing_signs"] == 0
    flipped = sanity_checks.same_gradient(model, lambda x: -model(x), *data)
    assert flipped.measured["share_of_differing_signs"] > 0.5


def test_a_finer_solver_must_change_nothing():
    coarse = curve(1.0, 0.5, 0.0)
    close = curve(1.0, 0.503, 0.0)
    assert sanity_checks.finer_solver_agrees(coarse, close).passed
    check = sanity_checks.finer_solver_agrees(coarse, curve(1.0, 0.504, 0.0))
    assert not check.passed
    assert check.measured["largest_change_points"] == pytest.approx(0.4)
    clean = curve(1.0, 0.5, 0.0, clean=0.99)
    assert not sanity_checks.finer_solver_agrees(coarse, clean).passed


def test_curves_that_do_not_go_together_are_refused():
    one, other = curve(1.0, 0.6, 0.1), curve(1.0, 0.6, 0.1, count=999)
    with pytest.raises(
        ValueError, match="for 1000 images.*for 999 images|for 999.*for 1000"
    ):
        sanity_checks.pgd_at_least_as_strong(one, other)
    with pytest.raises(ValueError, match="same budgets"):
        sanity_checks.square_never_strongest(
            one, [curve(1.0, 0.6, 0.1, budgets=[0.0, 0.1, 0.2])]
        )


@pytest.mark.parametrize("solver", ["euler", "rk4"])
def test_a_finer_grid_has_more_steps_and_the_same_weights(solver, data):
    images, _ = data
    model = ode_classifier(
        image_shape=(6, 6, 1), width=8, solver=solver, delta_bar=0.0
    )
    finer = with_finer_solver(model, 4)
    assert finer.get_layer("ode").solver.num_steps == 80
    assert model.get_layer("ode").solver.num_steps == 20
    for mine, theirs in zip(
        model.get_weights(), finer.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    difference = np.abs(model(images) - finer(images)).max()
    assert difference < {"euler": 1e-1, "rk4": 1e-5}[solver]
    assert solver == "rk4" or difference > 1e-4


def test_a_finer_adaptive_solver_has_tighter_tolerances():
    model = ode_classifier(
        image_shape=(6, 6, 1), width=8, solver="dormand_prince"
    )
    before, after = (
        m.get_layer("ode").solver for m in (model, with_finer_solver(model))
    )
    assert after._rtol == before._rtol / 2
    assert after._atol == before._atol / 2
    assert after._max_num_steps == 2 * before._max_num_steps


def test_every_ode_layer_is_refined_also_inside_a_model():
    """Also the pieces of a piecewise one, whose number stays as it is."""
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [
            keras.Input((3,)),
            DeepODELayer([4], solver="rk4", name="deep"),
            PiecewiseODELayer(StableODELayer(delta_bar=0.0), 3, name="pieces"),
        ],
        name="inner",
    )
    model = keras.Sequential([keras.Input((3,)), inner, StableODELayer()])
    finer = with_finer_solver(model, 3)
    deep = finer.get_layer("inner").get_layer("deep")
    assert deep.solver.num_steps == 60
    assert inner.get_layer("deep").solver.num_steps == 20
    pieces = finer.get_layer("inner").get_layer("pieces").pieces
    assert [piece.solver.num_steps for piece in pieces] == 3 * [60]
    assert finer.layers[-1].solver.num_steps == 60
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    np.testing.assert_allclose(finer(x), model(x), atol=0.05)
    assert np.abs(finer(x) - model(x)).max() > 1e-5


def test_a_model_without_ode_cannot_be_refined():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="must have a neural ODE layer"):
        with_finer_solver(model)


def test_a_solver_that_is_no_finer_is_refused():
    with pytest.raises(ValueError, match="`factor` must be at least 2"):
        with_finer_solver(ode_classifier(width=4), 1)
