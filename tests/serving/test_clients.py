"""The clients, and requests by hand, against a stand-in for the server."""

import json
import socket

import numpy as np
import pytest
import requests

pytest.importorskip(
    "tensorflow_serving.apis", reason="needs the extra 'serving'"
)
import client_grpc  # noqa: E402
import client_rest  # noqa: E402
import grpc  # noqa: E402
import tensorflow as tf  # noqa: E402
from stand_in import StandIn  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from stable_node_tf.models.certified_classifier import (  # noqa: E402
    certified_classifier,
)
from stable_node_tf.saved_model import (  # noqa: E402
    load_classifier,
    save_classifier,
)
from trainers.data import datasets  # noqa: E402

COUNT = 50


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = certified_classifier(width=16, blocks=1)
    directory = tmp_path_factory.mktemp("model")
    version = save_classifier(model, directory, max_batch_size=32)
    return load_classifier(version)


@pytest.fixture(scope="module")
def server(exported):
    with StandIn("tiny", exported.path) as server:
        yield server


def answers(exported, images):
    """Those of `certify`, in two calls: one would be refused."""
    halves = [exported.certify(half) for half in np.array_split(images, 2)]
    return {
        name: np.concatenate([half[name] for half in halves])
        for name in halves[0]
    }


@pytest.fixture
def test_split(exported, monkeypatch):
    """Images of which the model gets some right and some wrong."""
    rng = np.random.default_rng(1)
    images = rng.integers(256, size=(COUNT, 28, 28, 1), dtype=np.uint8)
    split = datasets.Split(images, np.zeros(COUNT, np.int64))
    labels = answers(exported, split.pixels)["label"]
    split = datasets.Split(images, np.where(rng.random(COUNT) < 0.7, labels, 9))
    monkeypatch.setattr(
        datasets,
        "load",
        lambda *_, **__: datasets.Dataset(split, split.take(slice(0)), split),
    )
    return split


CLIENTS = {"rest": client_rest, "grpc": client_grpc}


def run(client, server, *arguments):
    address = server.rest_address if client == "rest" else server.grpc_address
    CLIENTS[client].main(
        [f"--server={address}", "--model=tiny", "--batch_size=16", *arguments]
    )


@pytest.mark.parametrize("certify", [False, True])
@pytest.mark.parametrize("images", ["float", "uint8", "png"])
@pytest.mark.parametrize("client", CLIENTS)
def test_clients_report_what_the_model_does(
    exported, server, test_split, capsys, client, images, certify
):
    expected = answers(exported, test_split.pixels)
    right = expected["label"] == test_split.labels
    radius = np.median(expected["certified_radius"])
    run(
        client,
        server,
        f"--images={images}",
        *(["--certify", f"--radius={radius}"] if certify else []),
    )
    printed = capsys.readouterr().out
    assert 0 < right.mean() < 1
    assert f"accuracy: {right.mean():.2%} of {COUNT} images" in printed
    assert "latency of 4 requests of 16 images: p50 " in printed
    proven = right & (expected["certified_radius"] > radius)
    assert 0 < proven.mean() < right.mean()
    line = f"certified at radius {radius}: {proven.mean():.2%}"
    assert (line in printed) == certify


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_say_what_the_server_said(server, test_split, client):
    with pytest.raises(SystemExit, match="not found") as caught:
        run(client, server, "--model=other")
    assert str(caught.value).startswith("error: ")
    with pytest.raises(SystemExit, match="must hold 1 to 32 images"):
        run(client, server, "--batch_size=40")


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_without_a_server(client, test_split):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        scheme = "http://" if client == "rest" else ""
        with pytest.raises(SystemExit, match="error: .*"):
            CLIENTS[client].main(
                [f"--server={scheme}127.0.0.1:{port}", "--timeout=1"]
            )


@pytest.mark.parametrize("arguments", [["--batch_size=0"], ["--count=0"]])
def test_clients_refuse_empty_batches(server, arguments):
    with pytest.raises(SystemExit, match="must be at least 1"):
        run("rest", server, *arguments)


def post(server, body, path="/v1/models/tiny:predict"):
    content = body if isinstance(body, str) else json.dumps(body)
    response = requests.post(server.rest_address + path, content, timeout=30)
    return response.status_code, response.json()


def images(*shape):
    return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


GOOD = images(3, 28, 28, 1)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "{}",
        {"instances": []},
        {"instances": 1},
        {"instances": [[1, 2], [3]]},
        {"instances": [["a"]]},
        {"instances": images(2, 14, 14, 1).tolist()},
        {"instances": images(33, 28, 28, 1).tolist()},
        {"instances": np.full([1, 28, 28, 1], np.nan).tolist()},
        {"instances": [{"b64": "iVBORw0KGgo="}], "signature_name": "no_such"},
        {"instances": [{"b64": "???"}], "signature_name": "serving_png"},
        {"instances": [{"b64": "AAAA"}], "signature_name": "serving_png"},
        {"instances": GOOD.tolist(), "signature_name": "serving_uint8"},
    ],
)
def test_malformed_rest_requests(exported, server, body):
    status, answer = post(server, body)
    assert status == 400 and answer["error"]
    status, answer = post(server, {"instances": GOOD.tolist()})
    assert status == 200
    labels = [prediction["label"] for prediction in answer["predictions"]]
    assert labels == exported.predict(GOOD)["label"].tolist()


def test_rest_columns_and_named_rows_are_answered_like_rows(exported, server):
    expected = exported.predict(GOOD)
    inputs = {"inputs": {"image": GOOD.tolist()}}
    rows = {"instances": [{"image": image} for image in GOOD.tolist()]}
    status, columns = post(server, inputs)
    assert status == 200
    _, named = post(server, rows)
    for name, values in expected.items():
        np.testing.assert_array_equal(
            np.array(columns["outputs"][name], values.dtype), values
        )
        for row, value in zip(named["predictions"], values, strict=True):
            np.testing.assert_array_equal(
                np.array(row[name], value.dtype), value
            )


def test_status(server):
    url = server.rest_address + "/v1/models/tiny"
    answer = requests.get(url, timeout=30).json()
    [version] = answer["model_version_status"]
    assert version["state"] == "AVAILABLE" and version["version"] == "1"
    with grpc.insecure_channel(server.grpc_address) as channel:
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "tiny"
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        response = stub.GetModelStatus(request, timeout=30)
    [version] = response.model_version_status
    assert version.version == 1


@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        ("", {"image": images(4, 14, 14, 1)}, r"\[4,14,14,1\]"),
        ("", {"image": GOOD.astype(np.float64)}, "float but double"),
        ("", {"image": GOOD[:0]}, "must hold 1 to 32 images"),
        ("", {"image": images(33, 28, 28, 1)}, "must hold 1 to 32 images"),
        ("", {"image": GOOD * np.float32("nan")}, "image must be finite"),
        ("", {}, "do not match"),
        ("", {"image": GOOD, "label": GOOD}, "do not match"),
        ("no_such", {"image": GOOD}, "not found in signature def"),
        ("serving_uint8", {"image": GOOD}, "uint8 but float"),
        ("serving_png", {"image_bytes": np.array([b"x"])}, "PNG files"),
    ],
)
def test_malformed_grpc_requests(exported, server, signature, inputs, message):
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

        def predict(signature, inputs):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "tiny"
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            return stub.Predict(request, timeout=30)

        with pytest.raises(grpc.RpcError, match=message) as caught:
            predict(signature, inputs)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        response = predict("", {"image": GOOD})
    np.testing.assert_array_equal(
        tf.make_ndarray(response.outputs["logits"]),
        exported.predict(GOOD)["logits"],
    )
