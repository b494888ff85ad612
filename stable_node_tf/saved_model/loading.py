"""SavedModels read back: classifiers without their Python code."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from stable_node_tf.operation_errors import reason
from stable_node_tf.saved_model import checksums
from stable_node_tf.saved_model.signatures import CERTIFY, DEFAULT, OUTPUTS


class ExportedModel:
    """A reloaded SavedModel, called like the Keras model it came from.

    Calling it maps images (batch, ...) to logits (batch, classes) and is
    differentiable, so that attacks run on the artifact itself.

    Attributes:
      path: the version directory it was read from.
      input_name: name of the input of the signature, for example "image".
      input_spec: its `tf.TensorSpec`, batch dimension None.

    >>> import keras, tempfile
    >>> from stable_node_tf import save_classifier
    >>> image = keras.Input((2,), name="image")
    >>> model = keras.Model(image, keras.layers.Dense(3)(image))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     _ = save_classifier(model, directory)
    ...     exported = load_classifier(directory)
    >>> exported.input_name, exported(tf.zeros([5, 2])).shape.as_list()
    ('image', [5, 3])
    >>> exported.predict(np.zeros([5, 2]))["label"].shape
    (5,)
    """

    def __init__(self, path: Path, artifact: Any):
        """Wraps what `tf.saved_model.load` returned."""
        self.path = path
        self._artifact = artifact  # owns the variables of the signatures
        inputs = artifact.signatures[DEFAULT].structured_input_signature[1]
        [(self.input_name, self.input_spec)] = inputs.items()

    def __call__(self, images: Any) -> Any:
        """Computes logits, (batch, classes), of images (batch, ...)."""
        return self._answers(images)["logits"]

    def predict(self, images: Any) -> dict[str, np.ndarray]:
        """Computes all outputs of the signature.

        Args:
          images: array (batch, ...) in the units the model was trained on,
            converted to the dtype of the input.

        Returns:
          `logits` and `probabilities`, floats (batch, classes), and `label`,
          int64 (batch,), the class with the largest logit. A model with a
          single logit z has `logits` (batch, 1), `probabilities` (batch, 2), of
          which the second is sigmoid(z), and label 1 where z > 0, 0 elsewhere.

        Raises:
          ValueError: if the images do not have the shape of the input, or are
            refused by the signature, see `saved_model.signatures`, or the input
            is of integers and the images are not.
        """
        answers = self._answers(images)
        return {name: answers[name].numpy() for name in OUTPUTS}

    def certify(self, images: Any) -> dict[str, np.ndarray]:
        """Computes all outputs of `predict` and how far they are proven.

        Args:
          images: as for `predict`.

        Returns:
          Those of `predict`, and `certified_radius`, float64 (batch,): no image
          closer than that in the ℓ2 norm has another label, in the arithmetic
          of `stable_node_tf.certification.Certifier.holds_for`. If all layers
          carry boxes, `certified_radius_inf` as well, (batch,): none in the ℓ∞
          norm, of those whose pixels are in the range of the export.

        Raises:
          ValueError: as `predict`, or if the model was exported without.
        """
        if CERTIFY not in self._artifact.signatures:
            raise ValueError(
                f"The SavedModel in {self.path} must have the signature "
                f"{CERTIFY}: models that `certifier` accepts have one, and "
                "`save_classifier` warns of others. Received: none"
            )
        answers = self._answers(images, CERTIFY)
        return {name: value.numpy() for name, value in answers.items()}

    def _answers(self, images: Any, signature: str = DEFAULT) -> dict[str, Any]:
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
        function = self._artifact.signatures[signature]
        try:
            answers: dict[str, Any] = function(**{self.input_name: images})
        except tf.errors.OpError as error:
            raise ValueError(
                f"The SavedModel in {self.path} does not answer: "
                f"{reason(error)}"
            ) from error
        return answers


def load_classifier(directory: str | Path) -> ExportedModel:
    """Reads a SavedModel back.

    Its files are compared with their checksums first: TensorFlow would end the
    process on some damaged graphs. Without checksums, as in a SavedModel that
    `save_classifier` has not written, there is a warning. A SavedModel is a
    program: load only those that you trust.

    Args:
      directory: what was given to `save_classifier`, of which the highest
        version is read, or one version directory itself.

    Raises:
      FileNotFoundError: if there is no such directory, or no SavedModel in it.
      ValueError: if the SavedModel is damaged or does not have the signature
        that `save_classifier` writes.

    >>> load_classifier("/nowhere")
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
    _check_signature(path, artifact.signatures)
    return ExportedModel(path, artifact)


def _check_signature(path: Path, signatures: Any) -> None:
    if DEFAULT not in signatures:
        raise ValueError(
            f"The SavedModel in {path} must have the signature {DEFAULT}. "
            f"Received: signatures {sorted(signatures)}"
        )
    inputs = signatures[DEFAULT].structured_input_signature[1]
    outputs = signatures[DEFAULT].structured_outputs
    if len(inputs) != 1 or not set(OUTPUTS) <= set(outputs):
        raise ValueError(
            f"The signature {DEFAULT} in {path} must have one input and the "
            f"outputs {', '.join(OUTPUTS)}. Received: inputs "
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
            f"The signature {DEFAULT} in {path} must map numbers of shape "
            "(batch, ...) to logits of shape (batch, classes). Received: "
            f"{image.dtype.name} {image.shape} to {logits.dtype.name} "
            f"{logits.shape}"
        )


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
