"""What is saved is the model, whole or refused, and is never half written."""

import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from classifiers import classifier, images
from tensorflow.core.protobuf import saved_model_pb2

import stable_node_tf
from stable_node_tf import attacks
from stable_node_tf.certification.certifier import certified_radii
from stable_node_tf.models.certified_classifier import certified_classifier
from stable_node_tf.saved_model import (
    load_classifier,
    save_classifier,
    saving,
    warm_up,
)

EPSILONS = [0.0, 0.1, 0.3]


class StraightThrough(keras.layers.Layer):
    """Rounds forwards, passes gradients on backwards, five times over."""

    def call(self, x):
        @tf.custom_gradient
        def rounded(z):
            return tf.round(4 * z) / 4, lambda upstream: 5 * upstream

        return rounded(x)


class CallsPython(keras.layers.Layer):
    function = staticmethod(tf.numpy_function)

    def call(self, x):
        doubled = type(self).function(lambda z: 2 * z, [x], tf.float32)
        doubled.set_shape(x.shape)
        return doubled

    def compute_output_shape(self, shape):
        return shape


class CallsPythonEagerly(CallsPython):
    function = staticmethod(tf.py_function)


class Guarded(keras.layers.Layer):
    feasible = True

    def call(self, x):
        return x

    def assert_constraints(self):
        if not self.feasible:
            raise ValueError("delta must be <= delta_bar")


def test_reloaded_answers_are_those_in_memory(exported):
    model, directory, path = exported
    assert path == directory / "1"
    reloaded = load_classifier(directory)
    for count in (1, 7, 300):
        x = images(count)
        logits = model(x).numpy()
        answers = reloaded.predict(x)
        np.testing.assert_allclose(answers["logits"], logits, atol=1e-6)
        np.testing.assert_allclose(
            answers["probabilities"], tf.nn.softmax(logits), atol=1e-6
        )
        assert answers["label"].dtype == np.int64
        np.testing.assert_array_equal(answers["label"], logits.argmax(1))
        np.testing.assert_array_equal(reloaded(x), answers["logits"])


def test_attack_on_the_artifact_is_the_attack_in_memory(exported):
    model, directory, _ = exported
    x, y = images(40), np.arange(40) % 10
    memory = attacks.FGSM()(model, x, y, EPSILONS, batch_size=16)
    saved = attacks.FGSM()(
        load_classifier(directory), x, y, EPSILONS, batch_size=16
    )
    np.testing.assert_array_equal(saved.adversarial, memory.adversarial)
    np.testing.assert_array_equal(saved.success, memory.success)


def test_signature_on_disk(exported):
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((exported[2] / "saved_model.pb").read_bytes())
    [graph] = saved_model.meta_graphs
    assert list(graph.meta_info_def.tags) == ["serve"]
    signature = graph.signature_def["serving_default"]
    [(name, tensor)] = signature.inputs.items()
    assert name == "image" and tensor.dtype == tf.float32.as_datatype_enum
    assert [d.size for d in tensor.tensor_shape.dim] == [-1, 28, 28, 1]
    shapes = {
        name: [d.size for d in tensor.tensor_shape.dim]
        for name, tensor in signature.outputs.items()
    }
    assert shapes == {
        "logits": [-1, 10],
        "probabilities": [-1, 10],
        "label": [-1],
    }


def test_certified_radius_of_the_artifact(tmp_path):
    model = certified_classifier(width=16, seed=1)
    save_classifier(model, tmp_path)
    reloaded, x = load_classifier(tmp_path), images(20)
    answers = reloaded.certify(x)
    labels, radii = certified_radii(model, x)
    np.testing.assert_array_equal(answers["label"], labels)
    np.testing.assert_allclose(
        answers["certified_radius"], radii, rtol=1e-3, atol=1e-5
    )
    assert radii.max() > 0.01
    np.testing.assert_array_equal(reloaded(x), answers["logits"])
    variables = tf.train.list_variables(
        str(tmp_path / "1" / "variables" / "variables")
    )
    stored = sum(int(np.prod(shape)) for _, shape in variables if shape)
    weights = model.trainable_weights
    assert stored == sum(int(np.prod(w.shape)) for w in weights)


