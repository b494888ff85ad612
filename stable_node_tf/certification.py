"""What is proven about a whole classifier: certified ℓ2 radii and accuracy."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf import activations, solvers
from stable_node_tf.deep_ode import DeepODELayer
from stable_node_tf.layers import StableODELayer
from stable_node_tf.piecewise_ode import PiecewiseODELayer
from stable_node_tf.stability.certificates import (
    network_lipschitz,
    spectral_norm_bound,
)
from stable_node_tf.stability.checks import check_count
from stable_node_tf.stability.forward_rounding import (
    EXACT_INPUT,
    Computed,
    after_dense,
    after_euler,
    pair_errors,
)
from stable_node_tf.stability.radius import certified_radius, pair_distances

# Types are compared, not instances: a subclass may compute anything.
_PASS_THROUGH = (
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
        the image, float64, of shape (K, K).
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
          logits: of shape (n, K).

        Returns:
          ℓ2 radii, float64, of shape (n,), see `certified_radius`.
        """
        flat = tf.reshape(
            tf.cast(images, tf.float64), [tf.shape(images)[0], -1]
        )
        norms = tf.norm(flat, axis=-1) * (1 + 1e-10)
        return certified_radius(
            logits, self.pair_lipschitz, norms, self.offset, self.slope
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

    Args:
      model: a functional or sequential model, one layer after the other, out
        of `Flatten`, `Reshape`, `Dropout`, `Dense` without activation,
        `StableODELayer`, `DeepODELayer` and `PiecewiseODELayer`, a `Dense`
        layer at the end; none of them quantised or of a subclass.

    Raises:
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
      Classes, int64, of shape (n,); radii, float64, of shape (n,).

    Raises:
      TypeError: if `batch_size` is not an integer.
      ValueError: as `certifier`, or if it is below 1 or an image is not finite.

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
    @tf.function(autograph=False)
    def answer(batch):
        logits = model(batch, training=False)
        return tf.argmax(logits, -1), certify(batch, logits)

    batch_size = check_count(batch_size, "batch_size")
    images = np.asarray(images, model.inputs[0].dtype)
    if not np.isfinite(images).all():
        raise ValueError("`images` must be finite. Received: NaN or infinity")
    answers = [
        answer(images[start : start + batch_size])
        for start in range(0, max(len(images), 1), batch_size)
    ]
    labels, radii = zip(*answers, strict=True)
    return np.concatenate(labels), np.concatenate(radii)


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
        radius is negative or not finite, or the labels are not one integer for
        each image.

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
    tensors = (getattr(model, "inputs", None) or []) + (
        getattr(model, "outputs", None) or []
    )
    if len(tensors) != 2:
        raise ValueError(
            "A certified model must have one input and one output. "
            f"Received: model {getattr(model, 'name', model)!r}"
        )
    if not type(model).call.__module__.startswith("keras."):
        raise ValueError(
            "A certified model must compute what its graph of layers says. "
            f"Received: model {model.name!r} of type {type(model).__name__}, "
            "which has a `call` of its own"
        )
    links, tensor = [], model.outputs[0]
    dtypes = {model.inputs[0].dtype}
    while True:
        layer, node, _ = tensor._keras_history
        if isinstance(layer, keras.layers.InputLayer):
            break
        inputs = layer._inbound_nodes[node].input_tensors
        if len(inputs) != 1:
            raise ValueError(
                "A certified model must be a chain of layers. Received: layer "
                f"{layer.name!r} with several inputs"
            )
        [tensor] = inputs
        dtypes |= {layer.compute_dtype, layer.variable_dtype}
        if type(layer) in _PASS_THROUGH:
            continue
        piecewise = type(layer) is PiecewiseODELayer
        for part in reversed(layer.pieces if piecewise else [layer]):
            _check_known(part)
            links.append(_Link(part, _positions(part, tensor)))
    links.reverse()
    shape = model.outputs[0].shape
    if (
        not links
        or type(links[-1].layer) is not keras.layers.Dense
        or shape != (None, links[-1].layer.units)
    ):
        raise ValueError(
            "A certified model must end with a Dense layer, whose answers have "
            "the shape (batch, classes). "
            f"Received: model {model.name!r}, answers of shape {shape}"
        )
    return links, dtypes


def _check_known(layer: keras.layers.Layer) -> None:
    dense = (
        type(layer) is keras.layers.Dense
        and layer.activation is keras.activations.linear
        and layer.quantization_mode is None
    )
    if not dense and type(layer) not in _NEURAL_ODES:
        raise ValueError(
            "No Lipschitz constant is known for layer "
            f"{layer.name!r} of type {type(layer).__name__}. Expected: "
            "Dense without activation or quantisation, or a neural ODE of this "
            "package"
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
        isinstance(layer.solver, solvers.Euler)
        and isinstance(
            layer.activation,
            activations.LeakyTanh | activations.SmoothLeakyReLU,
        )
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
