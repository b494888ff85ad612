"""What is compiled for a model is found again, given up and freed."""

import dataclasses
import functools
import gc
import threading
import types
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from stable_node_tf import attacks, evaluation, ode_classifier, solvers
from stable_node_tf.attacks import compiled
from stable_node_tf.evaluation import sanity_checks
from stable_node_tf.saved_model import (
    load_classifier,
    save_classifier,
)

IMAGES = np.random.default_rng(0).uniform(size=(6, 4, 4, 1)).astype(np.float32)
LABELS = np.arange(6) % 3


def drained(batches):
    return lambda *arguments, **settings: list(batches(*arguments, **settings))


PGD = {"steps": 3}
SQUARE = {"queries": 3}
ATTACKS = {
    "fgsm": attacks.fgsm,
    "fgsm_batches": drained(attacks.fgsm_batches),
    "pgd": functools.partial(attacks.pgd, **PGD),
    "pgd, l2, XLA": functools.partial(
        attacks.pgd, norm="l2", loss="dlr", jit_compile=True, **PGD
    ),
    "pgd_batches": functools.partial(drained(attacks.pgd_batches), **PGD),
    "square": functools.partial(attacks.square, **SQUARE),
    "square_batches": functools.partial(
        drained(attacks.square_batches), **SQUARE
    ),
}


def classifier(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(5, "tanh"),
            keras.layers.Dense(3),
        ]
    )


def attacked(model):
    return attacks.fgsm(model, IMAGES, LABELS, [0.1]).adversarial


class Counting:
    """A model that counts its traces, in Python, which changes its state."""

    def __init__(self, model):
        self.model = model
        self.traces = 0

    def __call__(self, x):
        self.traces += 1
        return self.model(x)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_second_call_traces_nothing(name):
    model = Counting(classifier())
    ATTACKS[name](model, IMAGES, LABELS, [0.1, 0.2])
    traces = model.traces
    assert traces > 0
    kept = len(compiled._traces)
    for budgets in ([0.2, 0.3], [0.0, 0.4]):
        ATTACKS[name](model, IMAGES[::-1], LABELS, budgets)
    assert model.traces == traces
    assert len(compiled._traces) == kept


def test_other_numbers_of_images_and_budgets_and_sizes_of_steps():
    model = Counting(classifier())
    attacks.fgsm(model, IMAGES, LABELS, [0.1])
    attacks.pgd(model, IMAGES, LABELS, [0.1], steps=5)
    attacks.square(model, IMAGES, LABELS, [0.1], queries=25)
    traces = model.traces
    attacks.fgsm(model, IMAGES[:2], LABELS[:2], [0.1, 0.2, 0.3])
    attacks.pgd(model, IMAGES, LABELS, [0.1], steps=7, step_size=0.3, seed=1)
    attacks.square(model, IMAGES, LABELS, [0.1], queries=60, initial_share=0.3)
    assert model.traces == traces


def test_margins_and_gradients_are_compiled_once_too():
    model, twin = Counting(classifier()), Counting(classifier())
    counts = []
    for _ in range(2):
        evaluation.margins(model, IMAGES, LABELS)
        sanity_checks.same_gradient(model, twin, IMAGES, LABELS)
        counts.append((model.traces, twin.traces))
    assert counts[0] == counts[1]


def weights_assigned(model):
    for variable in model.trainable_variables:
        variable.assign(2.0 * variable + 0.1)


def weights_set(model):
    model.set_weights(classifier(1).get_weights())


def trained(model):
    model.compile(keras.optimizers.SGD(5.0), "mse")
    model.fit(IMAGES, np.ones([6, 3]), verbose=0)


@pytest.mark.parametrize("change", [weights_assigned, weights_set, trained])
def test_other_weights_are_seen(change):
    model = classifier()
    before = attacked(model)
    change(model)
    after = attacked(model)
    np.testing.assert_array_equal(after, attacked(lambda x: model(x)))
    assert (before != after).any()


def test_training_that_goes_on_traces_nothing():
    """After the first `fit`, which compiles the model."""
    model = classifier()
    model.compile("adam", "mse")
    counting = Counting(model)
    counts = []
    for _ in range(3):
        attacked(counting)
        model.fit(IMAGES, np.ones([6, 3]), verbose=0)
        model.predict(IMAGES, verbose=0)
        model.evaluate(IMAGES, np.ones([6, 3]), verbose=0)
        counts.append(counting.traces)
    assert len(set(counts)) == 1


def chain(activation="tanh"):
    image = keras.Input((4, 4, 1))
    x = keras.layers.Dense(5, activation)(keras.layers.Flatten()(image))
    return keras.Model(image, keras.layers.Dense(3)(x))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.blocks = [keras.layers.Dense(5), keras.layers.Dense(3)]
        self.settings = {"gain": 1.0}

    def call(self, x):
        x = self.flatten(x) * self.settings["gain"]
        for block in self.blocks:
            x = block(x)
        return x


