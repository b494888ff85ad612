"""Classifiers as SavedModels, for TensorFlow Serving and for evaluation."""

import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from stable_node_tf.certification.certifier import Certifier, certifier
from stable_node_tf.model_graph.ends import (
    changed_pixels,
    probabilities,
    probability_operation,
)
from stable_node_tf.model_graph.graph import (
    Graph,
    check_one_input_one_output,
    model_graph,
    single_tensor_function,
)
from stable_node_tf.operation_errors import reason
from stable_node_tf.saved_model import checksums, signatures, warm_up
from stable_node_tf.saved_model.signatures import MAX_BATCH_SIZE

SIGNATURE = signatures.DEFAULT
CERTIFY_SIGNATURE = signatures.CERTIFY
_OUTPUTS = signatures.OUTPUTS
_PYTHON_OPS = ("PyFunc", "PyFuncStateless", "EagerPyFunc")


class ExportedModel:
    """A reloaded SavedModel, called like the Keras model it came from.

    Calling it maps images (batch, ...) to logits (batch, classes) and is
    differentiable, so that attacks run on the artifact itself.

    Attributes:
        path: the version directory it was read from.
        input_name: name of the input of the signature, for example "image".
        input_spec: its `tf.TensorSpec`, batch dimension None.

    Example:
        >>> image = keras.Input((2,), name="image")
        >>> model = keras.Model(image, keras.layers.Dense(3)(image))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     _ = export(model, directory)
        ...     exported = load(directory)
        >>> exported.input_name, exported(tf.zeros([5, 2])).shape.as_list()
        ('image', [5, 3])
        >>> exported.predict(np.zeros([5, 2]))["label"].shape
        (5,)
    """

    def __init__(self, path: Path, artifact: Any, signature: Any):
        """Wraps what `tf.saved_model.load` returned; use `load` instead."""
        self.path = path
        self._artifact = artifact  # owns the variables of the signature
        self._signature = signature
        [(self.input_name, self.input_spec)] = (
            signature.structured_input_signature[1].items()
        )

    def __call__(self, images: Any) -> Any:
        """Computes logits, (batch, classes), of images (batch, ...)."""
        return self._answers(images)["logits"]

    def predict(self, images: Any) -> dict[str, np.ndarray]:
        """Computes all outputs of the signature.

        Args:
            images: array (batch, ...) in the units the model was trained on,
                converted to the dtype of the input.

        Returns:
            `logits` and `probabilities`, floats (batch, classes), and
            `label`, int64 (batch,), the class with the largest logit. A model
            with a single logit z has `logits` (batch, 1), `probabilities`
            (batch, 2), of which the second is sigmoid(z), and label 1 where
            z > 0, 0 elsewhere.

        Raises:
            ValueError: if the images do not have the shape of the input, or are
                refused by the signature, see `stable_node_tf.saved_model.signatures`, or
                the input is of integers and the images are not.
        """
        answers = self._answers(images)
        return {name: answers[name].numpy() for name in _OUTPUTS}

    def certify(self, images: Any) -> dict[str, np.ndarray]:
        """Computes all outputs of `predict` and how far they are proven.

        Args:
            images: as for `predict`.

        Returns:
            Those of `predict`, and `certified_radius`, float64 (batch,): no
            image closer than that in the ℓ2 norm has another label, in the
            arithmetic of `stable_node_tf.certification.certifier.Certifier.holds_for`.

        Raises:
            ValueError: as `predict`, or if the model could not be certified
                when it was exported.
        """
        if CERTIFY_SIGNATURE not in self._artifact.signatures:
            raise ValueError(
                f"The SavedModel in {self.path} must have the signature "
                f"{CERTIFY_SIGNATURE}: models that `certifier` accepts have "
                "one, of others `export` warns. Received: a model without"
            )
        signature = self._artifact.signatures[CERTIFY_SIGNATURE]
        answers = self._answers(images, signature)
        return {name: value.numpy() for name, value in answers.items()}

    def _answers(self, images: Any, signature: Any = None) -> dict[str, Any]:
        spec = self.input_spec
        try:
            images, received = tf.cast(images, spec.dtype), images
            if spec.dtype.is_integer:
                # Fractions would be cut off, and all of [0, 1) be 0.
                tf.debugging.assert_equal(
                    tf.cast(images, tf.float64), tf.cast(received, tf.float64)
                )
        except (TypeError, ValueError, tf.errors.OpError) as error:
            raise ValueError(
                f"{self.input_name} must be an array of numbers that "
                f"{spec.dtype.name} can hold. "
                f"Received: {_first_line(error)}"
            ) from error
        if not spec.shape.is_compatible_with(images.shape):
            raise ValueError(
                f"{self.input_name} must have shape {spec.shape}. "
                f"Received: shape {images.shape}"
            )
        signature = signature or self._signature
        try:
            answers: dict[str, Any] = signature(**{self.input_name: images})
        except tf.errors.OpError as error:
            raise ValueError(
                f"The SavedModel in {self.path} does not answer: "
                f"{reason(error)}"
            ) from error
        return answers


