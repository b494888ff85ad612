"""What is proven about a whole classifier: certified radii and accuracy."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.certification.box_certifier import BoxCertifier
from stable_node_tf.certification.forward_rounding import (
    EXACT_INPUT,
    Computed,
    pair_errors,
)
from stable_node_tf.certification.keras_layers.dense import linear_readout
from stable_node_tf.certification.network import certified_network
from stable_node_tf.certification.radius import (
    UNLIMITED,
    certified_radius,
    pair_distances,
    unlimited_to_infinity,
)
from stable_node_tf.certification.rules import after_layer, lipschitz_after
from stable_node_tf.checks import check_count, check_norm
from stable_node_tf.model_graph.binary_logits import class_logits
from stable_node_tf.model_graph.graph import single_tensor_function


class Certifier(NamedTuple):
    """Bounds of one network in the 2-norm; called, it certifies images.

    Attributes:
      pair_lipschitz: Lipschitz constants of logit_i - logit_j in the 2-norm of
        the image, float64, of shape (K, K). For a network with a single logit
        z they are those of the two logits (0, z).
      offset: e, of shape (K, K): the computed difference of two logits is off
        by at most e + f |x|₂.
      slope: f, of shape (K, K).
      holds_for: what the radii hold for, in words.
    """

    pair_lipschitz: np.ndarray
    offset: np.ndarray
    slope: np.ndarray
    holds_for: str

    @property
    def num_classes(self) -> int:
        """K, at least 2."""
        return len(self.pair_lipschitz)

    def __call__(self, images: Any, logits: Any) -> tf.Tensor:
        """Certifies images whose logits the network has computed.

        Args:
          images: of shape (n, ...).
          logits: of shape (n, K), or (n, 1) for two classes.

        Returns:
          ℓ2 radii, float64, of shape (n,), infinite where no image whatever
          has another class.
        """
        return unlimited_to_infinity(self.limited(images, logits))

    def limited(self, images: Any, logits: Any) -> tf.Tensor:
        """As the call, but `radius.UNLIMITED` for infinity."""
        flat = tf.reshape(
            tf.cast(images, tf.float64), [tf.shape(images)[0], -1]
        )
        norms = tf.norm(flat, axis=-1) * (1 + 1e-10)
        return certified_radius(
            class_logits(logits),
            self.pair_lipschitz,
            norms,
            self.offset,
            self.slope,
        )

    def within(self, images: Any, logits: Any, radii: Any) -> tf.Tensor:
        """Whether the class is proven at R radii: booleans, shape (R, n)."""
        # "Within" includes the sphere, on which nothing is proven.
        return self.limited(images, logits) > radii[:, None]


class CertifiedCurve(NamedTuple):
    """Certified accuracy against radius, over n images.

    Attributes:
      radii: in the norm of the certificate, float64, of shape (R,).
      accuracies: share of images that are classified correctly, and provably
        so within the radius, float64, of shape (R,).
      clean_accuracy: share that is classified correctly.
      holds_for: what is proven, in words.
      num_images: n.
    """

    radii: np.ndarray
    accuracies: np.ndarray
    clean_accuracy: float
    holds_for: str
    num_images: int


def certifier(
    model: keras.Model,
    *,
    norm: str | float = "2",
    bounds: Sequence[float] | None = (0.0, 1.0),
) -> Certifier | BoxCertifier:
    """Bounds a network by the rules of its layers, see `register_rule`.

    In the 2-norm every tensor between the input and the read-out has a
    Lipschitz constant with respect to the input, by the rule of the layer that
    makes it: that of the layer's input times that of the layer, or what a rule
    for several inputs combines. logit_i - logit_j has that of the last one
    times |W_i - W_j|₂, for the read-out W. In the ∞-norm boxes of images are
    carried from layer to layer, by rules for them.

    If the input and all layers are float32, or all float64, and the rules of
    all layers bound their rounding errors, those of the network as it is
    computed are bounded too; `forward_rounding` says what that assumes. Neural
    ODEs do so with explicit Euler and `LeakyTanh` or `SmoothLeakyReLU`. For
    other networks, and for float32 where TensorFlow may round to TF32 on a GPU,
    `holds_for` says "real arithmetic".

    A single logit z stands for two classes: 1 where z > 0, and 0 elsewhere.

    Args:
      model: functional or sequential, from one input through layers with rules
        to a `Dense` layer without activation; also with such models as layers.
        docs/theory.md lists the layers of Keras that have rules. No layer may
        be quantized, of a subclass, with a replaced method or called with
        `training=True`.
      norm: "2" or "inf", that of the distances between images.
      bounds: for the ∞-norm, the smallest and the largest value of a pixel, as
        for `attacks.Attack`, or None.

    Raises:
      TypeError: if it is not a Keras model.
      ValueError: naming the layer, if the model is not of that kind or nothing
        is known about a layer in that norm.

    >>> from stable_node_tf import ode_classifier
    >>> bounds = certifier(ode_classifier(width=8, delta_bar=0.0))
    >>> bounds.pair_lipschitz.shape
    (10, 10)
    """
    network = certified_network(model)
    if check_norm(norm) == "inf":
        return BoxCertifier(network, bounds)
    graph, readout, unit = network
    # For each tensor, a Lipschitz constant of what leads to it, and the
    # rounding errors on the way if they are bounded.
    reached: dict[int, tuple[float, Computed | None]] = {
        0: (1.0, EXACT_INPUT if unit else None)
    }
    for step in graph.steps:
        if step is readout:
            break
        before = [reached[number] for number in step.inputs]
        shapes = [tuple(graph.tensors[n].shape[1:]) for n in step.inputs]
        reached[step.outputs[0]] = (
            lipschitz_after(
                step.operation, [b for b, _ in before], shapes, **step.options
            ),
            after_layer(
                step.operation,
                [s for _, s in before],
                unit,
                shapes,
                **step.options,
            ),
        )
    bound, state = reached[readout.inputs[0]]
    if state is None:
        state, unit = EXACT_INPUT, 0.0
    kernel, bias = linear_readout(readout.operation)
    if len(bias) == 1:
        kernel, bias = np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0))
    offset, slope = pair_errors(state, kernel, bias, unit)
    apart = pair_distances(kernel)
    lipschitz = np.nextafter(bound * apart, np.inf)
    return Certifier(
        np.where(apart > 0.0, lipschitz, 0.0),
        offset,
        slope,
        f"2-norm, {network.arithmetic(unit)}",
    )


def certified_radii(
    model: keras.Model,
    images: Any,
    batch_size: int = 500,
    *,
    norm: str | float = "2",
    bounds: Sequence[float] | None = (0.0, 1.0),
) -> tuple[np.ndarray, np.ndarray]:
    """Classes and certified radii of images.

    In the ∞-norm a radius is the largest one that boxes prove, found by
    bisection up to 0.03 per cent; 0 if it is below 2^-24 of the bounds.

    Args:
      model: see `certifier`, as for `norm` and `bounds`.
      images: array (n, ...) in the units of the model, finite, in the ∞-norm
        within the bounds; or a `tf.data.Dataset` of batches of them, or of
        pairs with labels, which are not looked at.
      batch_size: images per call of the model, if they are an array.
      norm: "2" or "inf".
      bounds: in the ∞-norm, of pixels; images beyond are no concern.

    Returns:
      Classes, int64, of shape (n,); radii, float64, of shape (n,), infinite
      where no image whatever has another class.

    >>> from stable_node_tf import ode_classifier
    >>> model = ode_classifier(width=8, delta_bar=0.0)
    >>> labels, radii = certified_radii(model, np.zeros((3, 28, 28, 1)))
    >>> labels.shape, radii.shape
    ((3,), (3,))
    """
    certify = certifier(model, norm=norm, bounds=bounds)
    answer = _compiled(model, certify.limited)
    answers = [
        answer(_as_input(part, model, certify))
        for part, _ in _batches(images, None, batch_size)
    ]
    labels, radii = map(np.concatenate, zip(*answers, strict=True))
    return labels, np.where(radii == UNLIMITED, np.inf, radii)


def certified_accuracy(
    model: keras.Model,
    images: Any,
    labels: Any,
    radii: Sequence[float],
    batch_size: int = 500,
    *,
    norm: str | float = "2",
    bounds: Sequence[float] | None = (0.0, 1.0),
) -> CertifiedCurve:
    """Share of images whose correct class is proven, against the radius.

    No attack whatever gets below these accuracies: every image within the
    radius of a counted one has its class, in the ∞-norm if its pixels are
    within the bounds.

    Args:
      model: see `certifier`, as for `norm` and `bounds`.
      images: array (n, ...) in the units of the model, finite, n >= 1, in the
        ∞-norm within the bounds; or a `tf.data.Dataset` of batches of pairs
        (images, labels).
      labels: integer array (n,), or None with a data set.
      radii: finite numbers >= 0.
      batch_size: images per call of the model, if they are an array.
      norm: "2" or "inf".
      bounds: in the ∞-norm, of pixels, or None.

    >>> from stable_node_tf import ode_classifier
    >>> model = ode_classifier(width=8, delta_bar=0.0)
    >>> images = np.zeros((3, 28, 28, 1))
    >>> curve = certified_accuracy(model, images, [1, 1, 1], radii=[0.1, 9.0])
    >>> curve.num_images, curve.accuracies.shape
    (3, (2,))
    >>> curve = certified_accuracy(model, images, [1] * 3, [0.1], norm="inf")
    >>> curve.holds_for
    '∞-norm, float32 arithmetic as computed'
    """
    budgets = np.asarray(radii, np.float64)
    if budgets.ndim != 1 or not np.all(np.isfinite(budgets) & (budgets >= 0)):
        raise ValueError(
            "`radii` must be a list of finite numbers >= 0. "
            f"Received: radii={radii!r}"
        )
    parts = _labeled(images, labels, batch_size)
    certify = certifier(model, norm=norm, bounds=bounds)
    answer = _compiled(
        model, lambda batch, logits: certify.within(batch, logits, budgets)
    )
    correct, safe = [], []
    for part, classes in parts:
        _check_classes(classes, certify.num_classes)
        predicted, proven = answer(_as_input(part, model, certify))
        correct.append(predicted == classes)
        safe.append(correct[-1] & proven)
    if not correct:
        raise ValueError("`images` must be at least one. Received: none")
    all_correct = np.concatenate(correct)
    return CertifiedCurve(
        budgets,
        np.concatenate(safe, axis=1).mean(axis=1),
        float(all_correct.mean()),
        certify.holds_for,
        len(all_correct),
    )


Answer = Callable[[np.ndarray], tuple[Any, Any]]


def _compiled(model: keras.Model, certify: Callable[..., Any]) -> Answer:
    """Maps images to their classes and what is certified."""
    network = single_tensor_function(model)
    [image] = model.inputs
    spec = tf.TensorSpec([None, *image.shape[1:]], image.dtype)

    @tf.function(input_signature=[spec], autograph=False)
    def answer(batch):
        logits = network(batch)
        return tf.argmax(class_logits(logits), -1), certify(batch, logits)

    return answer


def _labeled(images: Any, labels: Any, batch_size: int) -> Iterator[Any]:
    """Batches of images and labels, checked where they are arrays."""
    if isinstance(images, tf.data.Dataset):
        if labels is not None:
            raise ValueError(
                "`labels` must be None where `images` are a data set, which "
                "has them. Received: labels as well"
            )
        return _batches(images, labels, batch_size)
    labels, count = np.asarray(labels), len(images)
    if not count:
        raise ValueError("`images` must be at least one. Received: none")
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"`labels` must be {count} integers, one for each image. Received: "
            f"labels of shape {labels.shape} and dtype {labels.dtype}"
        )
    return _batches(images, labels, batch_size)


def _batches(images: Any, labels: Any, batch_size: int) -> Iterator[Any]:
    """Pairs of images and labels; of no images, one."""
    if isinstance(images, tf.data.Dataset):
        for part in images.as_numpy_iterator():
            yield part if isinstance(part, tuple) else (part, None)
        return
    size = check_count(batch_size, "batch_size")
    images = np.asarray(images)
    for start in range(0, max(len(images), 1), size):
        part = slice(start, start + size)
        yield images[part], None if labels is None else labels[part]


def _as_input(
    images: Any, model: keras.Model, certify: Certifier | BoxCertifier
) -> np.ndarray:
    received = np.asarray(images)
    if not np.isfinite(received).all():
        raise ValueError("`images` must be finite. Received: NaN or infinity")
    wanted = tf.as_dtype(model.inputs[0].dtype)
    images = received.astype(wanted.as_numpy_dtype)
    if not wanted.is_floating and np.any(images != received):
        raise ValueError(
            f"`images` must be numbers of {wanted.name}, the dtype of the "
            f"model's input. Received: images of {received.dtype} with others"
        )
    if isinstance(certify, BoxCertifier):
        certify.check_inside(images)
    return images


def _check_classes(labels: np.ndarray, classes: int) -> None:
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"`labels` must be in [0, {classes - 1}]: the model has {classes} "
            f"classes. Received: labels from {labels.min()} to {labels.max()}"
        )