@dataclasses.dataclass
class Affine:
    slope: float
    kernel: tf.Tensor

    def __call__(self, x):
        return self.slope * tf.reshape(x, [-1, 16]) @ self.kernel

    def squared(self, x):
        return self(x) ** 2


def kernel(seed=0):
    generator = np.random.default_rng(seed)
    return tf.constant(generator.normal(size=(16, 3)), tf.float32)


def activation_of_a_layer():
    model = chain()
    yield model
    model.layers[2].activation = keras.activations.relu
    yield model


def activation_of_a_nested_model():
    inner = chain()
    model = keras.Sequential([keras.Input((4, 4, 1)), inner])
    yield model
    inner.layers[2].activation = keras.activations.relu
    yield model


class Scaled:
    def __init__(self, slope):
        self.slope = slope

    def __call__(self, x):
        return tf.tanh(self.slope * x)


def setting_of_an_activation():
    model = chain(Scaled(1.0))
    yield model
    model.layers[2].activation.slope = -3.0
    yield model


def layer_taken_away_and_another_added():
    model = classifier()
    yield model
    model.pop()
    model.add(keras.layers.Dense(3, "tanh"))
    yield model


def layer_in_a_list():
    model = Subclassed()
    yield model
    model.blocks[0] = keras.layers.Dense(5, "relu")
    yield model


def entry_of_a_dictionary():
    model = Subclassed()
    yield model
    model.settings["gain"] = -3.0
    yield model


def another_call():
    model = chain()
    yield model
    call = model.call
    model.call = lambda x, **kwargs: -2.0 * call(x, **kwargs) ** 2
    yield model


def variable_closed_over():
    scale = 1.0
    weights = kernel()

    def model(x):
        return scale * tf.reshape(x, [-1, 16]) @ weights

    yield model
    scale = -1.0
    yield model


def model_closed_over():
    inner = chain()

    def model(x):
        return inner(x)

    yield model
    inner.layers[2].activation = keras.activations.relu
    yield model


SCALE = 1.0


def global_variable():
    global SCALE
    weights = kernel()
    yield (model := lambda x: SCALE * tf.reshape(x, [-1, 16]) @ weights)
    SCALE = -1.0
    yield model


def arguments_of_a_partial():
    settings = {"slope": 1.0}
    model = functools.partial(
        lambda x, settings: settings["slope"] * tf.reshape(x, [-1, 16])[:, :3],
        settings=settings,
    )
    yield model
    settings["slope"] = -1.0
    yield model


def attribute_of_an_object():
    model = Affine(1.0, kernel())
    yield model
    model.slope = -1.0
    yield model


def method():
    model = Affine(1.0, kernel())
    yield model.squared
    model.kernel = kernel(1)
    yield model.squared


def tensor_of_an_object():
    model = Affine(1.0, kernel())
    yield model
    model.kernel = kernel(1)
    yield model


CHANGES = [
    activation_of_a_layer,
    activation_of_a_nested_model,
    setting_of_an_activation,
    layer_taken_away_and_another_added,
    layer_in_a_list,
    entry_of_a_dictionary,
    another_call,
    variable_closed_over,
    model_closed_over,
    global_variable,
    arguments_of_a_partial,
    attribute_of_an_object,
    tensor_of_an_object,
    method,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_changed_model_gives_no_answer_of_the_old_one(change):
    models = change()
    model = next(models)
    before = attacked(model)
    np.testing.assert_array_equal(before, attacked(model))
    model = next(models)
    after = attacked(model)
    fresh = attacked(lambda x: model(x))  # known to nobody
    np.testing.assert_array_equal(after, fresh)
    assert (before != after).any()


def test_compile_and_frozen_layers_give_the_same_attack():
    model = classifier()
    before = attacked(model)
    model.layers[1].trainable = False
    np.testing.assert_array_equal(attacked(model), before)
    model.compile("adam", "mse")
    np.testing.assert_array_equal(attacked(model), before)


def test_compile_makes_anew_what_cannot_be_seen_to_have_changed():
    """As for `predict` of Keras."""
    model = classifier()

    class Hidden(keras.layers.Dense):
        def call(self, x):
            return super().call(x)

    model.pop()
    model.add(Hidden(3))
    before = attacked(model)
    Hidden.call = lambda self, x: -(keras.layers.Dense.call(self, x) ** 3)
    model.compile("adam", "mse")
    assert (attacked(model) != before).any()


def keras_model():
    return classifier()


def neural_ode():
    return ode_classifier(width=4, image_shape=(4, 4, 1))


def neural_ode_with_its_own_gradient():
    solver = solvers.PerSampleDormandPrince()
    return ode_classifier(width=4, image_shape=(4, 4, 1), solver=solver)


def closure():
    inner = classifier()
    return lambda x: inner(x)


def instance():
    return Affine(1.0, kernel())


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("fgsm", keras_model),
        ("fgsm", neural_ode),
        ("fgsm", neural_ode_with_its_own_gradient),
        ("fgsm", closure),
        ("fgsm", instance),
        ("pgd", keras_model),
        ("square", keras_model),
    ],
)
def test_a_model_is_freed_with_its_functions(name, make):
    gc.collect()
    kept = len(compiled._traces), len(compiled._ends)
    model = make()
    ATTACKS[name](model, IMAGES, LABELS, [0.1])
    assert len(compiled._traces) == kept[0] + 1
    function = next(iter(compiled._traces[id(model)].functions.values()))
    ends = [weakref.ref(model), weakref.ref(function)]
    del model, function
    gc.collect()
    assert [end() for end in ends] == [None, None]
    assert (len(compiled._traces), len(compiled._ends)) == kept


