"""What is proven about a whole classifier: certified ℓ2 radii and accuracy."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf.certification.forward_rounding import (
    EXACT_INPUT,
    Computed,
    pair_errors,
)
from stable_node_tf.certification.keras_layers.dense import linear_readout
from stable_node_tf.certification.keras_layers.moves import MOVES
from stable_node_tf.certification.radius import (
    UNLIMITED,
    certified_radius,
    pair_distances,
)
from stable_node_tf.certification.rules import (
    after_layer,
    lipschitz_after,
    rule_of,
    with_activation,
)
from stable_node_tf.checks import check_count
from stable_node_tf.model_graph.binary_logits import class_logits
from stable_node_tf.model_graph.graph import (
    Graph,
    Step,
    model_graph,
    single_tensor_function,
)


class Certifier(NamedTuple):
    """Bounds of one network; called, it certifies images.

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

    def __call__(self, images: Any, logits: Any) -> tf.Tensor:
        """Certifies images whose logits the network has computed.

        Args:
          images: of shape (n, ...).
          logits: of shape (n, K), or (n, 1) for two classes.

        Returns:
          ℓ2 radii, float64, of shape (n,), infinite where no image whatever
          has another class.
        """
        radii = self.limited(images, logits)
        return tf.where(radii == UNLIMITED, 2.0 * radii, radii)

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


