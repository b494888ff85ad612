"""What holds for every attack, in one table."""

import functools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import attacks

EPSILONS = [0.2, 0.0, 0.7, 0.05]

pgd = functools.partial(attacks.pgd, steps=12)
ATTACKS = {
    "fgsm": (attacks.fgsm, "linf"),
    "pgd": (pgd, "linf"),
    "pgd, cw": (functools.partial(pgd, loss="cw"), "linf"),
    "pgd, dlr": (functools.partial(pgd, loss="dlr", restarts=2), "linf"),
    "pgd, l2": (functools.partial(pgd, norm="l2"), "l2"),
    "square": (functools.partial(attacks.square, queries=60), "linf"),
}
GENERATORS = {
    "fgsm": attacks.fgsm_batches,
    "pgd": attacks.pgd_batches,
    "square": attacks.square_batches,
}
ITERATED = {name: pair for name, pair in ATTACKS.items() if name != "fgsm"}


def every(table):
    return pytest.mark.parametrize("name", table)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(23, 4, 4, 1)).astype(np.float32)
    model = smooth_model()
    labels = model(images).numpy().argmax(1)
    labels[:3] = (labels[:3] + 1) % 3  # three clean errors
    return images, labels


def smooth_model():
    rng = np.random.default_rng(1)
    first, second = (
        tf.constant(rng.normal(size=shape) / np.sqrt(shape[0]), tf.float32)
        for shape in ((16, 12), (12, 3))
    )

    def model(x):
        hidden = tf.reshape(tf.cast(x, tf.float32) - 0.5, [-1, 16]) @ first
        return tf.tanh(3.0 * hidden) @ second

    return model


def distances(adversarial, images, norm):
    offset = (adversarial - images).reshape(*adversarial.shape[:2], -1)
    order = {"linf": np.inf, "l2": 2}[norm]
    return np.linalg.norm(offset.astype(np.float64), order, axis=-1)


@every(ATTACKS)
def test_outcome_has_the_promised_form(name, data):
    images, labels = data
    attack, norm = ATTACKS[name]
    model = smooth_model()
    scale = {"linf": 1, "l2": 2}[norm]
    epsilons = [scale * epsilon for epsilon in EPSILONS]
    adversarial, success = attack(model, images, labels, epsilons)
    assert adversarial.shape == (4, 23, 4, 4, 1)
    assert adversarial.dtype == np.float32
    assert success.shape == (4, 23) and success.dtype == bool
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    np.testing.assert_array_equal(adversarial[1], images)
    for epsilon, attacked, hit in zip(
        epsilons, adversarial, success, strict=True
    ):
        assert distances(attacked[None], images, norm).max() <= epsilon + 1e-6
        answers = model(attacked).numpy().argmax(1)
        np.testing.assert_array_equal(hit, answers != labels)
    assert success[1].sum() == 3
    assert success[2].sum() > success[0].sum() > success[3].sum() >= 3


@every(ITERATED)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_budgets_are_nested(name, data, jit_compile):
    """An image fooled within a budget is fooled within the larger ones."""
    attack, norm = ATTACKS[name]
    epsilons = np.array([0.15, 0.05, 0.1]) * {"linf": 1, "l2": 4}[norm]
    adversarial, success = attack(
        smooth_model(), *data, epsilons, jit_compile=jit_compile
    )
    assert (success[1] <= success[2]).all() and (success[2] <= success[0]).all()
    np.testing.assert_array_equal(
        adversarial[0][success[1]], adversarial[1][success[1]]
    )
    assert not success.all()


@every(ATTACKS)
@pytest.mark.parametrize("batch_size", [1, 5])
def test_batches_change_nothing(name, data, batch_size):
    attack, _ = ATTACKS[name]
    model = smooth_model()
    whole = attack(model, *data, EPSILONS, batch_size=23)
    parts = attack(model, *data, EPSILONS, batch_size=batch_size)
    np.testing.assert_array_equal(parts.success, whole.success)
    np.testing.assert_allclose(parts.adversarial, whole.adversarial, atol=1e-5)


@every(ITERATED)
def test_same_seed_same_result(name, data):
    attack, _ = ATTACKS[name]
    model = smooth_model()
    first = attack(model, *data, EPSILONS, seed=7)
    again = attack(model, *data, EPSILONS, seed=7)
    other = attack(model, *data, EPSILONS, seed=8)
    np.testing.assert_array_equal(first.adversarial, again.adversarial)
    assert (first.adversarial != other.adversarial).any()


