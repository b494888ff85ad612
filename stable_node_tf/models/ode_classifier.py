"""The classifiers that are compared: encoder, ODE block, read-out."""

import keras

from stable_node_tf.constraints.kernels import apply_constraints
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
    u' = σ(Au + b) on [0, 1]. Equal seeds draw equal weights; those with a bound
    are then moved inside it.

    Args:
      image_shape: shape of one image, pixels in [0, 1], float32.
      num_classes: number of logits.
      width: d, the dimension of the ODE.
      activation: σ, see `StableODELayer`.
      solver: see `StableODELayer`.
      encoder_initializer: draws W₁; Glorot uniform by default. With "zeros",
        weights of pixels that are black in all training images stay zero;
        otherwise they stay as drawn, for an attack to use.
      kernel_initializer: draws A; Glorot uniform by default.
      delta_bar: bound on the worst-case logarithmic norm of A, or None.
      encoder_max_norm: bound on |W₁|₂, or None.
      readout_max_norm: bound on |W₂|₂, or None.
      seed: seeds the initial weights.
      name: name of the model.

    Returns:
      A functional model from "image", (batch, *image_shape), to "logits",
      (batch, num_classes).

    >>> ode_classifier(width=8).output_shape
    (None, 10)
    """

    def initializer(offset):
        return keras.initializers.GlorotUniform(seed=3 * seed + offset)

    def affine(units, drawn, max_norm, layer_name):
        budget = None if max_norm is None else SpectralNormConstraint(max_norm)
        return keras.layers.Dense(
            units,
            kernel_initializer=drawn,
            kernel_constraint=budget,
            name=layer_name,
        )

    image = keras.Input(image_shape, name="image")
    state = keras.layers.Flatten(name="flatten")(image)
    encoder = affine(
        width,
        encoder_initializer or initializer(0),
        encoder_max_norm,
        "encoder",
    )
    state = StableODELayer(
        activation,
        delta_bar,
        solver=solver,
        kernel_initializer=kernel_initializer or initializer(1),
        name="ode",
    )(encoder(state))
    readout = affine(num_classes, initializer(2), readout_max_norm, "logits")
    model = keras.Model(image, readout(state), name=name)
    apply_constraints([encoder.kernel, readout.kernel])
    return model