def test_model_without_a_bound_has_no_certificate_and_says_why(tmp_path):
    reason = "gets no signature certify: .*layer 'bent' of type Dense with"
    image = keras.Input((28, 28, 1), name="image")
    bent = keras.layers.Dense(4, "exponential", name="bent")
    model = keras.Model(
        image, keras.layers.Dense(10)(bent(keras.layers.Flatten()(image)))
    )
    with pytest.warns(UserWarning, match=reason) as warned:
        save_classifier(model, tmp_path)
    assert [str(w.filename) for w in warned] == [__file__]
    with pytest.raises(ValueError, match="signature certify: .*warns"):
        load_classifier(tmp_path).certify(images())


def test_model_with_a_bound_is_exported_without_a_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        save_classifier(certified_classifier(width=4, blocks=1), tmp_path)


def test_input_has_one_name_everywhere(tmp_path):
    """TensorFlow's, which a server's warm-up requests must use as well."""
    for name, exported_name in (
        ("an-image", "an_image"),
        ("1st", "arg_1st"),
        ("bild ä", "bild__"),
    ):
        image = keras.Input((2,), name=name)
        model = keras.Model(image, keras.layers.Dense(3)(image))
        assert saving._input_spec(model).name == exported_name
    path = save_classifier(model, tmp_path)
    assert load_classifier(path).input_name == exported_name
    requests = (path / warm_up.PATH).read_bytes()
    assert exported_name.encode() in requests
    assert load_classifier(path).predict(np.zeros([1, 2]))["label"].shape == (
        1,
    )


def test_input_that_is_no_number_is_refused(tmp_path):
    text = keras.Input((1,), dtype="string", name="text")
    codes = keras.layers.StringLookup(vocabulary=["a"], output_mode="count")
    model = keras.Model(text, keras.layers.Dense(2)(codes(text)))
    with pytest.raises(ValueError, match="numbers. Received: string input"):
        save_classifier(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_weights_are_stored_once(exported):
    variables = exported[2] / "variables" / "variables"
    stored = tf.train.list_variables(str(variables))
    count = sum(int(np.prod(shape)) for _, shape in stored if shape)
    assert count == exported[0].count_params()


def test_input_comes_from_the_keras_input(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((3,), name="measurement", dtype="float64"),
            keras.layers.Dense(2, dtype="float64"),
        ]
    )
    save_classifier(model, tmp_path)
    reloaded = load_classifier(tmp_path)
    assert reloaded.input_name == "measurement"
    assert reloaded.input_spec.dtype == tf.float64
    x = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_allclose(reloaded(x), model(x), rtol=1e-12)
    with pytest.raises(ValueError, match="measurement must have shape"):
        reloaded(np.ones((4, 2)))


def test_half_precision_model_answers_in_single_precision(tmp_path):
    policy = keras.DTypePolicy("mixed_bfloat16")
    model = classifier(keras.layers.Dense(8, dtype=policy))
    model = keras.Model(
        model.inputs, keras.layers.Dense(10, dtype=policy)(model.output)
    )
    assert model.output.dtype == "bfloat16"
    save_classifier(model, tmp_path)
    assert (
        load_classifier(tmp_path).predict(images())["logits"].dtype == "float32"
    )


