"""Warm-up requests, which TensorFlow Serving replays before it serves.

TensorFlow optimizes a graph when it first runs; a server that has run every
signature once does not keep its first client waiting.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

PATH = "assets.extra/tf_serving_warmup_requests"


def write(
    version: str | Path, requests: Mapping[str, Mapping[str, np.ndarray]]
) -> Path:
    """Writes requests where TensorFlow Serving looks for them.

    They are encoded here, so that exporting does not need the package
    tensorflow-serving-api. The server refuses to load a model that fails on one
    of them, or that has more than 1000.

    Args:
      version: a version directory, the one with saved_model.pb in it.
      requests: maps names of signatures to input arrays by name.

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
    """The numbers are those of tensorflow_serving/apis/*.proto."""
    model_spec = _field(3, signature.encode())
    request = _field(1, model_spec)
    for name, array in inputs.items():
        tensor = tf.make_tensor_proto(array).SerializeToString()
        request += _field(2, _field(1, name.encode()) + _field(2, tensor))
    predict_log = _field(1, request)
    return _field(6, predict_log)


def _field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that has a length: string or message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