@every(ITERATED)
def test_other_budgets_change_nothing_for_the_smallest(name, data):
    attack, _ = ATTACKS[name]
    model = smooth_model()
    together = attack(model, *data, [0.3, 0.1])
    alone = attack(model, *data, [0.1])
    np.testing.assert_array_equal(together.success[1], alone.success[0])
    np.testing.assert_allclose(
        together.adversarial[1], alone.adversarial[0], atol=1e-5
    )


@every(ITERATED)
def test_more_rows_than_fit(name, data, monkeypatch):
    """Rows take up one image after another, in the same way for each."""
    attack, _ = ATTACKS[name]
    model = smooth_model()
    wide = attack(model, *data, EPSILONS)
    monkeypatch.setattr("stable_node_tf.attacks.row_queue.ROWS", 5)
    narrow = attack(model, *data, EPSILONS)
    np.testing.assert_array_equal(narrow.success, wide.success)
    np.testing.assert_allclose(narrow.adversarial, wide.adversarial, atol=1e-5)


@every(ITERATED)
def test_images_that_are_wrong_anyway_are_left_alone(name, data):
    images, labels = data
    attack, _ = ATTACKS[name]
    adversarial, success = attack(smooth_model(), images, labels, [0.5])
    np.testing.assert_array_equal(adversarial[0, :3], images[:3])
    assert success[0, :3].all()


@every(ATTACKS)
def test_half_precision_logits(name, data):
    model = smooth_model()
    adversarial, _ = ATTACKS[name][0](
        lambda x: tf.cast(model(x), tf.bfloat16), *data, [0.1]
    )
    assert adversarial.dtype == np.float32


@every(ATTACKS)
def test_double_precision_models(name, data):
    model = smooth_model()
    _, success = ATTACKS[name][0](
        lambda x: tf.cast(model(x), tf.float64), *data, [0.7]
    )
    assert success.sum() > 3


@every(ATTACKS)
def test_probabilities_are_refused(name, data):
    model = smooth_model()
    with pytest.raises(ValueError, match="logits, not probabilities"):
        ATTACKS[name][0](lambda x: tf.nn.softmax(model(x)), *data, [0.1])


def tail(*layers):
    return keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), *layers]
    )


def dense(units, activation):
    return tail(keras.layers.Dense(units, activation))


PROBABILITIES = {
    "sigmoid": dense(3, "sigmoid"),
    "sigmoid, one": dense(1, "sigmoid"),
    "sigmoid, a layer": tail(
        keras.layers.Dense(1), keras.layers.Activation("sigmoid")
    ),
    "softmax, half precision": tail(
        keras.layers.Dense(3, "softmax", dtype="mixed_bfloat16")
    ),
    "softmax, called": tf.function(dense(3, "softmax")),
    "sigmoid, reshaped": lambda x: tf.reshape(
        tf.sigmoid(tf.reduce_sum(x, [1, 2, 3])), [-1, 1]
    ),
}


@every(PROBABILITIES)
@pytest.mark.parametrize("attack", ["fgsm", "square"])
def test_models_that_end_in_probabilities_are_refused(name, attack, data):
    images, labels = data
    with pytest.raises(ValueError, match="logits, not probabilities"):
        ATTACKS[attack][0](PROBABILITIES[name], images, labels % 2, [0.1])


@every(ATTACKS)
def test_log_probabilities_are_logits(name, data):
    """They differ by a shift, which no loss sees but for rounding."""
    model = smooth_model()
    attack = ATTACKS[name][0]
    one = attack(model, *data, EPSILONS)
    other = attack(lambda x: tf.nn.log_softmax(model(x)), *data, EPSILONS)
    np.testing.assert_array_equal(one.success, other.success)


def two_inputs():
    inputs = [keras.Input((4, 4, 1), name=name) for name in ("left", "right")]
    flat = keras.layers.Flatten()(keras.layers.Add()(inputs))
    return keras.Model(inputs, keras.layers.Dense(3)(flat))


def two_outputs(structure):
    image = keras.Input((4, 4, 1))
    flat = keras.layers.Flatten()(image)
    answers = [keras.layers.Dense(3, name=name)(flat) for name in ("a", "b")]
    return keras.Model(image, structure(answers))


