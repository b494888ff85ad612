"""Asks TensorFlow Serving for the labels of a test set, over gRPC.

    python examples/serving/client_grpc.py --model=stable_network --certify

Needs the extra "serving": pip install 'stable-node-tf[serving]'.
"""

import sys
from collections.abc import Sequence

import grpc
import numpy as np
import served_accuracy
import tensorflow as tf
from served_accuracy import ServerError
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

# By default a client refuses answers above 4 MB.
_UNLIMITED = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


def main(arguments: Sequence[str]) -> None:
    """Runs the client."""
    options = served_accuracy.parser(
        "Accuracy and latency of a served model, over gRPC.", "localhost:8500"
    ).parse_args(arguments)
    signature = served_accuracy.signature_name(options)
    with grpc.insecure_channel(options.server, _UNLIMITED) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            name = input_name(stub, options.model, signature, options.timeout)
        except ServerError as error:
            sys.exit(f"error: {error}")

        def predict(batch: np.ndarray) -> dict[str, np.ndarray]:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = options.model
            request.model_spec.signature_name = signature
            request.inputs[name].CopyFrom(tf.make_tensor_proto(batch))
            response = call(stub.Predict, request, options.timeout)
            return {
                name: tf.make_ndarray(output)
                for name, output in response.outputs.items()
            }

        served_accuracy.run(options, predict)


def input_name(
    stub: prediction_service_pb2_grpc.PredictionServiceStub,
    model: str,
    signature: str,
    timeout: float,
) -> str:
    """Asks the server for the input of a signature."""
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = model
    request.metadata_field.append("signature_def")
    response = call(stub.GetModelMetadata, request, timeout)
    found = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(found)
    if signature not in found.signature_def:
        raise ServerError(
            f"{model} must have the signature {signature}. Received: "
            f"{', '.join(sorted(found.signature_def))}"
        )
    [name] = found.signature_def[signature].inputs
    return name


def call(method, request, timeout: float):
    """Calls the server; raises `ServerError` with what it says."""
    try:
        return method(request, timeout=timeout)
    except grpc.RpcError as error:
        raise ServerError(f"{error.code().name}: {error.details()}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