@pytest.mark.parametrize("of_this_package", [True, False])
def test_a_saved_model_is_freed_with_its_functions(tmp_path, of_this_package):
    save_classifier(classifier(), tmp_path)
    gc.collect()
    kept = len(compiled._traces)
    model = load_classifier(tmp_path) if of_this_package else Logits(tmp_path)
    attacked(model)
    assert len(compiled._traces) == kept + 1
    end = weakref.ref(model)
    del model
    gc.collect()
    assert end() is None and len(compiled._traces) == kept


class Logits:
    def __init__(self, directory):
        self.artifact = tf.saved_model.load(str(directory / "1"))

    def __call__(self, x):
        return self.artifact.signatures["serving_default"](x)["logits"]


def test_a_bound_method_is_compiled_as_long_as_its_object_lives():
    gc.collect()
    kept = len(compiled._traces)
    model = Affine(1.0, kernel())
    first = attacked(model.squared)
    [made] = compiled._traces[id(model), id(Affine.squared)].functions.values()
    np.testing.assert_array_equal(attacked(model.squared), first)
    attacked(model.__call__)  # another method, with functions of its own
    assert len(compiled._traces) == kept + 2
    assert made.experimental_get_tracing_count() == 1
    end = weakref.ref(model)
    del model
    gc.collect()
    assert end() is None and len(compiled._traces) == kept


def test_methods_made_anew_for_an_object_are_told_apart():
    model = Affine(1.0, kernel())
    for sign in (1.0, -1.0):
        turned = types.MethodType(lambda self, x, s=sign: s * self(x), model)
        np.testing.assert_array_equal(
            attacked(turned), attacked(lambda x, s=sign: s * model(x))
        )
        del turned


class Slotted:
    """To which there are no weak references."""

    __slots__ = ("scale", "traces")

    def __init__(self, scale):
        self.scale, self.traces = scale, 0

    def __call__(self, x):
        self.traces += 1
        return self.scale * tf.reshape(x, [-1, 16])[:, :3]


def test_without_weak_references_each_call_traces():
    gc.collect()
    kept = len(compiled._traces)
    model = Slotted(1.0)
    before = attacked(model)
    traces = model.traces
    model.scale = -1.0
    assert (attacked(model) != before).any()
    assert model.traces == 2 * traces and len(compiled._traces) == kept


def test_equal_models_are_not_taken_for_one_another():
    class Equal(Affine):
        def __eq__(self, other):
            return True

    one, other = Equal(1.0, kernel()), Equal(-1.0, kernel())
    assert one == other and Equal.__hash__ is None
    assert (attacked(one) != attacked(other)).any()


@pytest.mark.parametrize(
    "batches",
    [attacks.fgsm_batches, attacks.pgd_batches, attacks.square_batches],
)
def test_batches_keep_their_model(batches):
    iterator = batches(closure(), IMAGES, LABELS, [0.1], batch_size=4)
    gc.collect()
    assert sum(len(batch.labels) for batch in iterator) == 6


def test_not_more_functions_are_kept_than_16():
    model = Affine(1.0, kernel())
    specs = [tf.TensorSpec([n, 4, 4, 1], tf.float32) for n in range(20)]
    for spec in specs:
        compiled.compiled(model, logits_of, signature=[spec])
    functions = compiled._traces[id(model)].functions
    assert len(functions) == 16
    assert [key[2] for key in functions] == [(spec,) for spec in specs[4:]]


def logits_of(model, x):
    return model(x)


def test_threads_share_a_model():
    model = Counting(classifier())
    expected = attacked(model.model)
    found, start = [], threading.Barrier(4)

    def run():
        start.wait()
        for _ in range(5):
            found.append(attacked(model))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    for adversarial in found:
        np.testing.assert_array_equal(adversarial, expected)
    traces = model.traces
    attacked(model)
    assert model.traces == traces
