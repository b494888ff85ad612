"""Classifiers written as SavedModels, for TensorFlow Serving."""

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

from stable_node_tf.certification.certifier import certifier
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

_PYTHON_OPS = ("PyFunc", "PyFuncStateless", "EagerPyFunc")


def save_classifier(
    model: keras.Model,
    directory: str | Path,
    *,
    pixels: bool | tuple[float, float] | None = None,
    max_batch_size: int = signatures.MAX_BATCH_SIZE,
) -> Path:
    """Writes a classifier as a SavedModel under `directory`/1.

    The signature `serving_default` has one input, named, shaped and typed as
    the `keras.Input` of the model with batch dimension None, and the outputs
    of `ExportedModel.predict`; in its name, whatever is neither an ASCII letter
    nor a digit becomes "_". The artifact holds TensorFlow operations only and
    can be differentiated after reloading. A model that
    `stable_node_tf.certification.certifier` accepts gets a second signature,
    `certify`, with the outputs of `ExportedModel.certify`; for others a warning
    says why they get none, or none in the ∞-norm. Models of images take bytes
    and PNG files as well. `saved_model.signatures` describes all signatures and
    the requests that they refuse; TensorFlow Serving warms them up from
    assets.extra.

    The export appears under its name only once it is complete: until then an
    earlier export stays in place, and other versions are not touched. One
    export at a time may write to a directory.

    Every layer that has a method `assert_constraints` (as `StableODELayer`
    has) is asked first, because Keras applies constraints neither on loading
    weights nor on setting them.

    Args:
      model: a functional or sequential model with one input and one output, the
        logits (batch, classes), or one logit (batch, 1) for two classes; no
        layer is called with `training=True`.
      directory: created where needed, with its parents.
      pixels: the numbers that the bytes 0 and 255 stand for in the input of the
        model: `True` or (0, 1) for pixels in [0, 1], as models of this package
        take them; (0, 255) for a model that divides by 255 itself; (-1, 1).
        `False` leaves the signatures for bytes and PNG files out. By default
        they are (0, 1), unless the model begins with something that may scale
        pixels, such as `Rescaling` or `x / 255`: then they are left out, and a
        warning says so.
      max_batch_size: the most images that are answered in one call.

    Returns:
      The path of the version directory, `directory`/1.

    Raises:
      TypeError: if `model` is not a Keras model.
      ValueError: if the model is not of that kind, its input is not of numbers,
        it calls into Python (and so cannot be served), its logits are NaN, it
        ends in a softmax or sigmoid, or a layer violates its constraints.
      NotADirectoryError: if `directory` is a file.

    >>> image = keras.Input((2,), name="image")
    >>> model = keras.Model(image, keras.layers.Dense(3)(image))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save_classifier(model, directory).name
    '1'
    """
    parent = Path(directory)
    if parent.exists() and not parent.is_dir():
        raise NotADirectoryError(
            f"directory must not be a file. Received: directory={directory}"
        )
    spec = _input_spec(model)
    graph = _readable_graph(model)
    if graph is not None:
        _refuse_training_mode(graph)
        _refuse_probabilities(probabilities(graph))
    if pixels is None:
        pixels = signatures.is_image(spec) and _takes_bytes(model, graph)
    for layer in model._flatten_layers(include_self=False):
        if hasattr(layer, "assert_constraints"):
            layer.assert_constraints()
    ends = signatures.pixel_range(pixels) if signatures.is_image(spec) else None
    served = signatures.signatures(
        _logits_of(model),
        spec,
        certifiers=_certifiers(model, ends),
        pixels=pixels,
        max_batch_size=max_batch_size,
    )
    _refuse_unanswered(served[signatures.DEFAULT])
    parent.mkdir(parents=True, exist_ok=True)
    target = parent / "1"
    with tempfile.TemporaryDirectory(
        prefix=".exporting-", dir=parent, ignore_cleanup_errors=True
    ) as scratch:
        complete = Path(scratch) / "complete"
        _write(served, complete)
        _refuse_python_ops(complete)
        _replace(target, complete, Path(scratch) / "replaced")
    for leftover in parent.glob(".exporting-*"):  # of exports that were killed
        shutil.rmtree(leftover, ignore_errors=True)
    return target


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
            "kind; for a Dense layer, set `activation` to "
            "keras.activations.linear"
        )


def _takes_bytes(model: keras.Model, graph: Graph | None) -> bool:
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
    return not culprit


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


def _certifiers(
    model: keras.Model, bounds: tuple[float, float] | None
) -> dict[str, signatures.Certify]:
    """What the outputs of the signature `certify` are computed by, by name."""
    found: dict[str, signatures.Certify] = {}
    for norm, name in signatures.RADII.items():
        try:
            found[name] = certifier(model, norm=norm, bounds=bounds)
        except ValueError as error:
            missing = (
                f"output {name}" if found else f"signature {signatures.CERTIFY}"
            )
            warnings.warn(
                f"The SavedModel gets no {missing}: {error}",
                stacklevel=3,
            )
            if not found:
                break
    return found


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


def _write(served: dict[str, signatures.Signature], path: Path) -> None:
    archive = keras.export.ExportArchive()
    for name, signature in served.items():
        archive.add_endpoint(
            name, signature.function, input_signature=[signature.input_spec]
        )
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    archive.write_out(str(path), options=options, verbose=False)
    requests = {
        name: {signature.input_spec.name: signature.example}
        for name, signature in served.items()
        if signature.example is not None
    }
    warm_up.write(path, requests)
    checksums.write(path)


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
    """Moves `complete` to `target`, or leaves both alone."""
    try:
        if target.exists():
            target.rename(replaced)
        complete.rename(target)
    except BaseException:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        raise
