"""Accuracy and latency of a served model: what both clients have in common."""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
from rich.progress import track

ENCODINGS = ("float", "uint8", "png")
PERCENTILES = (50, 90, 99, 100)


class ServerError(Exception):
    """The server is not there, or has refused a request."""


def parser(description: str, server: str) -> argparse.ArgumentParser:
    """The options of a client."""
    options = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    options.add_argument("--server", default=server, help="address")
    options.add_argument("--model", default="stable_network", help="its name")
    options.add_argument(
        "--dataset", default="mnist", choices=("mnist", "fashion_mnist")
    )
    options.add_argument("--data_dir", help="directory of the TFDS data sets")
    options.add_argument(
        "--images", default="uint8", choices=ENCODINGS, help="how to send them"
    )
    options.add_argument(
        "--certify", action="store_true", help="ask for certified radii too"
    )
    options.add_argument(
        "--radius", type=float, default=0.1, help="l2 radius for --certify"
    )
    options.add_argument(
        "--batch_size", type=int, default=100, help="images in one request"
    )
    options.add_argument(
        "--count", type=int, default=10_000, help="first test images to send"
    )
    options.add_argument(
        "--timeout", type=float, default=30.0, help="seconds for one request"
    )
    return options


def signature_name(options: argparse.Namespace) -> str:
    """The signature that answers what the options ask for."""
    if options.images == "float":
        return "certify" if options.certify else "serving_default"
    prefix = "certify" if options.certify else "serving"
    return f"{prefix}_{options.images}"


def run(
    options: argparse.Namespace,
    predict: Callable[[np.ndarray], dict[str, np.ndarray]],
) -> None:
    """Sends the test set and prints how well, and how fast, it is answered.

    Args:
        options: of `parser`.
        predict: sends one batch, returns the outputs of the signature, and
            raises `ServerError`.
    """
    if options.batch_size < 1 or options.count < 1:
        sys.exit("error: --batch_size and --count must be at least 1.")
    from trainers.data import datasets  # slow: not for --help

    test = datasets.load(options.dataset, data_dir=options.data_dir).test
    test = test.take(slice(options.count))
    starts = range(0, len(test.labels), options.batch_size)
    labels, radii, seconds = [], [], []
    try:
        for start in track(starts, "Asking the server"):
            part = test.take(slice(start, start + options.batch_size))
            batch = encoded(part.images, options.images)
            before = time.perf_counter()
            outputs = predict(batch)
            seconds.append(time.perf_counter() - before)
            labels.append(outputs["label"])
            radii.append(outputs.get("certified_radius", []))
    except ServerError as error:
        sys.exit(f"error: {error}")
    right = np.concatenate(labels) == test.labels
    print(f"accuracy: {right.mean():.2%} of {len(right)} images")
    if options.certify:
        proven = right & (np.concatenate(radii) > options.radius)
        print(f"certified at radius {options.radius}: {proven.mean():.2%}")
    latencies = 1000 * np.percentile(seconds, PERCENTILES)
    named = (
        f"p{percentile} {latency:.1f} ms"
        for percentile, latency in zip(PERCENTILES, latencies, strict=True)
    )
    print(
        f"latency of {len(seconds)} requests of {options.batch_size} images: "
        + ", ".join(named)
    )


def encoded(images: np.ndarray, encoding: str) -> np.ndarray:
    """Images (n, height, width, channels) of bytes as a signature takes them.

    Returns:
        float32 pixels in [0, 1], the bytes themselves, or n PNG files.
    """
    if encoding == "uint8":
        return images
    if encoding == "float":
        return images.astype(np.float32) / np.float32(255)
    import tensorflow as tf

    return tf.io.encode_png(images).numpy()
