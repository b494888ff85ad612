"""Foolbox and ART, independent implementations, on the same model and images.

Their optional packages come with `pip install -e '.[peers]'`.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import attacks

BUDGET = {"linf": 0.06, "l2": 0.5}
POINTS = 0.005
STEPS, STEP_SIZE = 20, 0.1


@pytest.fixture(scope="module")
def classifier():
    """A network with gentle logits, so that nobody's softmax rounds to 1."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(24, "tanh"),
            keras.layers.Dense(5),
        ]
    )


@pytest.fixture(scope="module")
def data(classifier):
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(1000, 8, 8, 1)).astype(np.float32)
    return images, classifier(images).numpy().argmax(1)


@pytest.fixture(scope="module")
def foolbox_model(classifier):
    foolbox = pytest.importorskip("foolbox")
    return foolbox.TensorFlowModel(classifier, bounds=(0, 1))


@pytest.fixture(scope="module")
def art_model(classifier):
    classification = pytest.importorskip("art.estimators.classification")
    return classification.TensorFlowV2Classifier(
        classifier,
        nb_classes=5,
        input_shape=(8, 8, 1),
        clip_values=(0.0, 1.0),
        loss_object=keras.losses.SparseCategoricalCrossentropy(
            from_logits=True
        ),
    )


def accuracy(classifier, images, labels):
    return np.mean(classifier(images).numpy().argmax(1) == labels)


def assert_equal_images(ours, theirs):
    """All pixels, but for those whose gradient rounds to either side of 0."""
    np.testing.assert_allclose(
        np.mean(np.abs(ours - theirs) > 1e-6), 0.0, atol=1e-4
    )


def test_fgsm_makes_the_images_of_foolbox(classifier, data, foolbox_model):
    foolbox = pytest.importorskip("foolbox")
    epsilons = [0.02, 0.06, 0.3]
    ours = attacks.FGSM()(classifier, *data, epsilons)
    _, theirs, success = foolbox.attacks.FGSM()(
        foolbox_model, *map(tf.constant, data), epsilons=epsilons
    )
    for mine, other in zip(ours.adversarial, theirs, strict=True):
        assert_equal_images(mine, other.numpy())
    np.testing.assert_array_equal(ours.success, success.numpy())


def test_fgsm_makes_the_images_of_art(classifier, data, art_model):
    evasion = pytest.importorskip("art.attacks.evasion")
    images, labels = data
    ours = attacks.FGSM()(classifier, images, labels, [0.06]).adversarial[0]
    theirs = evasion.FastGradientMethod(art_model, eps=0.06, batch_size=500)
    assert_equal_images(ours, theirs.generate(images, labels))


def assert_same_iterations(ours, theirs, labels, classifier):
    """We stop at the first success; where there is none, images are equal."""
    failed = ~ours.success[0]
    assert 50 < failed.sum() < 950
    equal = np.isclose(ours.adversarial[0][failed], theirs[failed], atol=1e-4)
    assert equal.mean() > 0.999
    theirs_failed = classifier(theirs).numpy().argmax(1) == labels
    assert not (~theirs_failed & failed).any()
    assert abs(np.mean(failed) - np.mean(theirs_failed)) <= POINTS


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_from_the_image_is_that_of_foolbox(
    classifier, data, foolbox_model, norm
):
    """Without a random start the iterations are the same, image by image.

    In the 2-norm, as far from black and white as no step leads: there Foolbox
    goes back into the ball first and we into the range of the pixels.
    """
    foolbox = pytest.importorskip("foolbox")
    images, labels = data
    if norm == "l2":
        images = 0.3 + 0.4 * images
        labels = classifier(images).numpy().argmax(1)
    cls = {"linf": "LinfPGD", "l2": "L2PGD"}[norm]
    budget = {"linf": 0.06, "l2": 0.2}[norm]
    attack = getattr(foolbox.attacks, cls)(
        rel_stepsize=STEP_SIZE, steps=STEPS, random_start=False
    )
    _, theirs, _ = attack(
        foolbox_model,
        tf.constant(images),
        tf.constant(labels),
        epsilons=budget,
    )
    ours = attacks.PGD(norm=norm, restarts=0, steps=STEPS, step_size=STEP_SIZE)(
        classifier, images, labels, [budget]
    )
    assert_same_iterations(ours, theirs.numpy(), labels, classifier)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_from_the_image_is_that_of_art(classifier, data, art_model, norm):
    """Black and white pixels included: into their range, then the ball."""
    evasion = pytest.importorskip("art.attacks.evasion")
    images, labels = data
    images = np.clip(2.0 * images - 0.5, 0.0, 1.0)  # half of them are
    labels = classifier(images).numpy().argmax(1)
    theirs = evasion.ProjectedGradientDescent(
        art_model,
        norm={"linf": np.inf, "l2": 2}[norm],
        eps=BUDGET[norm],
        eps_step=STEP_SIZE * BUDGET[norm],
        max_iter=STEPS,
        num_random_init=0,
        batch_size=1000,
        verbose=False,
    ).generate(images, labels)
    ours = attacks.PGD(norm=norm, restarts=0, steps=STEPS, step_size=STEP_SIZE)(
        classifier, images, labels, [BUDGET[norm]]
    )
    assert_same_iterations(ours, theirs, labels, classifier)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_as_strong_as_foolbox(classifier, data, foolbox_model, norm):
    """Or stronger, in the 2-norm: see above."""
    foolbox = pytest.importorskip("foolbox")
    cls = {"linf": "LinfPGD", "l2": "L2PGD"}[norm]
    tf.random.set_seed(0)
    attack = getattr(foolbox.attacks, cls)(rel_stepsize=STEP_SIZE, steps=STEPS)
    *_, success = attack(
        foolbox_model, *map(tf.constant, data), epsilons=BUDGET[norm]
    )
    ours = attacks.PGD(norm=norm, steps=STEPS, step_size=STEP_SIZE)(
        classifier, *data, [BUDGET[norm]]
    )
    excess = np.mean(ours.success) - np.mean(success)
    assert -POINTS <= excess <= {"linf": POINTS, "l2": 1.0}[norm]