def test_custom_gradient_survives_in_a_new_process(tmp_path):
    model = classifier(StraightThrough())
    save_classifier(model, tmp_path / "model")
    x = images()
    np.save(tmp_path / "x.npy", x)
    script = (
        "import sys, numpy as np, tensorflow as tf\n"
        "from stable_node_tf import load_classifier\n"
        "model = load_classifier(sys.argv[1] + '/model')\n"
        "x = tf.constant(np.load(sys.argv[1] + '/x.npy'))\n"
        "with tf.GradientTape() as tape:\n"
        "    tape.watch(x)\n"
        "    total = tf.reduce_sum(model(x)[:, 3])\n"
        "np.save(sys.argv[1] + '/gradient.npy', tape.gradient(total, x))\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        check=True,
        cwd=Path(stable_node_tf.__file__).parents[1],
    )
    tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        total = tf.reduce_sum(model(tensor)[:, 3])
    expected = tape.gradient(total, tensor).numpy()
    assert np.abs(expected).max() > 0
    gradient = np.load(tmp_path / "gradient.npy")
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "op"), [(CallsPython, "PyFunc"), (CallsPythonEagerly, "Eager")]
)
def test_calls_into_python_are_refused(exported, tmp_path, layer, op):
    shutil.copytree(exported[2], tmp_path / "1")
    before = load_classifier(tmp_path)(images()).numpy()
    with pytest.raises(ValueError, match=rf"calls into Python: .*\({op}"):
        save_classifier(classifier(layer(), seed=1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    np.testing.assert_array_equal(load_classifier(tmp_path)(images()), before)


def test_constraints_are_asked_first_also_of_nested_layers(tmp_path):
    guarded = Guarded()
    image = keras.Input((28, 28, 1), name="image")
    model = keras.Model(image, classifier(guarded)(image))
    save_classifier(model, tmp_path / "feasible")
    guarded.feasible = False
    with pytest.raises(ValueError, match="delta must be"):
        save_classifier(model, tmp_path / "infeasible")
    assert not (tmp_path / "infeasible").exists()


def test_export_replaces_the_earlier_one_and_nothing_else(exported, tmp_path):
    shutil.copytree(exported[2], tmp_path / "1")
    (tmp_path / "1" / "stale").touch()
    (tmp_path / "2").mkdir()
    (tmp_path / "card.md").touch()
    model = classifier(seed=1)
    save_classifier(model, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["1", "2", "card.md"]
    assert not (tmp_path / "1" / "stale").exists()
    np.testing.assert_allclose(
        load_classifier(tmp_path)(images()), model(images()), atol=1e-6
    )


def test_failed_write_leaves_the_earlier_export(
    exported, tmp_path, monkeypatch
):
    shutil.copytree(exported[2], tmp_path / "1")
    before = load_classifier(tmp_path)(images()).numpy()

    def full_disk(source, target):
        raise OSError("No space left on device")

    for name in ("_write", "_refuse_python_ops"):
        with monkeypatch.context() as patch, pytest.raises(OSError):
            patch.setattr(saving, name, lambda *_: full_disk(None, None))
            save_classifier(classifier(seed=1), tmp_path)
    with monkeypatch.context() as patch, pytest.raises(OSError):
        rename = type(tmp_path).rename

        def second_fails(source, target):
            if source.name == "complete":
                full_disk(source, target)
            return rename(source, target)

        patch.setattr(type(tmp_path), "rename", second_fails)
        save_classifier(classifier(seed=1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    np.testing.assert_array_equal(load_classifier(tmp_path)(images()), before)


def test_kill_half_way_leaves_the_earlier_export(exported, tmp_path):
    shutil.copytree(exported[2], tmp_path / "1")
    before = load_classifier(tmp_path)(images()).numpy()
    child = _start_stuck_export(tmp_path)
    try:
        _wait_for(lambda: (tmp_path / "stuck").exists(), child)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    (tmp_path / "stuck").unlink()
    assert len(list(tmp_path.glob(".exporting-*"))) == 1
    np.testing.assert_array_equal(load_classifier(tmp_path)(images()), before)

    model = classifier(seed=2)
    save_classifier(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    np.testing.assert_allclose(
        load_classifier(tmp_path)(images()), model(images()), atol=1e-6
    )


def _start_stuck_export(directory):
    """Exports in a new process that stops once the files are written."""
    script = (
        "import pathlib, sys, time, keras\n"
        "from stable_node_tf.saved_model import save_classifier, saving\n"
        "directory = pathlib.Path(sys.argv[1])\n"
        "def stop(path):\n"
        "    (directory / 'stuck').touch()\n"
        "    time.sleep(600)\n"
        "saving._refuse_python_ops = stop\n"
        "image = keras.Input((28, 28, 1), name='image')\n"
        "x = keras.layers.Flatten()(image)\n"
        "model = keras.Model(image, keras.layers.Dense(10)(x))\n"
        "save_classifier(model, directory)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, str(directory)],
        cwd=Path(stable_node_tf.__file__).parents[1],
    )


def _wait_for(condition, child, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert child.poll() is None, "the export ended by itself"
        assert time.monotonic() < end, "the export did not get far enough"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: "model", TypeError, "must be a keras.Model"),
        (
            lambda: keras.Sequential([keras.layers.Dense(2)]),
            ValueError,
            "0 inputs",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input((4, 4)), keras.layers.Dense(2)]
            ),
            ValueError,
            "logits of shape",
        ),
    ],
)
def test_models_without_one_input_and_logits(tmp_path, make, error, message):
    with pytest.raises(error, match=message):
        save_classifier(make(), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="must not be a file"):
        save_classifier(classifier(), tmp_path / "file")
