"""The classifiers that are compared: encoder, ODE block, read-out."""

import keras

from stable_node_tf.constraints.spectral_norm import SpectralNormConstraint
from stable_node_tf.layers.stable_ode import StableODELayer


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