def export(
    model: keras.Model,
    directory: str | Path,
    *,
    pixels: bool | tuple[float, float] | None = None,
    max_batch_size: int = MAX_BATCH_SIZE,
) -> Path:
    """Writes a classifier as a SavedModel under `directory`/1.

    The signature `serving_default` has one input, named, shaped and typed as
    the `keras.Input` of the model with batch dimension None, and the outputs
    of `ExportedModel.predict`; of its name, what is neither an ASCII letter nor
    a digit becomes "_". The artifact holds TensorFlow operations only and can
    be differentiated after reloading. A model that
    `stable_node_tf.certification.certifier.certifier` accepts gets a second signature,
    `certify`, with the outputs of `ExportedModel.certify`; for others there is
    a warning that says why they have none. Models of images
    take bytes and PNG files as well. `stable_node_tf.saved_model.signatures` describes
    all signatures and the requests that they refuse; TensorFlow Serving warms
    them up from assets.extra.

    The export appears under its name only once it is complete: until then an
    earlier export stays in place, and other versions are not touched. One
    export at a time may write to a directory.

    Every layer that has a method `assert_constraints` (as `StableODELayer`
    has) is asked first, because Keras applies constraints neither on loading
    weights nor on setting them.

    Args:
        model: a functional or sequential model with one input and one output,
            the logits (batch, classes), or one logit (batch, 1) for two
            classes; no layer is called with `training=True`.
        directory: created where needed, with its parents.
        pixels: the numbers that the bytes 0 and 255 stand for in the input of
            the model: `True` or (0, 1) for pixels in [0, 1], as models of this
            package take them; (0, 255) for a model that divides by 255 itself;
            (-1, 1). `False` leaves the signatures for bytes and PNG files out.
            By default they are (0, 1), unless the model begins with something
            that may scale pixels, such as `Rescaling` or `x / 255`: then they
            are left out, and a warning says so.
        max_batch_size: the most images that are answered in one call.

    Returns:
        The path of the version directory, `directory`/1.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if the model has not one input and one output, its input
            is not of numbers, its output is not (batch, classes), its graph
            calls into Python (such a model cannot be served), its logits are
            NaN, it ends in a softmax or sigmoid, a layer is called with
            `training=True` or violates its constraints, `pixels` is none of
            the above, or `max_batch_size` is below 1.
        NotADirectoryError: if `directory` is a file.

    Example:
        >>> image = keras.Input((2,), name="image")
        >>> model = keras.Model(image, keras.layers.Dense(3)(image))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     export(model, directory).name
        '1'
    """
    spec = _input_spec(model)
    graph = _readable_graph(model)
    if graph is not None:
        _refuse_training_mode(graph)
        _refuse_probabilities(probabilities(graph))
    pixel_range = _pixel_range(pixels, model, graph, spec)
    for layer in model._flatten_layers(include_self=False):
        if hasattr(layer, "assert_constraints"):
            layer.assert_constraints()

    parent = Path(directory)
    if parent.exists() and not parent.is_dir():
        raise NotADirectoryError(
            f"directory must not be a file. Received: directory={directory}"
        )
    parent.mkdir(parents=True, exist_ok=True)
    target = parent / "1"
    with tempfile.TemporaryDirectory(
        prefix=".exporting-", dir=parent, ignore_cleanup_errors=True
    ) as scratch:
        complete = Path(scratch) / "complete"
        _write(model, spec, complete, pixel_range, max_batch_size)
        _refuse_python_ops(complete)
        _replace(target, complete, Path(scratch) / "replaced")
    _remove_leftovers(parent)
    return target


