"""A classifier with a small Lipschitz constant by construction."""

import keras

from stable_node_tf.activations import SmoothLeakyReLU
from stable_node_tf.checks import check_norm
from stable_node_tf.constraints.kernels import apply_constraints
from stable_node_tf.constraints.spectral_norm import SpectralNormConstraint
from stable_node_tf.initializers import SkewSymmetric
from stable_node_tf.layers.stable_ode import StableODELayer
from stable_node_tf.solvers import Euler


def certified_classifier(
    *,
    image_shape: tuple[int, ...] = (28, 28, 1),
    num_classes: int = 10,
    width: int = 256,
    blocks: int = 2,
    alpha: float = 0.02,
    terminal_time: float = 0.1,
    num_steps: int = 1,
    damping: float = 19.0,
    norm: str | float = "2",
    seed: int = 0,
    name: str | None = None,
) -> keras.Model:
    """Image -> (affine map -> neural ODE) several times -> read-out -> logits.

    Every affine map has a spectral norm of at most 1, and so have the steps of
    explicit Euler, I + hDA, in every ODE (`discrete=True`, δ̄ = 0): the network
    as it runs has Lipschitz constant 1 up to the read-out, whose classes differ
    by at most √2. Training for large margins then is training for large
    certified radii.

    For gradients of norm 1 almost everywhere, a network must fold space. A step
    of Euler does so with A near -2/h: from slope 1 + hα·(-2/h), nearly 1, to
    slope -1. So A starts at -damping · I plus a small skew-symmetric matrix.
    With h|A| near 2 the steps are layers of a residual network rather than a
    discretization: what is certified is the network that runs. With many steps
    and h · damping < 1 it is close to the flow, and less expressive.

    In the ∞-norm only the steps of the ODEs have a Lipschitz constant of 1:
    boxes need no more, see `models.BoxTrained`. Affine maps and read-out are
    free, and before them come two convolutions, which halve an image twice.

    Args:
      image_shape: shape of one image, float32.
      num_classes: number of logits.
      width: d, the dimension of the ODEs.
      blocks: number of pairs of an affine map and an ODE.
      alpha: smallest slope of the activation of the ODEs, in (0, 1].
      terminal_time: T of every ODE.
      num_steps: N of every ODE, with step size h = T/N.
      damping: minus the diagonal of the initial A.
      norm: "2" or "inf", that of the Lipschitz constants.
      seed: seeds the initial weights.
      name: name of the model.

    Returns:
      A functional model from "image", (batch, *image_shape), to "logits",
      (batch, num_classes).

    >>> model = certified_classifier(width=16, blocks=1)
    >>> model.get_layer("ode_0").stability().lipschitz_bound <= 1.0
    True
    """
    norm = check_norm(norm)

    def drawn(offset):
        kind = "Orthogonal" if norm == "2" else "GlorotUniform"
        return getattr(keras.initializers, kind)(seed=100 * seed + offset)

    def affine(units, offset, layer_name):
        return keras.layers.Dense(
            units,
            kernel_initializer=drawn(offset),
            kernel_constraint=(
                SpectralNormConstraint(1.0) if norm == "2" else None
            ),
            name=layer_name,
        )

    image = state = keras.Input(image_shape, name="image")
    if norm == "inf":
        for index, filters in enumerate((16, 32)):
            state = keras.layers.Conv2D(
                filters,
                4,
                strides=2,
                padding="same",
                activation="relu",
                kernel_initializer=drawn(90 + index),
                name=f"convolution_{index}",
            )(state)
    state = keras.layers.Flatten(name="flatten")(state)
    for block in range(blocks):
        state = affine(width, 3 * block, f"affine_{block}")(state)
        state = StableODELayer(
            SmoothLeakyReLU(alpha),
            delta_bar=0.0,
            discrete=True,
            norm=norm,
            terminal_time=terminal_time,
            solver=Euler(num_steps),
            kernel_initializer=SkewSymmetric(
                damping / 40, seed=100 * seed + 3 * block + 1, damping=damping
            ),
            bias_initializer=keras.initializers.RandomNormal(
                stddev=damping / 10, seed=100 * seed + 3 * block + 2
            ),
            name=f"ode_{block}",
        )(state)
    logits = affine(num_classes, 99, "logits")(state)
    model = keras.Model(image, logits, name=name)
    dense = [x for x in model.layers if isinstance(x, keras.layers.Dense)]
    apply_constraints([layer.kernel for layer in dense])
    return model
