"""What is proven about a whole classifier: certified ℓ2 radii and accuracy."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf import activations, solvers
from stable_node_tf.certification.forward_rounding import (
    EXACT_INPUT,
    Computed,
    after_dense,
    after_euler,
    pair_errors,
)
from stable_node_tf.certification.radius import (
    UNLIMITED,
    certified_radius,
    pair_distances,
)
from stable_node_tf.checks import check_count
from stable_node_tf.layers.deep_ode import DeepODELayer
from stable_node_tf.layers.piecewise_ode import PiecewiseODELayer
from stable_node_tf.layers.stable_ode import StableODELayer
from stable_node_tf.model_graph.binary_logits import class_logits
from stable_node_tf.model_graph.graph import (
    Step,
    model_graph,
    single_tensor_function,
)
from stable_node_tf.replaced_methods import replaced_methods
from stable_node_tf.stability.lipschitz import (
    network_lipschitz,
    spectral_norm_bound,
)

# Types are compared, not instances: a subclass may compute anything.
_PASS_THROUGH = (
    keras.layers.InputLayer,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Dropout,
)
_NEURAL_ODES = (StableODELayer, DeepODELayer)


class _Link(NamedTuple):
    """A layer of a chain that is not the identity.

    Attributes:
      layer: the layer.
      positions: to how many rows of an input it is applied, each on its own.
    """

    layer: keras.layers.Layer
    positions: int


class Certifier(NamedTuple):
    """Bounds of one network; called, it certifies images.

    Attributes:
      pair_lipschitz: Lipschitz constants of logit_i - logit_j in the 2-norm of
        the image, float64, of shape (K, K). Of a network with a single logit z
        they are those of the two logits (0, z).
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
        """Certifies images whose logits were computed by the network.

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
        """As the call, but `stability.radius.UNLIMITED` for infinity."""
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
    """Bounds a chain of affine layers and neural ODEs.

    The Lipschitz constant of logit_i - logit_j is the product of those of the
    layers, times |W_i - W_j|₂ for the read-out W. Where the input and all
    layers are float32 or float64, and all neural ODEs are solved by explicit
    Euler and have `LeakyTanh` or `SmoothLeakyReLU`, the rounding errors of the
    network as it is computed are bounded too, see `stability.forward_rounding`
    for what that assumes. Elsewhere, and in float32 where TensorFlow may round
    to TF32 on a GPU, `holds_for` says "real arithmetic".

    A single logit z stands for two classes: 1 where z > 0, and 0 elsewhere.

    Args:
      model: a functional or sequential model with one input and one output, one
        layer after the other, out of `Flatten`, `Reshape`, `Dropout`, `Dense`
        without activation, `StableODELayer`, `DeepODELayer`,
        `PiecewiseODELayer` and models of such layers, a `Dense` layer at the
        end; none of them quantized, of a subclass, with a replaced method or
        called with `training=True`.

    Raises:
      TypeError: if it is not a Keras model.
      ValueError: naming the layer, if the model is not such a chain or no
        Lipschitz constant is known for what a solver computes.

    >>> from stable_node_tf import ode_classifier
    >>> bounds = certifier(ode_classifier(width=8, delta_bar=0.0))
    >>> bounds.pair_lipschitz.shape
    (10, 10)
    """
    links, dtypes = _chain(model)
    unit = _unit_roundoff(links, dtypes)
    factors, state = [1.0], EXACT_INPUT
    for layer, positions in links[:-1]:
        if isinstance(layer, _NEURAL_ODES):
            bound, state = _after_ode(layer, state, unit)
        else:
            kernel, bias = _affine(layer)
            bound = spectral_norm_bound(kernel)
            state = after_dense(state, kernel, bias, unit, positions)
        factors.append(bound)
    kernel, bias = _affine(links[-1].layer)
    if len(bias) == 1:
        kernel, bias = np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0))
    before = network_lipschitz(*factors)
    offset, slope = pair_errors(state, kernel, bias, unit)
    apart = pair_distances(kernel)
    return Certifier(
        np.where(apart > 0.0, np.nextafter(before * apart, np.inf), 0.0),
        offset,
        slope,
        "2-norm, real arithmetic"
        if unit == 0.0
        else f"2-norm, {min(dtypes)} arithmetic as computed",
    )


def certified_radii(
    model: keras.Model, images: Any, batch_size: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """Classes and certified ℓ2 radii of images.

    Args:
      model: see `certifier`.
      images: array (n, ...) in the units of the model.
      batch_size: images per call of the model.

    Returns:
      Classes, int64, of shape (n,); radii, float64, of shape (n,), infinite
      where no image whatever has another class.

    Raises:
      TypeError: as `certifier`, or if `batch_size` is not an integer.
      ValueError: as `certifier`, or if it is below 1, an image is not finite,
        or the model takes integers and an image has other numbers.

    >>> from stable_node_tf import ode_classifier
    >>> model = ode_classifier(width=8, delta_bar=0.0)
    >>> labels, radii = certified_radii(model, np.zeros((3, 28, 28, 1)))
    >>> labels.shape, radii.shape
    ((3,), (3,))
    """
    return _radii(model, certifier(model), images, batch_size)


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
      images: array (n, ...) in the units of the model, n >= 1.
      labels: integer array (n,).
      radii: ℓ2 radii, finite and >= 0.
      batch_size: images per call of the model.

    Raises:
      TypeError, ValueError: as `certified_radii`, or if there are no images, a
        radius is negative or not finite, or the labels are not the number of
        one class for each image.

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


def _chain(model: keras.Model) -> tuple[list[_Link], set[str]]:
    """What matters of a model, in order, the read-out last, and all dtypes."""
    graph = model_graph(model)
    parts, current = [], 0
    dtypes = {graph.tensors[0].dtype}
    for step in graph.steps:
        _check_follows(step, current)
        layer, tensor = step.operation, graph.tensors[current]
        [current] = step.outputs
        dtypes |= {layer.compute_dtype, layer.variable_dtype}
        if type(layer) in _PASS_THROUGH:
            continue
        piecewise = type(layer) is PiecewiseODELayer
        parts += [(p, tensor) for p in (layer.pieces if piecewise else [layer])]
    if current != graph.output:
        raise ValueError(
            "A certified model must be a chain of layers. Received: model "
            f"{model.name!r}, whose last layer does not make its output"
        )
    for part, _ in reversed(parts):
        _check_known(part)
    links = [_Link(part, _positions(part, tensor)) for part, tensor in parts]
    shape = graph.tensors[graph.output].shape
    if (
        not links
        or type(links[-1].layer) is not keras.layers.Dense
        or shape[1:] != (links[-1].layer.units,)
    ):
        raise ValueError(
            "A certified model must end with a Dense layer, whose answers have "
            "the shape (batch, classes). "
            f"Received: model {model.name!r}, answers of shape {shape}"
        )
    return links, dtypes


def _check_follows(step: Step, before: int) -> None:
    """Raises unless it is a layer, applied to the tensor before as usual."""
    layer = step.operation
    if not isinstance(layer, keras.Layer):
        raise ValueError(
            f"No Lipschitz constant is known for {step.name}. Expected: layers "
            "only"
        )
    if step.inputs != (before,) or len(step.outputs) != 1:
        raise ValueError(
            "A certified model must be a chain of layers. Received: "
            f"{step.name}, which is not applied to the layer before alone"
        )
    if step.options:
        raise ValueError(
            "A certified model must apply its layers in inference mode, to one "
            f"tensor. Received: {step.name}, called with "
            + ", ".join(f"{k}={v!r}" for k, v in step.options.items())
        )
    if isinstance(layer, keras.layers.InputLayer) and (
        not tf.as_dtype(layer.dtype).is_floating
    ):
        raise ValueError(
            f"A certified model must not round. Received: {step.name}, which "
            f"casts to {layer.dtype}"
        )
    _refuse_replaced(layer, step.name)


def _check_known(layer: keras.layers.Layer) -> None:
    dense = (
        type(layer) is keras.layers.Dense
        and layer.activation is keras.activations.linear
        and layer.quantization_mode is None
    )
    if not dense and type(layer) not in _NEURAL_ODES:
        raise ValueError(
            "No Lipschitz constant is known for layer "
            f"{layer.name!r} of type {type(layer).__name__}"
            f"{_with_activation(layer)}. Expected: "
            "Dense without activation or quantization, or a neural ODE of this "
            "package"
        )
    _refuse_replaced(layer, f"layer {layer.name!r}")
    if not dense:
        _refuse_replaced(layer.solver, f"the solver of layer {layer.name!r}")
        _refuse_replaced(
            layer.activation, f"the activation of layer {layer.name!r}"
        )


def _with_activation(layer: keras.layers.Layer) -> str:
    activation = getattr(layer, "activation", None)
    if activation in (None, keras.activations.linear):
        return ""
    name = getattr(activation, "__name__", type(activation).__name__)
    return f" with activation {name}"


def _refuse_replaced(part: Any, name: str) -> None:
    replaced = replaced_methods(part)
    if replaced:
        raise ValueError(
            "A certified model must compute what the types of its parts say. "
            f"Received: {name}, whose `{replaced[0]}` was replaced"
        )


def _positions(layer: keras.layers.Layer, tensor: Any) -> int:
    middle = tensor.shape[1:-1]
    if None in middle:
        raise ValueError(
            "A certified model must have inputs of one shape. Received: layer "
            f"{layer.name!r} with inputs of shape {tensor.shape}"
        )
    return math.prod(middle)


def _unit_roundoff(links: list[_Link], dtypes: set[str]) -> float:
    """U of the arithmetic, or 0 where its rounding is not bounded here."""
    known = all(
        type(layer.solver) is solvers.Euler
        and type(layer.activation)
        in (activations.LeakyTanh, activations.SmoothLeakyReLU)
        for layer, _ in links
        if isinstance(layer, _NEURAL_ODES)
    )
    if not known or dtypes not in ({"float32"}, {"float64"}):
        return 0.0
    if dtypes == {"float32"} and _may_use_tf32():
        return 0.0
    return float(np.finfo(min(dtypes)).eps) / 2


def _may_use_tf32() -> bool:
    return (
        tf.config.experimental.tensor_float_32_execution_enabled()
        and len(tf.config.get_visible_devices("GPU")) > 0
    )


def _affine(layer: keras.layers.Dense) -> tuple[np.ndarray, np.ndarray]:
    kernel = keras.ops.convert_to_numpy(layer.kernel).astype(np.float64)
    if layer.bias is None:
        return kernel, np.zeros(kernel.shape[1])
    return kernel, keras.ops.convert_to_numpy(layer.bias).astype(np.float64)


def _after_ode(
    layer: Any, state: Computed, unit: float
) -> tuple[float, Computed]:
    bound = layer.lipschitz_bound()
    if bound.step is None:
        raise ValueError(
            f"No Lipschitz constant is known for what the solver of layer "
            f"{layer.name!r} computes. Expected: explicit Euler or Runge-Kutta "
            f"on a fixed grid. Received: a bound for {bound.holds_for}"
        )
    if unit == 0.0:
        return bound.value, state
    deep = isinstance(layer, DeepODELayer)
    kernels, biases = (
        [keras.ops.convert_to_numpy(w).astype(np.float64) for w in weights]
        for weights in (
            (layer.kernels, layer.biases)
            if deep
            else ([layer.kernel], [layer.bias])
        )
    )
    damping = layer.damping if deep else 0.0
    steps = layer.solver.num_steps
    size = layer.terminal_time / steps
    origin = np.zeros((1, len(biases[-1])))
    norms = [0.0]
    for _ in range(steps):
        value = origin
        for kernel, bias in zip(kernels, biases, strict=True):
            value = layer.activation(tf.constant(value @ kernel.T + bias))
            value = value.numpy()
        origin = origin + size * (value - damping * origin)
        norms.append(float(np.linalg.norm(origin)))
    after = after_euler(
        state, kernels, biases, damping, size, bound.step, norms, unit
    )
    return bound.value, after