def load(directory: str | Path) -> ExportedModel:
    """Reads a SavedModel back.

    Its files are compared with their checksums first: TensorFlow would end the
    process on some damaged graphs. Without checksums, as in a SavedModel that
    `export` has not written, there is a warning. A SavedModel is a program;
    load those that you trust only.

    Args:
        directory: what was given to `export`, of which the highest version is
            read, or one version directory itself.

    Returns:
        An `ExportedModel`.

    Raises:
        FileNotFoundError: if there is no such directory, or no SavedModel in
            it.
        ValueError: if the SavedModel is damaged or does not have the
            signature that `export` writes.

    Example:
        >>> load("/nowhere")
        Traceback (most recent call last):
        ...
        FileNotFoundError: directory must exist, and must not be a file.
        Received: directory=/nowhere
    """
    path = _newest_version(Path(directory))
    try:
        if (path / checksums.NAME).exists():
            checksums.verify(path)
        else:
            warnings.warn(
                f"{path} has no {checksums.NAME}: if the SavedModel is "
                "damaged, TensorFlow may end the process without a message.",
                stacklevel=2,
            )
        artifact = tf.saved_model.load(str(path))
    except Exception as error:  # the loader raises whatever it trips over
        raise ValueError(
            f"The SavedModel in {path} is damaged or unreadable: "
            f"{_first_line(error)}"
        ) from error
    signature = artifact.signatures.get(SIGNATURE)
    if signature is None:
        raise ValueError(
            f"The SavedModel in {path} must have the signature {SIGNATURE}. "
            f"Received: signatures {sorted(artifact.signatures)}"
        )
    inputs = signature.structured_input_signature[1]
    outputs = signature.structured_outputs
    if len(inputs) != 1 or not set(_OUTPUTS) <= set(outputs):
        raise ValueError(
            f"The signature {SIGNATURE} in {path} must have one input and the "
            f"outputs {', '.join(_OUTPUTS)}. Received: inputs "
            f"{sorted(inputs)}, outputs {sorted(outputs)}"
        )
    [image] = inputs.values()
    logits = outputs["logits"]
    if (
        not (image.dtype.is_floating or image.dtype.is_integer)
        or not image.shape.rank
        or not logits.dtype.is_floating
        or logits.shape.rank != 2
    ):
        raise ValueError(
            f"The signature {SIGNATURE} in {path} must map numbers of shape "
            "(batch, ...) to logits of shape (batch, classes). Received: "
            f"{image.dtype.name} {image.shape} to {logits.dtype.name} "
            f"{logits.shape}"
        )
    return ExportedModel(path, artifact, signature)


def _input_spec(model: keras.Model) -> tf.TensorSpec:
    check_one_input_one_output(model)
    [output], [image] = model.outputs, model.inputs
    if len(output.shape) != 2:
        raise ValueError(
            "model must return logits of shape (batch, classes). "
            f"Received: output shape {output.shape}"
        )
    dtype = tf.as_dtype(image.dtype)
    if not (dtype.is_floating or dtype.is_integer):
        raise ValueError(
            "model must have an input of numbers. "
            f"Received: {dtype.name} input {image.name}"
        )
    # As TensorFlow does it, which keeps letters like ä and then refuses them.
    name = re.sub(r"[^0-9A-Za-z]", "_", image.name)
    name = name if name[0].isalpha() else f"arg_{name}"
    return tf.TensorSpec([None, *image.shape[1:]], dtype, name)


def _write(
    model: keras.Model,
    spec: tf.TensorSpec,
    path: Path,
    pixel_range: tuple[float, float] | None,
    max_batch_size: int,
) -> None:
    served = signatures.signatures(
        _logits_of(model),
        spec,
        certifier=_certifier(model),
        pixels=pixel_range or False,
        max_batch_size=max_batch_size,
    )
    _refuse_unanswered(served[SIGNATURE])
    archive = keras.export.ExportArchive()
    for name, signature in served.items():
        archive.add_endpoint(
            name, signature.function, input_signature=[signature.input_spec]
        )
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    archive.write_out(str(path), options=options, verbose=False)
    warm_up.write(
        path,
        {
            name: {signature.input_spec.name: signature.example}
            for name, signature in served.items()
            if signature.example is not None
        },
    )
    checksums.write(path)


