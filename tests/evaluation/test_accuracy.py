import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import attacks, evaluation

EPSILONS = [0.6, 0.0, 0.05, 0.1]


def classifier_and_data():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(8, "tanh", kernel_initializer="normal"),
            keras.layers.Dense(3, use_bias=False),
        ]
    )
    rng = np.random.default_rng(0)
    kernel, _ = model.layers[0].get_weights()
    model.layers[0].set_weights([20 * kernel, -10 * kernel.sum(axis=0)])
    images = rng.uniform(size=(41, 5)).astype(np.float32)
    labels = model(images).numpy().argmax(1)
    labels[:4] = (labels[:4] + 1) % 3  # four clean errors
    return model, images, labels


def test_curve_counts_what_the_attack_found():
    model, images, labels = classifier_and_data()
    curve = evaluation.accuracy_curve(
        model, images, labels, attacks.FGSM(), EPSILONS, batch_size=7
    )
    success = attacks.FGSM()(model, images, labels, EPSILONS).success
    np.testing.assert_allclose(curve.accuracies, 1 - success.mean(axis=1))
    np.testing.assert_array_equal(curve.epsilons, EPSILONS)
    assert curve.clean_accuracy == curve.accuracies[1] == 37 / 41
    assert curve.accuracies[0] < curve.accuracies[1]
    assert curve.zero_gradient_share == 0
    assert curve.num_images == 41


def test_zero_gradient_share_is_a_share_of_images():
    def half_dead(x):
        return x * tf.cast(x[:, :1] < 0.5, tf.float32)

    images = np.array([[0.1, 0.2], [0.9, 0.3], [0.2, 0.1], [0.3, 0.1]], "f4")
    curve = evaluation.accuracy_curve(
        half_dead, images, [0] * 4, attacks.FGSM(), 0.1, batch_size=3
    )
    assert curve.zero_gradient_share == 0.25


def test_attacked_images_are_not_kept():
    made, most_alive = [], 0

    class Watched(attacks.FGSM):
        def batches(self, *arguments, **options):
            nonlocal most_alive
            for batch in super().batches(*arguments, **options):
                made.append(weakref.ref(batch.adversarial))
                alive = sum(reference() is not None for reference in made)
                most_alive = max(most_alive, alive)
                yield batch

    evaluation.accuracy_curve(
        *classifier_and_data(), Watched(), EPSILONS, batch_size=1
    )
    assert len(made) == 41
    assert most_alive <= 3


def test_attacks_without_gradients_report_no_zero_gradients():
    images = np.full([5, 3, 3, 1], 0.6, np.float32)

    def model(x):
        return tf.reshape(x, [-1, 9])[:, :2] * [1.0, 0.9]

    curve = evaluation.accuracy_curve(
        model, images, [0] * 5, attacks.Square(queries=50), [0.0, 0.3]
    )
    assert curve.zero_gradient_share is None
    assert curve.accuracies.tolist() == [1.0, 0.0]
    assert (curve.clean_accuracy, curve.num_images) == (1.0, 5)


def test_margins_are_leads_over_the_largest_rival():
    model, images, labels = classifier_and_data()
    margins = evaluation.margins(model, images, labels, 7)
    logits = model(images).numpy().astype(np.float64)
    own = logits[np.arange(41), labels]
    logits[np.arange(41), labels] = -np.inf
    np.testing.assert_allclose(margins, own - logits.max(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(np.flatnonzero(margins < 0), range(4))
    with pytest.raises(ValueError, match="logits must be finite"):
        evaluation.margins(lambda x: np.nan * model(x), images, labels)


def linear_flow(matrix):
    def solve(state, times):
        flow = tf.linalg.expm(times[:, None, None] * matrix)
        return tf.einsum("tij,bj->tbi", flow, state)

    return solve


def test_separation_of_a_linear_flow_is_exact():
    rng = np.random.default_rng(1)
    state, perturbation = rng.normal(size=(2, 6, 2))
    rotation = np.array([[-0.5, 3.0], [-3.0, -0.5]])
    times = np.linspace(0, 2, 5)
    ratios = evaluation.separation(
        linear_flow(rotation), state, perturbation, times
    )
    assert ratios.shape == (5, 6) and ratios.dtype == np.float64
    expected = np.repeat(np.exp(-0.5 * times)[:, None], 6, axis=1)
    np.testing.assert_allclose(ratios, expected, rtol=1e-12)


def test_separation_stays_below_the_logarithmic_norm():
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(4, 4))
    growth = np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]
    times = np.linspace(0, 1.5, 7)
    ratios = evaluation.separation(
        linear_flow(matrix), *rng.normal(size=(2, 50, 4)), times
    )
    bound = np.exp(growth * times)[:, None]
    assert (ratios <= bound * (1 + 1e-9)).all()
    assert ratios.max() > 1


def test_separation_measures_the_pair_that_was_solved():
    """In float32 the start distance is that of the rounded states."""
    state = np.full((1, 3), 1000.0, np.float32)
    perturbation = np.full((1, 3), 1e-4, np.float32)
    solved = []

    def solve(states, times):
        solved.append(states.numpy())
        return tf.repeat(states[None], len(times), axis=0)

    ratios = evaluation.separation(solve, state, perturbation, [0.0, 1.0])
    assert len(solved) == 1 and solved[0].shape == (2, 3)
    np.testing.assert_array_equal(ratios, 1.0)


@pytest.mark.parametrize(
    ("state", "perturbation", "times", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 2)), [0.0], "one shape"),
        (np.ones(3), np.ones(3), [0.0], "one shape"),
        (np.ones((0, 3)), np.ones((0, 3)), [0.0], "one shape"),
        (np.ones((2, 3)), np.eye(2, 3, -1), [0.0], "leaves 1 of 2"),
        (np.ones((2, 3), "f4"), np.full((2, 3), 1e-9), [0.0], "leaves 2 of 2"),
        (np.ones((2, 3)), np.ones((2, 3)), [], "times must be"),
        (np.ones((2, 3)), np.ones((2, 3)), [0.0, 0.0], "times must be"),
        (np.ones((2, 3)), np.ones((2, 3)), [-1.0, 0.0], "times must be"),
        (np.ones((2, 3)), np.ones((2, 3)), [0.0, np.nan], "times must be"),
    ],
)
def test_malformed_separations_are_refused(state, perturbation, times, message):
    with pytest.raises(ValueError, match=message):
        evaluation.separation(
            linear_flow(np.eye(3)), state, perturbation, times
        )


def test_malformed_trajectories_are_refused():
    pair = np.ones((2, 3)), np.ones((2, 3)), [0.0, 1.0]
    with pytest.raises(ValueError, match=r"shape \(2, 4, 3\)"):
        evaluation.separation(lambda state, times: state, *pair)
    with pytest.raises(ValueError, match="finite states"):
        evaluation.separation(
            lambda state, times: np.nan * tf.ones([2, 4, 3]), *pair
        )
