"""Asks TensorFlow Serving for the labels of a test set, over REST.

    python examples/serving/client_rest.py --model=stable_network --images=png

Needs the extra "serving": pip install 'stable-node-tf[serving]'.
"""

import base64
import sys
from collections.abc import Sequence

import numpy as np
import requests
import served_accuracy
from served_accuracy import ServerError


def main(arguments: Sequence[str]) -> None:
    """Runs the client."""
    options = served_accuracy.parser(
        "Accuracy and latency of a served model, over REST.",
        "http://localhost:8501",
    ).parse_args(arguments)
    signature = served_accuracy.signature_name(options)
    url = f"{options.server}/v1/models/{options.model}:predict"
    with requests.Session() as session:

        def predict(batch: np.ndarray) -> dict[str, np.ndarray]:
            body = {"signature_name": signature, "instances": instances(batch)}
            return answers(session, url, body, options.timeout)

        served_accuracy.run(options, predict)


def instances(batch: np.ndarray) -> list:
    """A batch as JSON: nested lists of numbers, or files in base 64."""
    if batch.dtype != object:
        return batch.tolist()
    return [{"b64": base64.b64encode(file).decode()} for file in batch]


def answers(
    session: requests.Session, url: str, body: dict, timeout: float
) -> dict[str, np.ndarray]:
    """Posts one request; raises `ServerError` with what the server says."""
    try:
        response = session.post(url, json=body, timeout=timeout)
        content = response.json()
    except requests.RequestException as error:
        raise ServerError(
            f"{url} must answer with JSON. Received: {error}"
        ) from error
    if not response.ok:
        raise ServerError(f"{url}: {content.get('error', content)}")
    predictions = content["predictions"]
    return {
        name: np.array([prediction[name] for prediction in predictions])
        for name in predictions[0]
    }


if __name__ == "__main__":
    main(sys.argv[1:])
