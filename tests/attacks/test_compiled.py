"""What is compiled for a model is found again, given up and freed."""

import dataclasses
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
from stable_node_tf.saved_model import load_classifier, save_classifier

IMAGES = np.random.default_rng(0).uniform(size=(6, 4, 4, 1)).astype(np.float32)
LABELS = np.arange(6) % 3
ATTACKS = {
    "fgsm": attacks.FGSM(),
    "pgd": attacks.PGD(steps=3),
    "pgd, l2, XLA": attacks.PGD(
        norm="l2", loss="dlr", steps=3, jit_compile=True
    ),
    "square": attacks.Square(queries=3),
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
    return attacks.FGSM()(model, IMAGES, LABELS, [0.1]).adversarial


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
    kept = len(compiled._functions)
    for budgets in ([0.2, 0.3], [0.0, 0.4]):
        ATTACKS[name](model, IMAGES[::-1], LABELS, budgets)
    assert model.traces == traces
    assert len(compiled._functions) == kept


def test_other_numbers_of_images_and_budgets_and_sizes_of_steps():
    model = Counting(classifier())
    attacks.FGSM()(model, IMAGES, LABELS, [0.1])
    attacks.PGD(steps=5)(model, IMAGES, LABELS, [0.1])
    attacks.Square(queries=25)(model, IMAGES, LABELS, [0.1])
    traces = model.traces
    attacks.FGSM()(model, IMAGES[:2], LABELS[:2], [0.1, 0.2, 0.3])
    attacks.PGD(steps=7, step_size=0.3, seed=1)(model, IMAGES, LABELS, [0.1])
    attacks.Square(queries=60, initial_share=0.3)(model, IMAGES, LABELS, [0.1])
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


def test_compile_and_frozen_layers_give_the_same_attack():
    model = classifier()
    before = attacked(model)
    model.layers[1].trainable = False
    np.testing.assert_array_equal(attacked(model), before)
    model.compile("adam", "mse")
    np.testing.assert_array_equal(attacked(model), before)


def test_compile_makes_anew_what_has_changed():
    """As for `predict` of Keras; that of a model in a function does not."""
    model = classifier()
    model.compile("adam", "mse")
    before = attacked(model)
    model.layers[1].activation = keras.activations.relu
    np.testing.assert_array_equal(attacked(model), before)
    model.compile("adam", "mse")
    after = attacked(model)
    np.testing.assert_array_equal(after, attacked(lambda x: model(x)))
    assert (after != before).any()


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
    kept = len(compiled._functions)
    model = make()
    ATTACKS[name](model, IMAGES, LABELS, [0.1])
    assert len(compiled._functions) == kept + 1
    function = next(iter(compiled._functions[id(model)].values()))
    ends = [weakref.ref(model), weakref.ref(function)]
    del model, function
    gc.collect()
    assert [end() for end in ends] == [None, None]
    assert len(compiled._functions) == kept


@pytest.mark.parametrize("of_this_package", [True, False])
def test_a_saved_model_is_freed_with_its_functions(tmp_path, of_this_package):
    save_classifier(classifier(), tmp_path)
    gc.collect()
    kept = len(compiled._functions)
    model = load_classifier(tmp_path) if of_this_package else Logits(tmp_path)
    attacked(model)
    assert len(compiled._functions) == kept + 1
    end = weakref.ref(model)
    del model
    gc.collect()
    assert end() is None and len(compiled._functions) == kept


class Logits:
    def __init__(self, directory):
        self.artifact = tf.saved_model.load(str(directory / "1"))

    def __call__(self, x):
        return self.artifact.signatures["serving_default"](x)["logits"]


def test_a_bound_method_is_compiled_as_long_as_its_object_lives():
    gc.collect()
    kept = len(compiled._functions)
    model = Affine(1.0, kernel())
    first = attacked(model.squared)
    functions = compiled._functions[id(model)]
    count = len(functions)
    np.testing.assert_array_equal(attacked(model.squared), first)
    assert len(functions) == count
    attacked(model.__call__)  # another method, with functions of its own
    assert len(functions) == 2 * count
    end = weakref.ref(model)
    del model
    gc.collect()
    assert end() is None and len(compiled._functions) == kept


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
    kept = len(compiled._functions)
    model = Slotted(1.0)
    before = attacked(model)
    traces = model.traces
    model.scale = -1.0
    assert (attacked(model) != before).any()
    assert model.traces == 2 * traces and len(compiled._functions) == kept


def test_equal_models_are_not_taken_for_one_another():
    class Equal(Affine):
        def __eq__(self, other):
            return True

    one, other = Equal(1.0, kernel()), Equal(-1.0, kernel())
    assert one == other and Equal.__hash__ is None
    assert (attacked(one) != attacked(other)).any()


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_batches_keep_their_model(name):
    iterator = ATTACKS[name].batches(
        closure(), IMAGES, LABELS, [0.1], batch_size=4
    )
    gc.collect()
    assert sum(len(batch.labels) for batch in iterator) == 6


def test_not_more_functions_are_kept_than_16():
    model = Affine(1.0, kernel())
    specs = [tf.TensorSpec([n, 4, 4, 1], tf.float32) for n in range(20)]
    for spec in specs:
        compiled.compiled(model, logits_of, signature=[spec])
    functions = compiled._functions[id(model)]
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
