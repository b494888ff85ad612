"""The classifiers that are compared: encoder, ODE block, read-out."""

from typing import Any

import keras

from stable_node_tf import solvers
from stable_node_tf.checks import check_count
from stable_node_tf.constraints.log_norm import SpectralNormConstraint
from stable_node_tf.layers.ode_layer import ODELayer
from stable_node_tf.layers.piecewise_ode import PiecewiseODELayer
from stable_node_tf.layers.stable_ode import StableODELayer
from stable_node_tf.models.uncompiled_clone import uncompiled_clone


def ode_classifier(
    *,
    image_shape: tuple[int, ...] = (28, 28, 1),
    num_classes: int = 10,
    width: int = 64,
    activation="smooth_leaky_relu",
    solver="euler",
    encoder_initializer=None,
    kernel_initializer=None,
    delta_bar: float | None = None,
    encoder_max_norm: float | None = None,
    readout_max_norm: float | None = None,
    seed: int = 0,
    name: str | None = None,
) -> keras.Model:
    """Image -> affine encoder -> neural ODE -> affine read-out -> logits.

    The architecture of arXiv 2501.10740: W₂ φ(W₁x + b₁) + b₂ with the flow φ of
    u' = σ(Au + b) on [0, 1]. With equal `seed` the weights are drawn alike;
    those that a bound applies to are then moved inside it.

    Args:
      image_shape: shape of one image, pixels in [0, 1], float32.
      num_classes: number of logits.
      width: d, the dimension of the ODE.
      activation: σ, see `StableODELayer`.
      solver: see `StableODELayer`.
      encoder_initializer: of W₁; Glorot's uniform distribution by default. From
        "zeros" the weights of pixels that are black in all training images stay
        zero; others stay as drawn, for an attack to use.
      kernel_initializer: of A; Glorot's uniform distribution by default.
      delta_bar: bound on the worst-case logarithmic norm of A, or None.
      encoder_max_norm: bound on |W₁|₂, or None.
      readout_max_norm: bound on |W₂|₂, or None.
      seed: of the initial weights.
      name: of the model.

    Returns:
      A functional model with input "image" of shape (batch, *image_shape) and
      output "logits" of shape (batch, num_classes).

    >>> ode_classifier(width=8).output_shape
    (None, 10)
    """

    def initializer(offset):
        return keras.initializers.GlorotUniform(seed=3 * seed + offset)

    def budget(max_norm):
        return None if max_norm is None else SpectralNormConstraint(max_norm)

    image = keras.Input(image_shape, name="image")
    state = keras.layers.Flatten(name="flatten")(image)
    state = keras.layers.Dense(
        width,
        kernel_initializer=encoder_initializer or initializer(0),
        kernel_constraint=budget(encoder_max_norm),
        name="encoder",
    )(state)
    state = StableODELayer(
        activation,
        delta_bar,
        solver=solver,
        kernel_initializer=kernel_initializer or initializer(1),
        name="ode",
    )(state)
    logits = keras.layers.Dense(
        num_classes,
        kernel_initializer=initializer(2),
        kernel_constraint=budget(readout_max_norm),
        name="logits",
    )(state)
    model = keras.Model(image, logits, name=name)
    for layer in (model.get_layer("encoder"), model.get_layer("logits")):
        if layer.kernel_constraint is not None:
            layer.kernel.assign(layer.kernel_constraint(layer.kernel))
    return model


def with_finer_solver(model: keras.Model, factor: int = 2) -> keras.Model:
    """Rebuilds a model with finer solvers and the same weights.

    A fixed grid gets `factor` times as many steps, an adaptive solver
    tolerances that are `factor` times tighter and leave to take as many more
    steps. What changes from one model to the other is discretisation error.

    Args:
      model: a functional or sequential model with a `StableODELayer`, a
        `DeepODELayer` or a `PiecewiseODELayer`, also inside a model that is
        one of its layers.
      factor: at least 2.

    Returns:
      A model of its own, not compiled; the given one is left as it is.

    Raises:
      TypeError: if `factor` is not an integer.
      ValueError: if it is below 2, or the model has no such layer, or one whose
        solver cannot be refined.

    >>> coarse = ode_classifier(width=8)
    >>> with_finer_solver(coarse).get_layer("ode").solver.num_steps
    40
    """
    check_count(factor, "factor", 2)
    refined = []

    def rebuild(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, ODELayer | PiecewiseODELayer):
            refined.append(layer.name)
            return _finer_layer(layer, factor)
        return type(layer).from_config(layer.get_config())

    finer = uncompiled_clone(model, rebuild)
    if not refined:
        raise ValueError(
            "model must have a neural ODE layer of this package. "
            f"Received: layers {[layer.name for layer in model.layers]}"
        )
    finer.set_weights(model.get_weights())
    return finer


def _finer_layer(layer: Any, factor: int) -> Any:
    config = layer.get_config()
    if isinstance(layer, PiecewiseODELayer):
        whole = keras.saving.deserialize_keras_object(config["layer"])
        config["layer"] = keras.saving.serialize_keras_object(
            _finer_layer(whole, factor)
        )
    else:
        config["solver"] = _finer(layer.solver, factor)
    return type(layer).from_config(config)


def _finer(solver: Any, factor: int) -> dict[str, Any]:
    description = solvers.serialize(solver)
    config = description["config"]
    larger = {"num_steps", "max_num_steps"} & config.keys()
    smaller = {"rtol", "atol"} & config.keys()
    if not larger | smaller:
        raise ValueError(
            "the solver must have a number of steps or tolerances. "
            f"Received: solver={solver!r}"
        )
    for name in larger:
        if config[name] is not None:
            config[name] *= factor
    for name in smaller:
        config[name] /= factor
    return description
