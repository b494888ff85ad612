"""The signatures of an exported classifier: what it answers, what it refuses.

A server hands requests on as they come and may merge several into one batch.
So every signature checks its images itself, and computes in such a way that
the answers for one image do not depend on the others in its batch.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from stable_node_tf.certification.box_certifier import BoxCertifier
from stable_node_tf.certification.certifier import Certifier
from stable_node_tf.checks import check_count, increasing_ends
from stable_node_tf.model_graph.binary_logits import class_logits

DEFAULT = "serving_default"
CERTIFY = "certify"
OUTPUTS = ("logits", "probabilities", "label")
RADII = {"2": "certified_radius", "inf": "certified_radius_inf"}
"""The outputs of `CERTIFY` beside those, by norm."""
Certify = Certifier | BoxCertifier
"""Maps images and their logits to radii."""
MAX_BATCH_SIZE = 16_384

# Matrix and elementwise kernels treat a single row, and what is left over
# from whole vector registers, in their own way, which rounds differently.
_ROWS_MULTIPLE = 16
_PNG_HEADER_BYTES = 24
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class Signature(NamedTuple):
    """One way to ask a model.

    Attributes:
      function: maps a tensor like `input_spec` to a dictionary of tensors
        whose first dimension is the batch.
      input_spec: name, shape (None, ...) and dtype of the only input.
      example: a request of one image, which rises evenly over its range, or
        None if the shape of an image is not fixed.
    """

    function: Callable[[Any], dict[str, Any]]
    input_spec: tf.TensorSpec
    example: np.ndarray | None


def signatures(
    network: Callable[[Any], Any],
    input_spec: tf.TensorSpec,
    *,
    certifiers: Mapping[str, Certify] | None = None,
    pixels: bool | tuple[float, float] = True,
    max_batch_size: int = MAX_BATCH_SIZE,
) -> dict[str, Signature]:
    """Makes the signatures that a classifier is exported with.

    "serving_default" answers `OUTPUTS`. For images whose pixels are in a known
    range, "serving_uint8" takes bytes, and "serving_png" encoded images, of
    shape (batch,). With certifiers there are "certify", "certify_uint8" and
    "certify_png" as well, which answer their radii too.

    A request fails, with `tf.errors.InvalidArgumentError`, if its images are
    none or more than `max_batch_size`, do not have the shape of the input, are
    not finite, are not PNG files of the right size, or have logits that are
    NaN.

    Args:
      network: maps images to logits (batch, classes), or one logit (batch, 1),
        see `class_logits`.
      input_spec: the spec of the images, shape (None, ...), with a name.
      certifiers: those of the network, by the names of their outputs.
      pixels: see `pixel_range`; it matters only where `is_image(input_spec)`.
      max_batch_size: the most images in one request, >= 1.

    Returns:
      Signatures by name.

    >>> spec = tf.TensorSpec([None, 1, 2, 1], tf.float32, "image")
    >>> served = signatures(lambda x: tf.reshape(x, [-1, 2]), spec)
    >>> sorted(served)
    ['serving_default', 'serving_png', 'serving_uint8']
    >>> from_bytes = served["serving_uint8"]
    >>> from_bytes.example.tolist()
    [[[[0], [255]]]]
    >>> from_bytes.function(from_bytes.example)["logits"].numpy()
    array([[0., 1.]], dtype=float32)
    """
    max_batch_size = check_count(max_batch_size, "max_batch_size")
    ends = pixel_range(pixels)
    # Traced once, however many signatures share it.
    logits_of = tf.function(
        network, input_signature=[input_spec], autograph=False
    )

    radii_of = {
        name: _traced_once(certify)
        for name, certify in (certifiers or {}).items()
    }

    def answers(images: Any, certified: bool = False) -> dict[str, Any]:
        images = _checked(images, input_spec, max_batch_size)
        count = tf.shape(images)[0]
        images = _whole_blocks(images, count)
        logits = logits_of(images)
        if logits.dtype.size < 4:
            logits = tf.cast(logits, tf.float32)
        numbers = tf.logical_not(tf.reduce_any(tf.math.is_nan(logits)))
        logits = _require(logits, numbers, "The logits of an image are NaN.")
        classes = class_logits(logits)
        answers = {
            "logits": logits,
            "probabilities": tf.nn.softmax(classes),
            "label": tf.argmax(classes, axis=-1, output_type=tf.int64),
        }
        if certified:
            for name, radii in radii_of.items():
                answers[name] = radii(images, logits)
        return {name: answer[:count] for name, answer in answers.items()}

    functions: dict[str, Callable[[Any], dict[str, Any]]] = {
        "serving": lambda images: answers(images)
    }
    if radii_of:
        functions["certify"] = lambda images: answers(images, certified=True)
    served = {}
    for name, function in functions.items():
        default = DEFAULT if name == "serving" else CERTIFY
        served[default] = Signature(
            function, input_spec, _ramp(input_spec, ends or (0.0, 1.0))
        )
        if ends and is_image(input_spec):
            from_bytes = _from_bytes(function, input_spec, ends)
            served[f"{name}_uint8"] = from_bytes
            served[f"{name}_png"] = _from_png(from_bytes, max_batch_size)
    return served


def _traced_once(certify: Certify) -> Callable[[Any, Any], Any]:
    def radii(images: Any, logits: Any) -> Any:
        return certify(images, logits)

    return tf.function(radii, autograph=False)


def is_image(spec: tf.TensorSpec) -> bool:
    """Tells whether a PNG file can hold one input: (height, width, channels).

    >>> is_image(tf.TensorSpec([None, 28, 28, 1], tf.float32))
    True
    >>> is_image(tf.TensorSpec([None, 784], tf.float32))
    False
    """
    return (
        spec.dtype.is_floating
        and spec.shape.rank == 4
        and spec.shape[1:].is_fully_defined()
        and spec.shape[3] in (1, 3, 4)
    )


def pixel_range(
    pixels: bool | tuple[float, float],
) -> tuple[float, float] | None:
    """The numbers that bytes 0 and 255 stand for, None if they stand for none.

    >>> pixel_range((0, 255)), pixel_range(True), pixel_range(False)
    ((0.0, 255.0), (0.0, 1.0), None)
    """
    if isinstance(pixels, bool):
        return (0.0, 1.0) if pixels else None
    ends = increasing_ends(pixels)
    if ends is None:
        raise ValueError(
            "`pixels` must be True, False or two increasing numbers, those "
            f"that bytes 0 and 255 stand for. Received: pixels={pixels!r}"
        )
    return ends


def _ramp(spec: tf.TensorSpec, ends: tuple[float, float]) -> np.ndarray | None:
    shape = spec.shape[1:]
    if not shape.is_fully_defined():
        return None
    values = np.linspace(*ends, shape.num_elements())
    return values.reshape([1, *shape]).astype(spec.dtype.as_numpy_dtype)


def _checked(images: Any, spec: tf.TensorSpec, max_batch_size: int) -> Any:
    # Not known when traced: a server feeds whatever shape it was sent.
    images = tf.ensure_shape(images, spec.shape)
    images = _require_count(images, spec.name, max_batch_size)
    if not spec.dtype.is_floating:
        return images
    finite = tf.reduce_all(tf.math.is_finite(images))
    said = f"{spec.name} must be finite. Received: NaN or infinity"
    return _require(images, finite, said)


def _require_count(images: Any, name: str, max_batch_size: int) -> Any:
    count = tf.shape(images)[0]
    right = tf.logical_and(count >= 1, count <= max_batch_size)
    said = f"{name} must hold 1 to {max_batch_size} images. Received:"
    return _require(images, right, said, count)


def _require(tensor: Any, condition: Any, *said: Any) -> Any:
    """The tensor if a condition holds, else an error that says something."""
    with tf.control_dependencies([tensor]):
        check = tf.debugging.Assert(condition, said)
    with tf.control_dependencies([check]):
        return tf.identity(tensor)


def _whole_blocks(images: Any, count: Any) -> Any:
    """Appends copies of the first image up to a multiple of 16 images."""
    missing = tf.math.floormod(-count, _ROWS_MULTIPLE)
    return tf.concat([images, tf.repeat(images[:1], missing, axis=0)], axis=0)


def _from_bytes(
    function: Callable[[Any], dict[str, Any]],
    spec: tf.TensorSpec,
    ends: tuple[float, float],
) -> Signature:
    # A table, because graphs turn x / 255 into x * (1 / 255), which rounds
    # differently.
    low, high = ends
    table = (low + (high - low) * np.arange(256) / 255).astype(
        spec.dtype.as_numpy_dtype
    )

    def bytes_function(images: Any) -> dict[str, Any]:
        return function(tf.gather(table, tf.cast(images, tf.int32)))

    bytes_spec = tf.TensorSpec(spec.shape, tf.uint8, spec.name)
    return Signature(
        bytes_function, bytes_spec, _ramp(bytes_spec, (0.0, 255.0))
    )


def _from_png(decoded: Signature, max_batch_size: int) -> Signature:
    height, width, channels = decoded.input_spec.shape[1:]
    name = f"{decoded.input_spec.name}_bytes"
    expected = f"{name} must hold PNG files, {width} wide and {height} high"

    def png_function(encoded: Any) -> dict[str, Any]:
        encoded = tf.ensure_shape(encoded, [None])
        long_enough = tf.strings.length(encoded) >= _PNG_HEADER_BYTES
        header = tf.where(long_enough, encoded, " " * _PNG_HEADER_BYTES)
        magic = tf.strings.substr(header, 0, len(_PNG_MAGIC))
        encoded = _require_count(encoded, name, max_batch_size)
        encoded = _require(
            encoded,
            tf.reduce_all(magic == _PNG_MAGIC),
            f"{expected}. Received: something that is not a PNG file",
        )
        # Before anything is decoded: a small file can hold a huge image.
        size = tf.io.decode_raw(
            tf.strings.substr(header, _PNG_HEADER_BYTES - 8, 8),
            tf.int32,
            little_endian=False,
        )
        encoded = _require(
            encoded,
            tf.reduce_all(size == [width, height]),
            f"{expected}. Received: width and height",
            size,
        )
        images = tf.map_fn(
            lambda png: tf.io.decode_png(png, channels),
            encoded,
            fn_output_signature=tf.TensorSpec(
                [height, width, channels], tf.uint8
            ),
        )
        return decoded.function(images)

    return Signature(
        png_function,
        tf.TensorSpec([None], tf.string, name),
        tf.io.encode_png(decoded.example).numpy(),
    )
