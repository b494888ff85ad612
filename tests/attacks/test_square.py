import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import attacks
from stable_node_tf.attacks.square import side_lengths


def one_pixel(row, column):
    """Class 1 if that pixel is brighter than gray; no gradient to follow."""

    def model(x):
        bright = tf.sign(x[:, row, column, 0] - 0.5)
        return tf.stack([-bright, bright], axis=1)

    return model


def far_from_flat(x):
    """The margin of class 0 is the mean square distance from 0.9."""
    distance = tf.reduce_mean(tf.square(x - 0.9), axis=[1, 2, 3])
    return tf.stack([distance + 1.0, tf.zeros_like(distance)], axis=1)


@pytest.mark.parametrize("place", [(0, 0), (0, 6), (4, 0), (4, 6), (2, 3)])
def test_every_pixel_is_reached(place):
    images = np.full([4, 5, 7, 1], 0.6, np.float32)
    attack = attacks.Square(queries=600)
    success = attack(
        one_pixel(*place), images, np.ones(4, int), [0.05, 0.2]
    ).success
    np.testing.assert_array_equal(success, [[False] * 4, [True] * 4])


def test_pixels_lie_on_the_budget_or_the_edge_of_the_range():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(6, 8, 8, 3)).astype(np.float32)
    labels = np.zeros(6, int)
    result = attacks.Square(queries=100)(far_from_flat, images, labels, 0.1)
    adversarial = result.adversarial
    assert not result.success.any()
    up, down = np.clip(images + 0.1, 0, 1), np.clip(images - 0.1, 0, 1)
    on_edge = np.isclose(adversarial[0], up) | np.isclose(adversarial[0], down)
    assert on_edge.all()


def test_more_queries_shrink_the_margin():
    images = np.full([8, 10, 10, 1], 0.3, np.float32)
    labels = np.zeros(8, int)
    means = []
    for queries in (1, 20, 400):
        attack = attacks.Square(queries=queries)
        [adversarial] = attack(far_from_flat, images, labels, 0.1).adversarial
        means.append((adversarial - images).mean(axis=(1, 2, 3)))
    assert np.abs(means[0]).max() <= 0.1
    assert (means[1] > means[0] - 1e-6).all()
    assert (means[2] > 0.08).all()


def test_first_query_is_vertical_stripes():
    images = np.full([8, 5, 6, 2], 0.5, np.float32)
    attack = attacks.Square(queries=1)
    labels = np.zeros(8, int)
    [adversarial] = attack(far_from_flat, images, labels, 0.1).adversarial
    offset = adversarial - images
    np.testing.assert_allclose(np.abs(offset), 0.1, atol=1e-6)
    np.testing.assert_array_equal(offset, offset[:, :1].repeat(5, axis=1))
    assert len(np.unique(offset[:, 0].reshape(8, -1), axis=0)) > 4


def test_no_more_queries_than_asked_for():
    """27 queries are a chunk of 25 and two of the next."""
    images = np.full([3, 6, 6, 1], 0.3, np.float32)
    labels = np.zeros(3, int)
    outcomes = [
        attacks.Square(queries=queries)(far_from_flat, images, labels, [0.1])
        for queries in (27, 27, 28)
    ]
    np.testing.assert_array_equal(*(o.adversarial for o in outcomes[:2]))


def test_sides_follow_the_published_schedule():
    """p = 0.8 halved at 10, 50, 200, ... of 10 000 queries, 28 x 28 pixels."""
    sides = side_lengths(10_000, 0.8, 28, 28)
    assert sides[0] == 0
    np.testing.assert_array_equal(sides[1:11], 25)
    assert sides[11] == round((0.4 * 784) ** 0.5) == sides[50]
    assert sides[51] == round((0.2 * 784) ** 0.5) == sides[200]
    assert sides[8001] == round((0.8 / 512 * 784) ** 0.5) == 1
    assert (np.diff(sides[1:]) <= 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": 0}, "`queries` must be at least 1"),
        ({"restarts": 0}, "`restarts` must be at least 1"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"initial_share": 0.0}, r"initial_share must be in \(0, 1\]"),
        ({"initial_share": 1.5}, r"initial_share must be in \(0, 1\]"),
    ],
)
def test_malformed_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        attacks.Square(**change)


def test_images_must_have_height_width_and_channels():
    with pytest.raises(ValueError, match="height, width, channels"):
        attacks.Square()(lambda x: x[:, :2], np.ones([2, 9]), [0, 0], 0.1)
