"""Warm-up requests, which TensorFlow Serving replays before it serves.

TensorFlow optimizes a graph when it first runs; a server that has run every
signature once does not keep its first client waiting.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

PATH = "assets.extra/tf_serving_warmup_requests"

# Numbers of fields in tensorflow_serving/apis: prediction_log.proto,
# predict.proto and model.proto; in a map, of key and value.
_LOG_PREDICT = 6
_PREDICT_REQUEST = 1
_REQUEST_MODEL = 1
_REQUEST_INPUTS = 2
_MODEL_SIGNATURE = 3
_MAP_KEY = 1
_MAP_VALUE = 2


def write(
    version: str | Path, requests: Mapping[str, Mapping[str, np.ndarray]]
) -> Path:
    """Writes requests where TensorFlow Serving looks for them.

    They are encoded here, so that exporting does not need the package
    tensorflow-serving-api. The server refuses to load a model that fails on one
    of them, or that has more than 1000.

    Args:
      version: a version directory, the one with saved_model.pb in it.
      requests: from names of signatures to input arrays by name.

    Returns:
      The path of the file, a TFRecord of `PredictionLog`s.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as version:
    ...     _ = write(version, {"serving_default": {"image": np.zeros([1, 2])}})
    ...     records = tf.data.TFRecordDataset(f"{version}/{PATH}")
    ...     len(list(records))
    1
    """
    path = Path(version) / PATH
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests.items():
            writer.write(_prediction_log(signature, inputs))
    return path


def _prediction_log(signature: str, inputs: Mapping[str, np.ndarray]) -> bytes:
    request = _field(
        _REQUEST_MODEL, _field(_MODEL_SIGNATURE, signature.encode())
    )
    for name, array in inputs.items():
        tensor = tf.make_tensor_proto(array).SerializeToString()
        request += _field(
            _REQUEST_INPUTS,
            _field(_MAP_KEY, name.encode()) + _field(_MAP_VALUE, tensor),
        )
    return _field(_LOG_PREDICT, _field(_PREDICT_REQUEST, request))


def _field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that has a length: string or message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