MISFITS = {
    "dictionary": (two_outputs(lambda x: dict(a=x[0], b=x[1])), "dictionary.*"),
    "dictionary of one": (two_outputs(lambda x: {"a": x[0]}), "dictionary"),
    "list": (two_outputs(list), "list of 2"),
    "two inputs": (two_inputs(), "one input.*2 inputs, left, right"),
    "images": (tail(keras.layers.Reshape((4, 4))), r"\(None, 4, 4\)"),
    "integers": (lambda x: tf.cast(x[:, 0, :, 0], tf.int32), "int32"),
    "one answer": (
        lambda x: tf.reduce_sum(x, [0, 1])[tf.newaxis, :, 0],
        "one row of logits for each image",
    ),
}


@every(MISFITS)
@pytest.mark.parametrize("attack", ["fgsm", "pgd", "square"])
def test_models_of_other_form_are_refused_by_name(name, attack, data):
    model, message = MISFITS[name]
    with pytest.raises(ValueError, match=f"model must.*{message}"):
        ATTACKS[attack][0](model, *data, [0.1])


SINGLE = [name for name in ATTACKS if name != "pgd, dlr"]


@every(SINGLE)
def test_a_single_logit_stands_for_two(name, data):
    """Class 1 where it is positive; where it is zero or less, class 0."""
    images, labels = data
    model = smooth_model()

    def one(x):
        return model(x)[:, :1]

    def two(x):
        z = model(x)[:, :1]
        return tf.concat([-z / 2, z / 2], 1)

    labels = (one(images).numpy()[:, 0] > 0).astype(int)
    labels[:3] = 1 - labels[:3]
    epsilons = [0.0, 0.02, 0.3]
    mine = ATTACKS[name][0](one, images, labels, epsilons)
    theirs = ATTACKS[name][0](two, images, labels, epsilons)
    np.testing.assert_array_equal(mine.success, theirs.success)
    assert mine.success[2].sum() > mine.success[0].sum() == 3
    for attacked, hit in zip(mine.adversarial, mine.success, strict=True):
        answers = one(attacked).numpy()[:, 0] > 0
        np.testing.assert_array_equal(hit, answers != labels)
    with pytest.raises(ValueError, match="below 2, the number of classes"):
        ATTACKS[name][0](one, images, labels + 1, epsilons)


def test_a_single_logit_of_zero_is_class_0(data):
    images, _ = data
    [batch] = attacks.fgsm_batches(
        lambda x: 0.0 * x[:, 0, 0], images, np.zeros(23, int), [0.1]
    )
    assert not batch.predictions.any()


def test_a_single_logit_follows_the_binary_cross_entropy(data):
    images, labels = data
    labels = labels % 2
    model = dense(1, None)
    attack = attacks.fgsm(model, images, labels, [0.1])
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = keras.losses.binary_crossentropy(
            labels[:, np.newaxis], model(x), from_logits=True
        )
    expected = np.clip(images + 0.1 * np.sign(tape.gradient(loss, x)), 0, 1)
    np.testing.assert_allclose(attack.adversarial[0], expected, atol=1e-6)


def test_the_margin_ratio_of_a_single_logit_is_refused(data):
    with pytest.raises(ValueError, match="three classes.*counting as two"):
        attacks.pgd(dense(1, None), data[0], data[1] % 2, [0.1], loss="dlr")


@every(ATTACKS)
def test_answers_that_are_a_matter_of_chance_are_noticed(name, data):
    class Dropping(keras.layers.Dropout):
        def call(self, x):
            return super().call(x, training=True)

    model = tail(Dropping(0.5, seed=0), keras.layers.Dense(3))
    for _ in range(2):
        with pytest.warns(UserWarning, match="differently each time"):
            ATTACKS[name][0](model, *data, [0.1])


