"""A stand-in for TensorFlow Serving, on the loopback interface.

It is not the server, whose program cannot be had here. What is real in it:
the exported model, loaded and run by the loader and the session that the server
uses (`c_session`), the gRPC stubs of tensorflow-serving-api, the status codes
and messages of the session. What is imitated: the requests' way there, that is
the checks of names and the translation of JSON, written after reading
the server's source; some of its short error messages are quoted. As a program,

    python tests/serving/stand_in.py saved_models/mnist_stable_network

it serves the highest version in a directory, under the directory's name and at
the ports where the clients in examples/ look for a server, until Ctrl-C.
"""

import base64
import json
import re
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from c_session import Failed, Session
from google.protobuf import json_format
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

INVALID_ARGUMENT = 3
NOT_FOUND = 5
_GRPC = {code.value[0]: code for code in grpc.StatusCode}
_HTTP = {INVALID_ARGUMENT: 400, NOT_FOUND: 404}


class Model:
    """An exported model that answers requests."""

    def __init__(self, version_directory):
        self.version = int(version_directory.name)
        self._session = Session(version_directory)
        meta_graph = meta_graph_pb2.MetaGraphDef.FromString(
            self._session.meta_graph
        )
        self.signatures = {
            name: signature
            for name, signature in meta_graph.signature_def.items()
            if signature.method_name == "tensorflow/serving/predict"
        }

    def signature(self, name):
        name = name or "serving_default"
        if name not in self.signatures:
            raise Failed(
                INVALID_ARGUMENT,
                f'Serving signature name: "{name}" not found in signature def',
            )
        return self.signatures[name]

    def predict(self, signature_name, inputs):
        signature = self.signature(signature_name)
        if inputs.keys() != signature.inputs.keys():
            raise Failed(
                INVALID_ARGUMENT,
                f"inputs {sorted(inputs)} do not match those of the signature, "
                f"{sorted(signature.inputs)}",
            )
        feeds = {
            signature.inputs[name].name: value for name, value in inputs.items()
        }
        outputs = {name: t.name for name, t in signature.outputs.items()}
        values = self._session.run(feeds, list(outputs.values()))
        return dict(zip(outputs, values, strict=True))

    def close(self):
        self._session.close()


class StandIn:
    """Serves one model over gRPC and REST, in a block of `with`.

    Ports are free ones unless they are given.

    Attributes:
        grpc_address, rest_address: for clients.
    """

    def __init__(self, name, version_directory, grpc_port=0, rest_port=0):
        self._name = name
        self._model = Model(version_directory)
        self._ports = grpc_port, rest_port

    def model(self, name):
        if name != self._name:
            raise Failed(NOT_FOUND, f"Servable not found for request: {name}")
        return self._model

    def __enter__(self):
        self._grpc = grpc.server(
            futures.ThreadPoolExecutor(2),
            options=[("grpc.max_receive_message_length", -1)],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _PredictionService(self), self._grpc
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            _ModelService(self), self._grpc
        )
        grpc_port, rest_port = self._ports
        port = self._grpc.add_insecure_port(f"127.0.0.1:{grpc_port}")
        self._grpc.start()
        self.grpc_address = f"127.0.0.1:{port}"
        self._rest = ThreadingHTTPServer(("127.0.0.1", rest_port), _RestHandler)
        self._rest.stand_in = self
        threading.Thread(target=self._rest.serve_forever, daemon=True).start()
        self.rest_address = f"http://127.0.0.1:{self._rest.server_port}"
        return self

    def __exit__(self, *_):
        self._grpc.stop(None).wait()
        self._rest.shutdown()
        self._rest.server_close()
        self._model.close()


def _reporting(method):
    """Turns `Failed` into the status of a call."""

    def reported(self, request, context):
        try:
            return method(self, request)
        except Failed as failed:
            context.abort(_GRPC[failed.code], failed.message)

    return reported


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, stand_in):
        self._stand_in = stand_in

    @_reporting
    def Predict(self, request):  # noqa: N802
        model = self._stand_in.model(request.model_spec.name)
        inputs = {n: tf.make_ndarray(t) for n, t in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(request.model_spec)
        response.model_spec.version.value = model.version
        signature = request.model_spec.signature_name
        for name, value in model.predict(signature, inputs).items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response

    @_reporting
    def GetModelMetadata(self, request):  # noqa: N802
        model = self._stand_in.model(request.model_spec.name)
        found = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in model.signatures.items():
            found.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = model.version
        response.metadata["signature_def"].Pack(found)
        return response


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, stand_in):
        self._stand_in = stand_in

    @_reporting
    def GetModelStatus(self, request):  # noqa: N802
        return _status(self._stand_in.model(request.model_spec.name))


