"""What is proven about a whole classifier: certified ℓ2 radii and accuracy."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from stable_node_tf import activations, solvers
from stable_node_tf.deep_ode import DeepODELayer
from stable_node_tf.ode_layer import ODELayer
from stable_node_tf.piecewise_ode import PiecewiseODELayer
from stable_node_tf.stability.certificates import (
    network_lipschitz,
    spectral_norm_bound,
)
from stable_node_tf.stability.forward_rounding import (
    EXACT_INPUT,
    Computed,
    after_dense,
    after_euler,
    pair_errors,
)
from stable_node_tf.stability.radius import certified_radius, pair_distances

_PASS_THROUGH = (
    keras.layers.InputLayer,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Dropout,
)


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
    layers, times |W_i - W_j|₂ for the read-out W. Where all layers are float32
    or float64, and all neural ODEs are solved by explicit Euler and have
    `LeakyTanh` or `SmoothLeakyReLU`, the rounding errors of the network as it
    is computed are bounded too, see `stability.forward_rounding` for what that
    assumes. Elsewhere `holds_for` says "real arithmetic".

    Args:
      model: a functional or sequential model, one layer after the other, out
        of `Flatten`, `Reshape`, `Dropout`, `Dense` without activation,
        `StableODELayer`, `DeepODELayer` and `PiecewiseODELayer`, a `Dense`
        layer at the end.

    Raises:
      ValueError: naming the layer, if the model is not such a chain or no
        Lipschitz constant is known for what a solver computes.

    >>> from stable_node_tf import ode_classifier
    >>> bounds = certifier(ode_classifier(width=8, delta_bar=0.0))
    >>> bounds.pair_lipschitz.shape
    (10, 10)
    """
    layers = _chain(model)
    unit = _unit_roundoff(layers)
    factors, state = [1.0], EXACT_INPUT
    for layer in layers[:-1]:
        if isinstance(layer, ODELayer):
            bound, state = _after_ode(layer, state, unit)
        else:
            kernel, bias = _affine(layer)
            bound = spectral_norm_bound(kernel)
            state = after_dense(state, kernel, bias, unit)
        factors.append(bound)
    kernel, bias = _affine(layers[-1])
    before = network_lipschitz(*factors)
    offset, slope = pair_errors(state, kernel, bias, unit)
    apart = pair_distances(kernel)
    return Certifier(
        np.where(apart > 0.0, np.nextafter(before * apart, np.inf), 0.0),
        offset,
        slope,
        "2-norm, real arithmetic"
        if unit == 0.0
        else f"2-norm, {layers[0].compute_dtype} arithmetic as computed",
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
      ValueError: as `certifier`.

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

    images = np.asarray(images, model.inputs[0].dtype)
    answers = [
        answer(images[start : start + batch_size])
        for start in range(0, len(images), batch_size)
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
      images: array (n, ...) in the units of the model.
      labels: integer array (n,).
      radii: ℓ2 radii, finite and >= 0.
      batch_size: images per call of the model.

    Raises:
      ValueError: as `certifier`, or if a radius is negative or not finite.

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
    certify = certifier(model)
    predicted, proven = _radii(model, certify, images, batch_size)
    correct = predicted == np.asarray(labels)
    # "Within" includes the sphere, on which nothing is proven.
    safe = correct[None, :] & (proven[None, :] > budgets[:, None])
    return CertifiedCurve(
        budgets,
        safe.mean(axis=1),
        float(correct.mean()),
        certify.holds_for,
        len(correct),
    )


def _chain(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that matter, in order, the last one the read-out."""
    tensors = (getattr(model, "inputs", None) or []) + (
        getattr(model, "outputs", None) or []
    )
    if len(tensors) != 2:
        raise ValueError(
            "A certified model must have one input and one output. "
            f"Received: model {getattr(model, 'name', model)!r}"
        )
    layers, tensor = [], model.outputs[0]
    while True:
        layer, _, _ = tensor._keras_history
        if isinstance(layer, keras.layers.InputLayer):
            break
        inputs = layer.input
        if (
            isinstance(inputs, list | tuple | dict)
            or len(layer._inbound_nodes) != 1
        ):
            raise ValueError(
                "A certified model must be a chain of layers. Received: layer "
                f"{layer.name!r} with several inputs, or used several times"
            )
        if isinstance(layer, PiecewiseODELayer):
            layers += reversed(layer.pieces)
        elif not isinstance(layer, _PASS_THROUGH):
            layers.append(layer)
        tensor = inputs
    layers.reverse()
    if not layers or not isinstance(layers[-1], keras.layers.Dense):
        raise ValueError(
            "A certified model must end with a Dense layer. "
            f"Received: model {model.name!r}"
        )
    for layer in layers:
        known = isinstance(layer, ODELayer) or (
            isinstance(layer, keras.layers.Dense)
            and layer.activation is keras.activations.linear
        )
        if not known:
            raise ValueError(
                "No Lipschitz constant is known for layer "
                f"{layer.name!r} of type {type(layer).__name__}. Expected: "
                "Dense without activation, or a neural ODE of this package"
            )
    return layers


def _unit_roundoff(layers: list[keras.layers.Layer]) -> float:
    """U of the arithmetic, or 0 where its rounding is not bounded here."""
    dtypes = {layer.compute_dtype for layer in layers}
    dtypes |= {layer.variable_dtype for layer in layers}
    known = all(
        isinstance(layer.solver, solvers.Euler)
        and isinstance(
            layer.activation,
            activations.LeakyTanh | activations.SmoothLeakyReLU,
        )
        for layer in layers
        if isinstance(layer, ODELayer)
    )
    if not known or dtypes not in ({"float32"}, {"float64"}):
        return 0.0
    return float(np.finfo(dtypes.pop()).eps) / 2


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