def _logits_of(model: keras.Model) -> Callable[[Any], Any]:
    """The model, whose answers are checked when it is traced."""
    network = single_tensor_function(model)

    def logits_of(images: Any) -> Any:
        logits = network(images)
        if logits.shape.rank != 2 or not logits.dtype.is_floating:
            raise ValueError(
                "model must return logits of shape (batch, classes). "
                f"Received: {logits.dtype.name} of shape {logits.shape}"
            )
        last = probability_operation(logits)
        _refuse_probabilities(last and f"operation {last}")
        return logits

    return logits_of


def _readable_graph(model: keras.Model) -> Graph | None:
    try:
        return model_graph(model)
    except ValueError:
        return None


def _refuse_training_mode(graph: Graph) -> None:
    for step in graph.steps:
        if step.trains:
            raise ValueError(
                "model must answer one image alone, and always alike. "
                f"Received: {step.name}, called with training=True"
            )


def _refuse_probabilities(culprit: str | None) -> None:
    if culprit:
        raise ValueError(
            "model must return logits, not probabilities, to which softmax "
            f"would be applied again. Received: {culprit}, at the end. Export "
            "keras.Model(model.inputs, layer.input) without a layer of that "
            "kind; of a Dense layer, set `activation` to "
            "keras.activations.linear"
        )


def _pixel_range(
    pixels: Any, model: keras.Model, graph: Graph | None, spec: tf.TensorSpec
) -> tuple[float, float] | None:
    """What bytes 0 and 255 stand for, or None if no bytes are taken."""
    if pixels is None:
        if not signatures.is_image(spec):
            return None
        culprit = (
            f"model {model.name!r}, which does not say what it computes,"
            if graph is None
            else changed_pixels(graph)
        )
        if culprit:
            warnings.warn(
                "The SavedModel takes neither bytes nor PNG files: "
                f"{culprit} may scale pixels. Give the numbers that the bytes "
                "0 and 255 stand for, `pixels=(0, 255)` if the model divides "
                "by 255 itself, or `pixels=False`.",
                stacklevel=3,
            )
            return None
        pixels = True
    return signatures.pixel_range(pixels)


def _refuse_unanswered(signature: signatures.Signature) -> None:
    """A server would not load a model that fails on a warm-up request."""
    if signature.example is None:
        return
    try:
        answers = signature.function(tf.constant(signature.example))
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            "model must answer an image with numbers. Received for one that "
            f"rises evenly: {reason(error)}"
        ) from error
    logits = answers["logits"].numpy().astype(np.float64)
    total = logits.sum()
    if logits.size > 1 and logits.min() >= 0 and abs(total - 1.0) < 1e-5:
        _refuse_probabilities(f"numbers that sum to {total:.6f}")


def _certifier(model: keras.Model) -> Certifier | None:
    try:
        return certifier(model)
    except ValueError as error:
        warnings.warn(
            f"The SavedModel gets no signature {CERTIFY_SIGNATURE}: {error}",
            stacklevel=4,
        )
        return None


def _refuse_python_ops(path: Path) -> None:
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((path / "saved_model.pb").read_bytes())
    for meta_graph in saved_model.meta_graphs:
        graph = meta_graph.graph_def
        nodes = list(graph.node)
        for function in graph.library.function:
            nodes.extend(function.node_def)
        found = [f"{n.name} ({n.op})" for n in nodes if n.op in _PYTHON_OPS]
        if found:
            raise ValueError(
                "model must consist of TensorFlow operations to be served. "
                f"Received: calls into Python: {', '.join(found)}"
            )


def _replace(target: Path, complete: Path, replaced: Path) -> None:
    """Puts `complete` in the place of `target`, or leaves both alone."""
    if not target.exists():
        complete.rename(target)
        return
    try:
        target.rename(replaced)
        complete.rename(target)
    except BaseException:
        if not target.exists():
            replaced.rename(target)
        raise


def _remove_leftovers(parent: Path) -> None:
    """Removes what exports that were killed have left behind."""
    for leftover in parent.glob(".exporting-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _newest_version(directory: Path) -> Path:
    if not directory.is_dir():
        raise FileNotFoundError(
            "directory must exist, and must not be a file. "
            f"Received: directory={directory}"
        )
    if (directory / "saved_model.pb").is_file():
        return directory
    versions = [
        path
        for path in directory.iterdir()
        if path.name.isdecimal() and (path / "saved_model.pb").is_file()
    ]
    if not versions:
        raise FileNotFoundError(
            "directory must hold a SavedModel, in itself or under an integer "
            f"version such as 1. Received: directory={directory}"
        )
    return max(versions, key=lambda path: int(path.name))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