def _status(model):
    response = get_model_status_pb2.GetModelStatusResponse()
    response.model_version_status.add(
        version=model.version,
        state=get_model_status_pb2.ModelVersionStatus.AVAILABLE,
    )
    return response


class _RestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: the second would wait 40 ms

    def do_GET(self):
        def answer():
            path = re.fullmatch(r"/v1/models/([^/:]+)", self.path)
            if not path:
                raise Failed(
                    INVALID_ARGUMENT, f"Malformed request: {self.path}"
                )
            status = _status(self.server.stand_in.model(path[1]))
            return json_format.MessageToDict(
                status, preserving_proto_field_name=True
            )

        self._answer(answer)

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        content = self.rfile.read(length)

        def answer():
            path = re.fullmatch(r"/v1/models/([^/:]+):predict", self.path)
            if not path:
                raise Failed(
                    INVALID_ARGUMENT, f"Malformed request: {self.path}"
                )
            return _rest_predict(self.server.stand_in.model(path[1]), content)

        self._answer(answer)

    def _answer(self, answer):
        try:
            status, content = 200, answer()
        except Failed as failed:
            status = _HTTP.get(failed.code, 500)
            content = {"error": failed.message}
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def _rest_predict(model, content):
    try:
        request = json.loads(content)
    except ValueError as error:
        raise Failed(INVALID_ARGUMENT, f"JSON Parse error: {error}") from error
    if not isinstance(request, dict):
        raise Failed(INVALID_ARGUMENT, "JSON value is not an object")
    signature_name = request.get("signature_name", "")
    [(name, tensor)] = model.signature(signature_name).inputs.items()
    if "instances" in request:
        values = request["instances"]
        if not isinstance(values, list) or not values:
            raise Failed(INVALID_ARGUMENT, "No values in 'instances' array")
        values = [v[name] if _keys(v) == {name} else v for v in values]
    elif "inputs" in request:
        values = request["inputs"]
        values = values[name] if _keys(values) == {name} else values
    else:
        raise Failed(INVALID_ARGUMENT, "Missing 'inputs' or 'instances' key")
    outputs = model.predict(
        signature_name, {name: _from_json(values, tensor.dtype)}
    )
    columns = {name: value.tolist() for name, value in outputs.items()}
    if "inputs" in request:
        return {"outputs": columns}
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, r, strict=True)) for r in rows]}


def _keys(value):
    return value.keys() if isinstance(value, dict) else None


def _from_json(values, dtype):
    dtype = tf.as_dtype(dtype)
    if dtype == tf.string:
        try:
            files = [base64.b64decode(v["b64"], validate=True) for v in values]
        except (KeyError, TypeError, ValueError) as error:
            raise Failed(
                INVALID_ARGUMENT, "not formatted correctly for base64 data"
            ) from error
        return np.array(files, object)
    try:
        array = np.array(values)
    except ValueError as error:
        raise Failed(
            INVALID_ARGUMENT, f"Encountered list at unexpected size: {error}"
        ) from error
    if array.dtype.kind not in ("if" if dtype.is_floating else "i"):
        raise Failed(
            INVALID_ARGUMENT,
            f"JSON Value is not of expected type: {dtype.name}",
        )
    return array.astype(dtype.as_numpy_dtype)


def main(directory):
    directory = Path(directory).resolve()
    versions = [int(p.name) for p in directory.iterdir() if p.name.isdecimal()]
    version = directory / str(max(versions))
    with StandIn(directory.name, version, 8500, 8501) as server:
        print(
            f"{directory.name}, version {version.name}, at "
            f"{server.grpc_address} and {server.rest_address}",
            flush=True,
        )
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main(*sys.argv[1:])
