"""What holds for every attack, in one table."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import attacks

EPSILONS = [0.2, 0.0, 0.7, 0.05]
ATTACKS = {
    "fgsm": attacks.FGSM(),
    "pgd": attacks.PGD(steps=12),
    "pgd, cw": attacks.PGD(steps=12, loss="cw"),
    "pgd, dlr": attacks.PGD(steps=12, loss="dlr", restarts=2),
    "pgd, l2": attacks.PGD(steps=12, norm="l2"),
    "square": attacks.Square(queries=60),
    "fmn": attacks.FMN(steps=30),
    "fmn, l2": attacks.FMN(steps=30, norm="l2"),
    "worst case": attacks.WorstCase(
        [attacks.FGSM(), attacks.PGD(steps=12, loss="dlr"), attacks.FMN()]
    ),
}
# One of each kind, where losses and norms make no difference.
KINDS = ["fgsm", "pgd", "square", "fmn", "worst case"]
GRADIENT = [name for name, attack in ATTACKS.items() if attack.uses_gradient]
ITERATED = ["pgd", "pgd, dlr", "pgd, l2", "square"]


def every(table):
    return pytest.mark.parametrize("name", table)


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


MODEL = smooth_model()  # compiled once for all tests


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(23, 4, 4, 1)).astype(np.float32)
    labels = MODEL(images).numpy().argmax(1)
    labels[:3] = (labels[:3] + 1) % 3  # three clean errors
    return images, labels


def distances(adversarial, images, norm):
    offset = (adversarial - images).reshape(*adversarial.shape[:2], -1)
    order = {"linf": np.inf, "l2": 2}[norm]
    return np.linalg.norm(offset.astype(np.float64), order, axis=-1)


@every(ATTACKS)
def test_outcome_has_the_promised_form(name, data):
    images, labels = data
    attack = ATTACKS[name]
    scale = {"linf": 1, "l2": 2}[attack.norm]
    epsilons = [scale * epsilon for epsilon in EPSILONS]
    result = attack(MODEL, images, labels, epsilons)
    adversarial, success = result.adversarial, result.success
    assert adversarial.shape == (4, 23, 4, 4, 1)
    assert adversarial.dtype == np.float32
    assert success.shape == (4, 23) and success.dtype == bool
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    np.testing.assert_array_equal(adversarial[1], images)
    for i, epsilon in enumerate(epsilons):
        moved = distances(adversarial[i][None], images, attack.norm)
        assert moved.max() <= epsilon + 1e-6
        answers = MODEL(adversarial[i]).numpy().argmax(1)
        np.testing.assert_array_equal(result.predictions[i], answers)
        np.testing.assert_array_equal(success[i], answers != labels)
        np.testing.assert_allclose(
            result.distances[i],
            np.where(success[i], moved[0], np.inf),
            atol=1e-6,
        )
    np.testing.assert_array_equal(result.epsilons, epsilons)
    np.testing.assert_allclose(result.accuracies, 1 - success.mean(axis=1))
    assert success[1].sum() == 3
    assert success[2].sum() > success[0].sum() > success[3].sum() >= 3
    # What is wrong anyway is left alone by attacks in iterations.
    if name in ITERATED:
        np.testing.assert_array_equal(adversarial[2, :3], images[:3])


@every(ATTACKS)
def test_one_budget_need_not_be_a_list(name, data):
    attack = ATTACKS[name]
    result = attack(MODEL, *data, epsilons=0.2)
    assert result.adversarial.shape == (1, 23, 4, 4, 1)
    np.testing.assert_array_equal(result.epsilons, [0.2])


@every(ATTACKS)
def test_other_bounds_are_another_scale(name, data):
    """Pixels from -1 to 3 and four times the budgets: the same attack."""
    images, labels = data
    attack = ATTACKS[name]
    result = attack(MODEL, images, labels, [0.1, 0.5])
    scaled = attack(
        lambda x: MODEL((x + 1.0) / 4.0),
        4.0 * images - 1.0,
        labels,
        [0.4, 2.0],
        bounds=(-1.0, 3.0),
    )
    np.testing.assert_allclose(
        (scaled.adversarial + 1.0) / 4.0, result.adversarial, atol=1e-3
    )
    np.testing.assert_array_equal(scaled.success, result.success)
    assert scaled.adversarial.min() < -0.9 and scaled.adversarial.max() > 2.9


@every([name for name in ATTACKS if not name.endswith(("dlr", "worst case"))])
def test_targets_are_where_an_attack_moves(name, data):
    images, labels = data
    attack = ATTACKS[name]
    targets = (MODEL(images).numpy().argmax(1) + 1) % 3
    targets[:2] = labels[:2]  # wrong answers, to be made right
    epsilons = np.array([0.0, 0.2, 0.8]) * {"linf": 1, "l2": 3}[attack.norm]
    result = attack(MODEL, images, labels, epsilons, targets=targets)
    for i, moved in enumerate(result.adversarial):
        answers = MODEL(moved).numpy().argmax(1)
        np.testing.assert_array_equal(result.predictions[i], answers)
        np.testing.assert_array_equal(result.success[i], answers == targets)
        assert result.accuracies[i] == np.mean(answers == labels)
    assert not result.success[0][3:].any()
    counts = result.success.sum(axis=1)
    assert 0.7 * 23 < counts[2] >= counts[1] > counts[0]


def test_the_dlr_loss_cannot_be_targeted(data):
    with pytest.raises(ValueError, match="dlr.*cannot be targeted"):
        ATTACKS["pgd, dlr"](MODEL, *data, 0.1, targets=data[1])


@every(KINDS)
def test_data_sets_are_as_good_as_arrays(name, data):
    attack = ATTACKS[name]
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(10)
    result = attack(MODEL, dataset, epsilons=EPSILONS)
    expected = attack(MODEL, *data, EPSILONS)
    np.testing.assert_array_equal(result.success, expected.success)
    np.testing.assert_allclose(
        result.adversarial, expected.adversarial, atol=1e-5
    )
    if name != "worst case":
        three = tf.data.Dataset.from_tensor_slices((*data, data[1])).batch(10)
        aimed = attack(MODEL, three, epsilons=[0.0])
        np.testing.assert_array_equal(aimed.success, aimed.right)


def test_data_sets_that_do_not_fit_are_refused(data):
    attack = attacks.FGSM()
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(10)
    with pytest.raises(ValueError, match="must be omitted"):
        attack(MODEL, dataset, data[1], 0.1)
    with pytest.raises(ValueError, match="no batches"):
        attack(MODEL, dataset.take(0), epsilons=0.1)
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        attack(MODEL, dataset.map(lambda x, y: (2 * x, y)), epsilons=0.1)
    shuffled = dataset.unbatch().shuffle(23, seed=0).batch(10)
    with pytest.raises(ValueError, match="same order"):
        ATTACKS["worst case"](MODEL, shuffled, epsilons=0.1)


@every(["pgd", "square"])
def test_budgets_are_nested(name, data):
    """An image fooled within a budget is fooled within the larger ones."""
    attack = dataclasses.replace(ATTACKS[name], jit_compile=True)
    result = attack(MODEL, *data, [0.15, 0.05, 0.1])
    adversarial, success = result.adversarial, result.success
    assert (success[1] <= success[2]).all() and (success[2] <= success[0]).all()
    np.testing.assert_array_equal(
        adversarial[0][success[1]], adversarial[1][success[1]]
    )
    assert not success.all()


@every(ATTACKS)
def test_batches_change_nothing(name, data):
    attack = ATTACKS[name]
    whole = attack(MODEL, *data, EPSILONS, batch_size=23)
    for batch_size in (1, 5):
        parts = attack(MODEL, *data, EPSILONS, batch_size=batch_size)
        np.testing.assert_array_equal(parts.success, whole.success)
        # Of many changes, FMN takes the smallest, be it by rounding.
        np.testing.assert_allclose(
            parts.adversarial,
            whole.adversarial,
            atol=1e-3 if "fmn" in name else 1e-5,
        )


@every(ITERATED)
def test_same_seed_same_result(name, data):
    first, again, other = (
        dataclasses.replace(ATTACKS[name], seed=seed)(MODEL, *data, EPSILONS)
        for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first.adversarial, again.adversarial)
    assert (first.adversarial != other.adversarial).any()


@every(ITERATED)
def test_other_budgets_and_fewer_rows_change_nothing(name, data, monkeypatch):
    """Rows take up one image after another, in the same way for each."""
    attack = ATTACKS[name]
    together = attack(MODEL, *data, EPSILONS)
    monkeypatch.setattr("stable_node_tf.attacks.iterated.ROWS", 5)
    alone = attack(MODEL, *data, [0.05])
    np.testing.assert_array_equal(together.success[3], alone.success[0])
    np.testing.assert_allclose(
        together.adversarial[3], alone.adversarial[0], atol=1e-5
    )


@every(KINDS)
def test_other_precisions(name, data):
    half = ATTACKS[name](lambda x: tf.cast(MODEL(x), tf.bfloat16), *data, [0.1])
    assert half.adversarial.dtype == np.float32
    double = ATTACKS[name](
        lambda x: tf.cast(MODEL(x), tf.float64), *data, [0.7]
    )
    assert double.success.sum() > 3


@every(KINDS)
def test_probabilities_are_refused(name, data):
    with pytest.raises(ValueError, match="logits, not probabilities"):
        ATTACKS[name](lambda x: tf.nn.softmax(MODEL(x)), *data, [0.1])


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
        ATTACKS[attack](PROBABILITIES[name], images, labels % 2, [0.1])


@every(KINDS)
def test_log_probabilities_are_logits(name, data):
    """They differ by a shift, which no loss sees but for rounding."""
    attack = ATTACKS[name]
    one = attack(MODEL, *data, EPSILONS)
    other = attack(lambda x: tf.nn.log_softmax(MODEL(x)), *data, EPSILONS)
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
@pytest.mark.parametrize("attack", ["fgsm", "square"])
def test_models_of_other_form_are_refused_by_name(name, attack, data):
    model, message = MISFITS[name]
    with pytest.raises(ValueError, match=f"model must.*{message}"):
        ATTACKS[attack](model, *data, [0.1])


@every(["fgsm", "pgd, cw", "pgd, l2", "square", "fmn"])
def test_a_single_logit_stands_for_two(name, data):
    """Class 1 where it is positive; where it is zero or less, class 0."""
    images, labels = data

    def one(x):
        return MODEL(x)[:, :1]

    def two(x):
        z = MODEL(x)[:, :1]
        return tf.concat([-z / 2, z / 2], 1)

    labels = (one(images).numpy()[:, 0] > 0).astype(int)
    labels[:3] = 1 - labels[:3]
    epsilons = [0.0, 0.02, 0.3]
    mine = ATTACKS[name](one, images, labels, epsilons)
    theirs = ATTACKS[name](two, images, labels, epsilons)
    np.testing.assert_array_equal(mine.success, theirs.success)
    assert mine.success[2].sum() > mine.success[0].sum() == 3
    for attacked, hit in zip(mine.adversarial, mine.success, strict=True):
        answers = one(attacked).numpy()[:, 0] > 0
        np.testing.assert_array_equal(hit, answers != labels)
    with pytest.raises(ValueError, match="below 2, the number of classes"):
        ATTACKS[name](one, images, labels + 1, epsilons)


def test_a_single_logit_of_zero_is_class_0(data):
    images, _ = data
    batch = attacks.FGSM()(
        lambda x: 0.0 * x[:, 0, 0], images, np.zeros(23, int), [0.1]
    )
    assert not batch.predictions.any()


def test_a_single_logit_follows_the_binary_cross_entropy(data):
    images, labels = data
    labels = labels % 2
    model = dense(1, None)
    attack = attacks.FGSM()(model, images, labels, [0.1])
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
        attacks.PGD(loss="dlr")(dense(1, None), data[0], data[1] % 2, 0.1)


@every(KINDS)
def test_answers_that_are_a_matter_of_chance_are_noticed(name, data):
    class Dropping(keras.layers.Dropout):
        def call(self, x):
            return super().call(x, training=True)

    model = tail(Dropping(0.5, seed=0), keras.layers.Dense(3))
    for _ in range(2):
        with pytest.warns(UserWarning, match="differently each time"):
            ATTACKS[name](model, *data, [0.1])


@every(KINDS)
def test_models_that_repeat_themselves_are_not_warned_of(name, data):
    model = tail(keras.layers.Dropout(0.5), keras.layers.Dense(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ATTACKS[name](model, *data, [0.1])


@every(["fgsm", "pgd, dlr", "square"])
def test_functions_that_run_eagerly_give_the_same(name, data):
    images, labels = data
    few = images[:6], labels[:6]
    attack, epsilons = ATTACKS[name], [0.1, 0.4]
    compiled = attack(MODEL, *few, epsilons)
    tf.config.run_functions_eagerly(True)
    try:
        eager = attack(smooth_model(), *few, epsilons)
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


@every(["fgsm", "pgd, l2", "pgd, dlr", "square", "fmn, l2"])
def test_nothing_infinite_is_computed(name, data, check_numerics):
    """Of budgets and labels that leave rows idle, too."""
    images, labels = data
    attack = ATTACKS[name](MODEL, images, labels, EPSILONS)
    assert attack.success[2].sum() > 3


@every(["fgsm", "pgd", "fmn"])
def test_models_without_gradient_are_refused(name, data):
    with pytest.raises(ValueError, match="must be differentiable"):
        ATTACKS[name](lambda x: tf.stop_gradient(MODEL(x)), *data, [0.1])


@every(["fgsm", "pgd", "fmn"])
def test_non_finite_gradient_is_an_error(name, data):
    images, _ = data
    labels = np.zeros(23, int)

    def singular(x):  # finite logits, infinite slope in one image
        first = tf.reshape(x, [-1, 16])[:, :3]
        return tf.sqrt(first)

    images = 0.2 + 0.8 * images
    images[17] = 0.0
    with pytest.raises(ValueError, match=r"gradient .* must be finite.* 17"):
        ATTACKS[name](singular, images, labels, [0.1], batch_size=10)


@every(KINDS)
def test_logits_that_explode_under_attack_are_an_error(name, data):
    images, labels = data
    images = 0.9 * images

    def explodes(x):  # finite in the box [0, 0.9], not in [0, 1]
        return MODEL(x) + 0 * tf.math.log(0.9001 - tf.reduce_max(x))

    with pytest.raises(ValueError, match="logits.* must be finite"):
        ATTACKS[name](explodes, images, labels, [0.0, 1.0])


@pytest.mark.parametrize(
    "epsilons", [[], [-0.1], [np.nan], [np.inf], -1, [[0.1]], ["a"], None]
)
def test_malformed_budgets_are_refused(data, epsilons):
    with pytest.raises(ValueError, match="epsilons must be"):
        attacks.FGSM()(MODEL, *data, epsilons)


@pytest.mark.parametrize(
    "bounds", [(1, 0), (0, np.inf), (0, 0), (0, np.nan), (0, 1, 2), 1, "ab"]
)
def test_malformed_bounds_are_refused(data, bounds):
    with pytest.raises(ValueError, match="bounds must be two finite numbers"):
        attacks.FGSM()(MODEL, *data, 0.1, bounds=bounds)


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (np.zeros(22, int), ValueError, "targets shape"),
        (np.zeros(23), TypeError, "targets must be integer"),
        (np.full(23, -1), ValueError, "targets must be >= 0"),
        (np.full(23, 3), ValueError, "targets must be below 3"),
    ],
)
def test_malformed_targets_are_refused(data, targets, error, message):
    with pytest.raises(error, match=message):
        attacks.FGSM()(MODEL, *data, 0.1, targets=targets)


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
def test_malformed_data_are_refused(data, change, error, message):
    with pytest.raises(error, match=message):
        attacks.FGSM()(MODEL, *change(*data), [0.1])


@every(KINDS)
@pytest.mark.parametrize("batch_size", [0, 2.5, None, True])
def test_malformed_batch_size_is_refused_at_once(name, data, batch_size):
    with pytest.raises((TypeError, ValueError), match="`batch_size` must be"):
        ATTACKS[name].batches(MODEL, *data, [0.1], batch_size=batch_size)


@every(KINDS)
def test_batches_come_in_the_order_of_the_images(name, data):
    images, labels = data
    batches = list(
        ATTACKS[name].batches(MODEL, images, labels, EPSILONS, batch_size=10)
    )
    assert [len(batch.labels) for batch in batches] == [10, 10, 3]
    np.testing.assert_array_equal(
        np.concatenate([batch.labels for batch in batches]), labels
    )
    clean = np.concatenate([batch.clean_predictions for batch in batches])
    np.testing.assert_array_equal(clean, MODEL(images).numpy().argmax(1))
    for batch in batches:
        assert batch.predictions.shape == (4, len(batch.labels))
        assert batch.predictions.dtype == np.int64
        if name == "square":
            assert batch.zero_gradient is None
        else:
            assert not batch.zero_gradient.any()


@dataclasses.dataclass(frozen=True)
class Own(attacks.Attack):
    """What a stranger writes."""

    excess: float = 0.0
    title = "all darker"

    def perturb(self, model, batch):
        lower, _ = batch.bounds
        return [
            np.maximum(batch.images - (1 + self.excess) * epsilon, lower)
            for epsilon in batch.epsilons
        ]


def test_an_attack_of_ones_own(data):
    worst = attacks.WorstCase([Own(), attacks.FGSM()])
    own, fgsm, both = (
        attack(MODEL, *data, EPSILONS, batch_size=10)
        for attack in (*worst.attacks, worst)
    )
    np.testing.assert_array_equal(both.right, own.right & fgsm.right)
    np.testing.assert_array_equal(both.zero_gradient, fgsm.zero_gradient)
    assert own.zero_gradient is None and not Own().uses_gradient
    assert Own().describe() == {
        "title": "all darker",
        "norm": "linf",
        "style": {"color": "#6B6B6B", "marker": "o"},
        "settings": {"excess": 0.0},
    }
    with pytest.raises(ValueError, match="perturb must return images"):
        Own(excess=0.1)(MODEL, *data, 0.1)
    with pytest.raises(NotImplementedError, match="a method `perturb`"):
        attacks.Attack()(MODEL, *data, 0.1)


def test_names_and_titles():
    titles = {a.name: a.title for a in attacks.registered().values()}
    assert titles == {
        "fgsm": "FGSM",
        "fmn": "FMN",
        "fmn_l2": "FMN, 2-norm",
        "pgd": "PGD",
        "pgd_dlr": "PGD, DLR loss",
        "pgd_l2": "PGD, 2-norm",
        "pgd_l2_dlr": "PGD, 2-norm, DLR loss",
        "square": "Square",
    }
    assert len(set(attacks.registered().values())) == len(titles)  # hashable


def test_the_worst_case_takes_the_nearest_success(data):
    worst = ATTACKS["worst case"]
    results = [attack(MODEL, *data, EPSILONS) for attack in worst.attacks]
    all_of_them = worst(MODEL, *data, EPSILONS)
    success = np.array([result.success for result in results])
    np.testing.assert_array_equal(all_of_them.success, success.any(axis=0))
    assert (success[0] != success[1]).any()
    nearest = np.argmin([result.distances for result in results], axis=0)
    for (i, n), number in np.ndenumerate(nearest):
        taken = results[number]
        np.testing.assert_array_equal(
            all_of_them.adversarial[i, n], taken.adversarial[i, n]
        )
        assert all_of_them.distances[i, n] == taken.distances[i, n]
    for none in ([], [attacks.FGSM(), attacks.PGD(norm="l2")]):
        with pytest.raises(ValueError, match="must be of one norm"):
            attacks.WorstCase(none)