class CertifiedCurve(NamedTuple):
    """Certified accuracy against radius, over n images.

    Attributes:
      radii: ℓ2 radii, float64, of shape (R,).
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


def certifier(model: keras.Model) -> Certifier:
    """Bounds a network by the rules of its layers, see `register_rule`.

    Every tensor between the input and the read-out has a Lipschitz constant
    with respect to the input, by the rule of the layer that makes it: that of
    the layer's input times that of the layer, or what a rule for several inputs
    combines. logit_i - logit_j has that of the last one times |W_i - W_j|₂, for
    the read-out W.

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

    Raises:
      TypeError: if it is not a Keras model.
      ValueError: naming the layer, if the model is not of that kind or no
        Lipschitz constant is known for a layer.

    >>> from stable_node_tf import ode_classifier
    >>> bounds = certifier(ode_classifier(width=8, delta_bar=0.0))
    >>> bounds.pair_lipschitz.shape
    (10, 10)
    """
    graph = model_graph(model)
    for step in graph.steps:
        _check_applied(step, graph)
    readout = _readout(graph)
    unit = _unit_roundoff(graph)
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
        f"2-norm, {graph.tensors[0].dtype} arithmetic as computed"
        if unit
        else "2-norm, real arithmetic",
    )


def certified_radii(
    model: keras.Model, images: Any, batch_size: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """Classes and certified ℓ2 radii of images.

    Args:
      model: see `certifier`.
      images: array (n, ...) in the units of the model, finite.
      batch_size: images per call of the model.

    Returns:
      Classes, int64, of shape (n,); radii, float64, of shape (n,), infinite
      where no image whatever has another class.

    >>> from stable_node_tf import ode_classifier
    >>> model = ode_classifier(width=8, delta_bar=0.0)
    >>> labels, radii = certified_radii(model, np.zeros((3, 28, 28, 1)))
    >>> labels.shape, radii.shape
    ((3,), (3,))
    """
    return _radii(model, certifier(model), images, batch_size)


def certified_accuracy(
    model: keras.Model,
    images: Any,
    labels: Any,
    radii: Sequence[float],
    batch_size: int = 500,
) -> CertifiedCurve:
    """Share of images whose correct class is proven, against the radius.

    No attack whatever gets below these accuracies: every image of [0, 1]^n or
    of R^n within the radius of a counted one has its class.

    Args:
      model: see `certifier`.
      images: array (n, ...) in the units of the model, finite, n >= 1.
      labels: integer array (n,).
      radii: ℓ2 radii, finite and >= 0.
      batch_size: images per call of the model.

    >>> from stable_node_tf import ode_classifier
    >>> model = ode_classifier(width=8, delta_bar=0.0)
    >>> images = np.zeros((3, 28, 28, 1))
    >>> curve = certified_accuracy(model, images, [1, 1, 1], radii=[0.1, 9.0])
    >>> curve.num_images, curve.accuracies.shape
    (3, (2,))
    """
    budgets = np.asarray(radii, np.float64)
    if budgets.ndim != 1 or not np.all(np.isfinite(budgets) & (budgets >= 0)):
        raise ValueError(
            "`radii` must be a list of finite numbers >= 0. "
            f"Received: radii={radii!r}"
        )
    labels = np.asarray(labels)
    count = len(images)
    if not count:
        raise ValueError("`images` must be at least one. Received: none")
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"`labels` must be {count} integers, one for each image. Received: "
            f"labels of shape {labels.shape} and dtype {labels.dtype}"
        )
    certify = certifier(model)
    classes = len(certify.pair_lipschitz)
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"`labels` must be in [0, {classes - 1}]: the model has {classes} "
            f"classes. Received: labels from {labels.min()} to {labels.max()}"
        )
    predicted, proven = _radii(model, certify, images, batch_size)
    correct = predicted == labels
    # "Within" includes the sphere, on which nothing is proven.
    safe = correct[None, :] & (proven[None, :] > budgets[:, None])
    return CertifiedCurve(
        budgets,
        safe.mean(axis=1),
        float(correct.mean()),
        certify.holds_for,
        len(correct),
    )


def _radii(
    model: keras.Model, certify: Certifier, images: Any, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    network = single_tensor_function(model)

    @tf.function(autograph=False)
    def answer(batch):
        logits = network(batch)
        classes = tf.argmax(class_logits(logits), -1)
        return classes, certify.limited(batch, logits)

    batch_size = check_count(batch_size, "batch_size")
    images = _as_input(images, model.inputs[0].dtype)
    answers = [
        answer(images[start : start + batch_size])
        for start in range(0, max(len(images), 1), batch_size)
    ]
    labels, radii = map(np.concatenate, zip(*answers, strict=True))
    return labels, np.where(radii == UNLIMITED, np.inf, radii)


def _as_input(images: Any, dtype: str) -> np.ndarray:
    received = np.asarray(images)
    if not np.isfinite(received).all():
        raise ValueError("`images` must be finite. Received: NaN or infinity")
    wanted = tf.as_dtype(dtype)
    images = received.astype(wanted.as_numpy_dtype)
    if not wanted.is_floating and np.any(images != received):
        raise ValueError(
            f"`images` must be numbers of {dtype}, the dtype of the model's "
            f"input. Received: images of {received.dtype} with others"
        )
    return images


def _check_applied(step: Step, graph: Graph) -> None:
    """Raises unless a layer with a rule is applied as in inference."""
    if len(step.outputs) != 1:
        raise ValueError(
            "Layers of a certified model must make one tensor. "
            f"Received: {step.name}, which makes {len(step.outputs)}"
        )
    for number in step.inputs:
        shape = graph.tensors[number].shape
        if None in shape[1:]:
            raise ValueError(
                "A certified model must have inputs of one shape. Received: "
                f"{step.name} with inputs of shape {shape}"
            )
    known = rule_of(step.operation).options
    other = [f"{k}={v!r}" for k, v in step.options.items() if k not in known]
    if other:
        raise ValueError(
            "A certified model must apply its layers in inference mode, to "
            f"tensors. Received: {step.name}, called with {', '.join(other)}"
        )


def _readout(graph: Graph) -> Step:
    """The Dense layer that makes the logits."""
    steps = (s for s in graph.backwards() if type(s.operation) not in MOVES)
    last = next(steps, None)
    shape = graph.tensors[graph.output].shape
    if (
        last is None
        or type(last.operation) is not keras.layers.Dense
        or shape[1:] != (last.operation.units,)
    ):
        raise ValueError(
            "A certified model must end with a Dense layer, whose answers have "
            f"the shape (batch, classes). Received: answers of shape {shape}"
            + (
                f" from {last.name}{with_activation(last.operation)}"
                if last
                else ""
            )
        )
    return last


def _unit_roundoff(graph: Graph) -> float:
    """U of the arithmetic, or 0 where it is mixed or unknown."""
    dtypes = {graph.tensors[0].dtype}
    for step in graph.steps:
        layer = step.operation
        if isinstance(layer, keras.Layer):
            dtypes |= {layer.compute_dtype, layer.variable_dtype}
        dtypes |= {graph.tensors[number].dtype for number in step.outputs}
    if dtypes == {"float64"} or (dtypes == {"float32"} and not _may_use_tf32()):
        return float(np.finfo(dtypes.pop()).eps) / 2
    return 0.0


def _may_use_tf32() -> bool:
    return (
        tf.config.experimental.tensor_float_32_execution_enabled()
        and len(tf.config.get_visible_devices("GPU")) > 0
    )