def test_pgd_is_that_of_foolbox_in_double_precision(classifier, data):
    """Where answers are sure, their loss in float32 has lost its gradient."""
    foolbox = pytest.importorskip("foolbox")
    images, labels = data

    def sure(x):
        return 40.0 * classifier(x)

    ours = attacks.PGD(steps=STEPS, step_size=STEP_SIZE)(
        sure, images, labels, [BUDGET["linf"]]
    )
    tf.random.set_seed(0)
    attack = foolbox.attacks.LinfPGD(rel_stepsize=STEP_SIZE, steps=STEPS)
    theirs = {}
    for dtype in (tf.float32, tf.float64):
        served = foolbox.TensorFlowModel(
            lambda x, dtype=dtype: tf.cast(sure(x), dtype), bounds=(0, 1)
        )
        *_, success = attack(
            served, *map(tf.constant, data), epsilons=BUDGET["linf"]
        )
        theirs[dtype] = np.mean(success)
    assert abs(np.mean(ours.success) - theirs[tf.float64]) <= POINTS
    assert theirs[tf.float32] < theirs[tf.float64] - POINTS


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_as_strong_as_art(classifier, data, art_model, norm):
    evasion = pytest.importorskip("art.attacks.evasion")
    images, labels = data
    np.random.seed(0)
    attack = evasion.ProjectedGradientDescent(
        art_model,
        norm={"linf": np.inf, "l2": 2}[norm],
        eps=BUDGET[norm],
        eps_step=STEP_SIZE * BUDGET[norm],
        max_iter=STEPS,
        num_random_init=1,
        batch_size=1000,
        verbose=False,
    )
    theirs = accuracy(classifier, attack.generate(images, labels), labels)
    ours = attacks.PGD(norm=norm, steps=STEPS, step_size=STEP_SIZE)(
        classifier, *data, [BUDGET[norm]]
    )
    assert abs(1 - np.mean(ours.success) - theirs) <= POINTS


@pytest.mark.parametrize(
    ("norm", "cls", "settings"),
    [
        ("linf", "LInfFMNAttack", {"steps": 100}),
        ("l2", "L2DeepFoolAttack", {"overshoot": 1e-3}),
    ],
)
def test_smallest_changes_are_those_of_foolbox(
    classifier, data, foolbox_model, norm, cls, settings
):
    """Its L2FMNAttack and DDN stay above, and do not help to compare."""
    foolbox = pytest.importorskip("foolbox")
    images, labels = data
    _, moved, success = getattr(foolbox.attacks, cls)(**settings)(
        foolbox_model, *map(tf.constant, data), epsilons=None
    )
    offsets = (moved.numpy() - images).reshape(len(images), -1)
    order = {"linf": np.inf, "l2": 2}[norm]
    theirs = np.linalg.norm(offsets, order, axis=1)[success.numpy()]
    result = attacks.FMN(norm=norm)(classifier, images, labels)
    assert result.success.all() and success.numpy().mean() > 0.95
    ratio = np.median(result.distances) / np.median(theirs)
    assert ratio == pytest.approx(1.0, abs=0.01)


@pytest.mark.slow
def test_square_is_as_strong_as_art():
    """On equal terms: ART's squares never touch the last row and column.

    So its model is given one of each that it does not look at. And ART draws
    one square for all images: only with many queries do its runs agree.
    """
    evasion = pytest.importorskip("art.attacks.evasion")
    classification = pytest.importorskip("art.estimators.classification")
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((11, 11, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(24, "tanh"),
            keras.layers.Dense(5),
        ]
    )
    crop = keras.layers.Cropping2D(((0, 1), (0, 1)))
    framed = keras.Sequential([keras.Input((12, 12, 1)), crop, network])
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(1000, 12, 12, 1)).astype(np.float32)
    labels = framed(images).numpy().argmax(1)

    np.random.seed(0)
    attack = evasion.SquareAttack(
        classification.TensorFlowV2Classifier(
            framed,
            nb_classes=5,
            input_shape=(12, 12, 1),
            clip_values=(0.0, 1.0),
        ),
        eps=0.04,
        max_iter=3000,
        p_init=0.8 * 11**2 / 12**2,
        batch_size=1000,
        verbose=False,
    )
    theirs = accuracy(framed, attack.generate(images, labels), labels)
    ours = attacks.Square(queries=3001)(
        network, images[:, :-1, :-1], labels, [0.04]
    )
    assert 0.1 < theirs < 0.9
    assert abs(1 - np.mean(ours.success) - theirs) <= POINTS
