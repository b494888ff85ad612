import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import attacks

WEIGHTS = np.array(
    [[1.0, -2.0, 0.5], [0.3, 0.1, -0.7], [-1.0, 0.6, 0.2], [0.8, 0.8, -1.5]],
    np.float32,
)


def linear(x):
    return (x - 0.5) @ tf.constant(WEIGHTS)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    images = rng.uniform(0.3, 0.7, size=(40, 4)).astype(np.float32)
    return images, linear(images).numpy().argmax(1)


@pytest.mark.parametrize("loss", ["cross_entropy", "cw", "dlr"])
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_linear_models_are_fooled_just_where_they_can_be(
    data, loss, norm, dual
):
    """A margin m falls to m - epsilon |w_y - w_j|, in the dual norm."""
    images, labels = data
    logits = linear(images).numpy().astype(np.float64)
    differences = WEIGHTS.T[labels][:, None] - WEIGHTS.T[None]
    slopes = np.linalg.norm(differences, dual, axis=-1)
    margins = logits[np.arange(40), labels][:, None] - logits
    radius = np.where(slopes > 0, margins / np.maximum(slopes, 1e-9), np.inf)
    radius = radius.min(axis=1)
    epsilons = [0.02, 0.05, 0.1]  # too small to reach the edge of the box
    attack = attacks.PGD(norm=norm, loss=loss, restarts=3)
    success = attack(linear, images, labels, epsilons).success
    for epsilon, hit in zip(epsilons, success, strict=True):
        np.testing.assert_array_equal(hit[radius > epsilon], False)
        assert hit[radius < 0.98 * epsilon].mean() >= 0.8
    assert 0 < success[0].sum() < success[2].sum() < 40


@pytest.mark.parametrize(("norm", "length"), [("linf", 0.02), ("l2", 0.02)])
def test_one_step_from_the_image_is_the_step_asked_for(data, norm, length):
    images, _ = data
    labels = np.full(40, 2)
    logits = linear(images).numpy()
    still_right = logits.argmax(1) == 2
    attack = attacks.PGD(norm=norm, restarts=0, steps=1, step_size=0.2)
    [adversarial] = attack(linear, images, labels, 0.1).adversarial
    offset = (adversarial - images)[still_right]
    odds = np.exp(logits[still_right, :2])
    weights = odds / odds.sum(1, keepdims=True)
    gradient = weights @ WEIGHTS[:, :2].T - WEIGHTS[:, 2]
    if norm == "linf":
        expected = length * np.sign(gradient)
    else:
        expected = length * gradient
        expected /= np.linalg.norm(gradient, axis=1, keepdims=True)
    np.testing.assert_allclose(offset, expected, atol=1e-6)
    assert still_right.sum() > 3


def test_one_full_step_is_fgsm(data):
    fast = attacks.FGSM()(linear, *data, [0.1])
    one = attacks.PGD(restarts=0, steps=1, step_size=1.0)(linear, *data, [0.1])
    np.testing.assert_allclose(one.adversarial, fast.adversarial, atol=1e-6)
    np.testing.assert_array_equal(one.success, fast.success)


def test_a_schedule_is_followed(data):
    """Steps of 0.4, 0.2 and 0.1 budgets where the gradient never changes."""
    images, _ = data

    def model(x):
        return tf.stack([x[:, 0], -x[:, 0] - 10.0], axis=1)

    labels = np.zeros(40, int)
    attack = attacks.PGD(restarts=0, steps=3, step_size=[0.4, 0.2, 0.1])
    result = attack(model, images, labels, 0.1)
    assert not result.success.any()
    np.testing.assert_allclose(
        (result.adversarial[0] - images)[:, 0], -0.07, atol=1e-6
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_steps_that_are_not_whole_chunks(data, norm):
    """The 13th step is made, a 14th is not, whatever the chunk."""
    images, labels = data
    outcomes = [
        attacks.PGD(norm=norm, restarts=0, steps=steps, step_size=0.01)(
            lambda x: linear(x) + tf.one_hot(labels[0], 3) * 100.0,
            images[:1],
            labels[:1],
            [1.0],
        ).adversarial
        for steps in (12, 13, 14)
    ]
    moved = [np.abs(a[0] - images[:1]).max() for a in outcomes]
    assert moved[0] < moved[1] < moved[2]
    np.testing.assert_allclose(np.diff(moved), moved[0] / 12, rtol=0.01)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_fill_the_ball(norm):
    """Flat logits: the image stays where the random start has put it."""
    images = np.full([500, 6], 0.5, np.float32)

    def flat(x):
        return tf.constant([[3.0, 0.0]]) + 0.0 * x[:, :2]

    epsilon = 0.2
    batch = attacks.PGD(norm=norm, steps=1)(
        flat, images, np.zeros(500, int), [epsilon]
    )
    assert batch.zero_gradient.all()
    offset = (batch.adversarial[0] - 0.5) / epsilon
    radius = np.linalg.norm(offset, {"linf": np.inf, "l2": 2}[norm], axis=1)
    assert radius.max() <= 1 + 1e-5
    # Of a uniform point of the ball, radius ** 6 is uniform on [0, 1].
    np.testing.assert_allclose(
        np.quantile(radius**6, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.08
    )
    assert np.abs(offset.mean(axis=0)).max() < 0.15


def test_restarts_find_more():
    """Only starts in a narrow valley lead to the other class."""

    def valleys(x):
        valley = tf.nn.relu(1.0 - 20.0 * tf.abs(x - 0.6))
        return tf.concat([0.5 + 0.0 * valley, valley], axis=1)

    images, labels = np.full([60, 1], 0.5), np.zeros(60, int)
    found = [
        attacks.PGD(restarts=r)(valleys, images, labels, [0.2]).success.sum()
        for r in (1, 8)
    ]
    assert 0 < found[0] < found[1]


def test_tiny_gradients_do_not_stop_the_euclidean_attack(data):
    images, labels = data
    scaled = [
        attacks.PGD(norm="l2", loss="cw")(
            lambda x, s=s: s * linear(x), images, labels, [0.1]
        ).success
        for s in (1.0, 1e-25)
    ]
    np.testing.assert_array_equal(*scaled)
    assert scaled[0].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "l1"}, "norm must be one of"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"steps": 0}, "`steps` must be at least 1"),
        ({"steps": 1.5}, "`steps` must be an integer"),
        ({"restarts": -1}, "`restarts` must be at least 0"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"step_size": 0.0}, "step_size must be a positive number"),
        ({"step_size": np.nan}, "step_size must be a positive number"),
        ({"step_size": [0.1, 0.2]}, "or 100 of them"),
        ({"step_size": "large"}, "step_size must be a positive number"),
    ],
)
def test_malformed_settings_are_refused(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        attacks.PGD(**change)


def test_clipped_pixels_cost_nothing_of_an_euclidean_budget():
    """Of two pixels that the gradient pushes, one is white already."""
    weights = tf.constant([[-1.0, 1.0], [-1.0, 1.0]])
    attack = attacks.PGD(norm="l2", steps=5, restarts=0)(
        lambda x: (0.9 - x) @ weights, [[0.2, 1.0]], [1], [0.5]
    )
    np.testing.assert_allclose(attack.adversarial[0], [[0.7, 1.0]], atol=1e-6)


def test_dlr_needs_three_classes(data):
    images, _ = data
    with pytest.raises(ValueError, match="at least three classes"):
        attacks.PGD(loss="dlr")(
            lambda x: linear(x)[:, :2], images, np.zeros(40, int), [0.1]
        )
