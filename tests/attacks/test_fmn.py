"""The smallest change that fools a model."""

import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import attacks

NORMS = {"linf": np.inf, "l2": 2}
every_norm = pytest.mark.parametrize("norm", NORMS)


@pytest.fixture(scope="module")
def linear():
    """A linear model of two classes, images near corners too, and labels."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=20)
    offset = 0.5 * weights.sum()
    images = np.clip(rng.uniform(-0.5, 1.5, (40, 20)), 0, 1).astype(np.float32)
    labels = (images @ weights > offset).astype(int)

    def model(x):
        z = tf.linalg.matvec(x, tf.constant(weights, tf.float32)) - offset
        return tf.stack([-z, z], axis=1)

    return model, images, labels, weights, offset


def smallest(images, labels, weights, offset, norm):
    """Exactly: the further along the steepest direction, the more is clipped.

    That is what the conditions of Karush, Kuhn and Tucker say of a linear
    constraint in a box, for either norm.
    """
    uphill = np.where(labels, -1, 1)[:, np.newaxis] * weights
    direction = np.sign(uphill) if norm == "linf" else uphill
    low, high = np.zeros(len(images)), np.full(len(images), 1e3)
    for _ in range(200):
        middle = (low + high) / 2
        moved = np.clip(images + middle[:, np.newaxis] * direction, 0, 1)
        wrong = (moved @ weights > offset) != labels
        low, high = np.where(wrong, low, middle), np.where(wrong, middle, high)
    return np.linalg.norm(moved - images, NORMS[norm], axis=1)


@every_norm
def test_changes_are_the_smallest_of_a_linear_model(linear, norm):
    model, images, labels, *plane = linear
    found = attacks.FMN(norm=norm)(model, images, labels).distances[0]
    exact = smallest(images.astype(float), labels, *plane, norm)
    assert np.all(found >= exact * (1 - 1e-4))
    assert np.median(found / exact) < 1.005
    assert np.max(found / exact) < 1.05


@every_norm
def test_without_budgets_every_image_is_fooled_at_its_distance(linear, norm):
    model, images, labels, *_ = linear
    attack = attacks.FMN(norm=norm)
    wrong = labels.copy()
    wrong[:5] = 1 - wrong[:5]
    result = attack(model, images, wrong)
    assert result.success.shape == (1, 40) and result.success.all()
    assert result.epsilons.tolist() == [np.inf]
    offsets = result.adversarial[0] - images
    np.testing.assert_allclose(
        np.linalg.norm(offsets, NORMS[norm], axis=1),
        result.distances[0],
        rtol=1e-5,
    )
    assert not result.distances[0, :5].any()
    # Alone and in batches of another size they are fooled as well.
    alone = [model(image[np.newaxis]) for image in result.adversarial[0]]
    assert np.all(np.argmax(alone, -1)[:, 0] != wrong)
    # Budgets select from the same changes.
    budgets = np.quantile(result.distances, [0.3, 0.8])
    limited = attack(model, images, wrong, budgets)
    np.testing.assert_array_equal(
        limited.success, result.distances <= budgets[:, np.newaxis]
    )
    np.testing.assert_array_equal(
        limited.adversarial[0][~limited.success[0]], images[~limited.success[0]]
    )


@every_norm
def test_the_opposite_corner_is_within_reach(norm):
    def model(x):
        total = tf.reduce_sum(x, 1, keepdims=True) - 3.99
        return tf.concat([0.0 * total, total], 1)

    result = attacks.FMN(norm=norm)(model, np.zeros([1, 4]), [0])
    exact = {"linf": 0.9975, "l2": 1.995}[norm]
    assert exact < result.distances[0, 0] <= 1.005 * exact


def test_what_cannot_be_fooled_is_infinitely_far():
    def steps(x):  # no gradient on either side
        return 2.0 * tf.stop_gradient(tf.round(x)) + 0.0 * x

    result = attacks.FMN()(steps, [[0.1, 0.9], [0.9, 0.1]], [1, 1])
    assert result.success.tolist() == [[False, True]]
    assert result.distances.tolist() == [[np.inf, 0.0]]
    assert result.zero_gradient.all()


def test_the_worst_case_without_budgets_is_the_nearest(linear):
    model, images, labels, *_ = linear
    pair = attacks.FMN(steps=10), attacks.FMN(steps=40)
    both = attacks.WorstCase(pair)(model, images, labels).distances
    expected = np.minimum(*(a(model, images, labels).distances for a in pair))
    np.testing.assert_array_equal(both, expected)
    with pytest.raises(ValueError, match="epsilons must be.*None"):
        attacks.WorstCase([pair[0], attacks.PGD()])(model, images, labels)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"norm": "l1"}, ValueError),
        ({"steps": 0}, ValueError),
        ({"steps": 2.5}, TypeError),
    ],
)
def test_malformed_settings_are_refused(settings, error):
    with pytest.raises(error, match=f"{next(iter(settings))}"):
        attacks.FMN(**settings)