@every(ATTACKS)
def test_models_that_repeat_themselves_are_not_warned_of(name, data):
    model = tail(keras.layers.Dropout(0.5), keras.layers.Dense(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ATTACKS[name][0](model, *data, [0.1])


@every(ATTACKS)
def test_functions_that_run_eagerly_give_the_same(name, data):
    images, labels = data
    few = images[:6], labels[:6]
    attack = functools.partial(ATTACKS[name][0], epsilons=[0.1, 0.4])
    compiled = attack(smooth_model(), *few)
    tf.config.run_functions_eagerly(True)
    try:
        eager = attack(smooth_model(), *few)
    finally:
        tf.config.run_functions_eagerly(False)
    np.testing.assert_array_equal(eager.success, compiled.success)
    np.testing.assert_allclose(
        eager.adversarial, compiled.adversarial, atol=1e-5
    )


@pytest.fixture
def check_numerics():
    tf.debugging.enable_check_numerics()
    yield
    tf.debugging.disable_check_numerics()


@every(ATTACKS)
def test_nothing_infinite_is_computed(name, data, check_numerics):
    """Of budgets and labels that leave rows idle, too."""
    images, labels = data
    attack = ATTACKS[name][0](smooth_model(), images, labels, EPSILONS)
    assert attack.success[2].sum() > 3


@every([name for name in ATTACKS if name != "square"])
def test_models_without_gradient_are_refused(name, data):
    model = smooth_model()
    with pytest.raises(ValueError, match="must be differentiable"):
        ATTACKS[name][0](lambda x: tf.stop_gradient(model(x)), *data, [0.1])


@every([name for name in ATTACKS if name != "square"])
def test_non_finite_gradient_is_an_error(name, data):
    images, _ = data
    labels = np.zeros(23, int)

    def singular(x):  # finite logits, infinite slope in one image
        first = tf.reshape(x, [-1, 16])[:, :3]
        return tf.sqrt(first)

    images = 0.2 + 0.8 * images
    images[17] = 0.0
    with pytest.raises(ValueError, match=r"gradient .* must be finite.* 17"):
        ATTACKS[name][0](singular, images, labels, [0.1], batch_size=10)


@every(ATTACKS)
def test_logits_that_explode_under_attack_are_an_error(name, data):
    model = smooth_model()
    images, labels = data
    images = 0.9 * images

    def explodes(x):  # finite in the box [0, 0.9], not in [0, 1]
        return model(x) + 0 * tf.math.log(0.9001 - tf.reduce_max(x))

    with pytest.raises(ValueError, match="logits.* must be finite"):
        ATTACKS[name][0](explodes, images, labels, [0.0, 1.0])


@every(ATTACKS)
@pytest.mark.parametrize(
    "epsilons", [[], [-0.1], [np.nan], [np.inf], 0.1, [[0.1]], ["a"], None]
)
def test_malformed_budgets_are_refused(name, data, epsilons):
    with pytest.raises(ValueError, match="epsilons must be"):
        ATTACKS[name][0](smooth_model(), *data, epsilons)


@every(ATTACKS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: ((255 * x).astype(np.uint8), y), TypeError, "by 255"),
        (lambda x, y: (2 * x, y), ValueError, r"lie in \[0, 1\]"),
        (lambda x, y: (x * np.nan, y), ValueError, r"lie in \[0, 1\]"),
        (lambda x, y: (x[:0], y[:0]), ValueError, "n >= 1"),
        (lambda x, y: (x, y[:-1]), ValueError, "n >= 1"),
        (lambda x, y: (x, np.eye(3, dtype=int)[y]), ValueError, "n >= 1"),
        (lambda x, y: (x, y.astype(float)), TypeError, "integer classes"),
        (lambda x, y: (x, y - 3), ValueError, "must be >= 0"),
        (lambda x, y: (x, y + 1), ValueError, "below 3"),
    ],
)
def test_malformed_data_are_refused(name, data, change, error, message):
    with pytest.raises(error, match=message):
        ATTACKS[name][0](smooth_model(), *change(*data), [0.1])


@every(GENERATORS)
@pytest.mark.parametrize("batch_size", [0, -1, 2.5, None, True])
def test_malformed_batch_size_is_refused_at_once(name, data, batch_size):
    with pytest.raises((TypeError, ValueError), match="`batch_size` must be"):
        GENERATORS[name](smooth_model(), *data, [0.1], batch_size=batch_size)


@every(GENERATORS)
def test_batches_come_in_the_order_of_the_images(name, data):
    images, labels = data
    model = smooth_model()
    batches = list(
        GENERATORS[name](model, images, labels, EPSILONS, batch_size=10)
    )
    assert [len(batch.labels) for batch in batches] == [10, 10, 3]
    np.testing.assert_array_equal(
        np.concatenate([batch.labels for batch in batches]), labels
    )
    clean = np.concatenate([batch.clean_predictions for batch in batches])
    np.testing.assert_array_equal(clean, model(images).numpy().argmax(1))
    for batch in batches:
        assert batch.predictions.shape == (4, len(batch.labels))
        assert batch.predictions.dtype == np.int64
        if name == "square":
            assert batch.zero_gradient is None
        else:
            assert not batch.zero_gradient.any()
