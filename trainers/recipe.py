"""What to train: all choices of one training run, checked when made."""

import dataclasses
import hashlib
import json
from typing import Any

import keras

from stable_node_tf import (
    MarginCrossentropy,
    SkewSymmetric,
    activations,
    ode_classifier,
    solvers,
)
from stable_node_tf.checks import check_number
from trainers.data import datasets

ENCODER_INITIALIZERS = ("glorot_uniform", "zeros")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training run. Equal recipes give equal models.

    Attributes:
      dataset: "mnist" or "fashion_mnist".
      width: dimension of the ODE.
      activation: "smooth_leaky_relu" or "leaky_tanh".
      alpha: smallest slope of the activation, in (0, 1].
      solver: a name of `stable_node_tf.solvers.get`.
      num_steps: of a fixed grid.
      encoder_initializer: "glorot_uniform" or "zeros".
      rotation: spectral norm of the skew-symmetric A that training starts
        from; 0 starts from Glorot's uniform distribution instead.
      delta_bar: bound on the worst-case logarithmic norm of A, or None.
      encoder_max_norm: bound on the spectral norm of the encoder, or None.
      readout_max_norm: bound on the spectral norm of the read-out, or None.
      scale: of `MarginCrossentropy`, the loss.
      offset: of `MarginCrossentropy`, the margin that it asks for. With scale 1
        and offset 0 it is the plain cross-entropy.
      epochs: passes over the training images.
      batch_size: images per step.
      learning_rate: of Adam at the start; a cosine takes it to zero.
      seed: of the initial weights and of the order of the images.
      jit_compile: whether XLA compiles the train step.
    """

    dataset: str = "mnist"
    width: int = 64
    activation: str = "smooth_leaky_relu"
    alpha: float = 0.1
    solver: str = "euler"
    num_steps: int = 20
    encoder_initializer: str = "glorot_uniform"
    rotation: float = 0.0
    delta_bar: float | None = None
    encoder_max_norm: float | None = None
    readout_max_norm: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 3e-3
    seed: int = 0
    jit_compile: bool = False

    def __post_init__(self) -> None:
        """Refuses values that no training run can have."""
        for name, choices in (
            ("dataset", datasets.NAMES),
            ("activation", activations.NAMES),
            ("solver", solvers.NAMES),
            ("encoder_initializer", ENCODER_INITIALIZERS),
            ("jit_compile", (False, True)),
        ):
            value = getattr(self, name)
            known = value in choices and isinstance(value, type(choices[0]))
            require(known, name, value, f"one of {choices}")
        for name in ("width", "num_steps", "epochs", "batch_size"):
            value = getattr(self, name)
            whole = isinstance(value, int) and value >= 1
            require(whole, name, value, "a positive integer")
        whole = isinstance(self.seed, int) and self.seed >= 0
        require(whole, "seed", self.seed, "an integer >= 0")
        for name in ("learning_rate", "encoder_max_norm", "readout_max_norm"):
            value = getattr(self, name)
            if value is not None or name == "learning_rate":
                number = check_number(value, name)
                require(number > 0.0, name, value, "positive")
        if self.delta_bar is not None:
            check_number(self.delta_bar, "delta_bar")
        rotation = check_number(self.rotation, "rotation")
        require(rotation >= 0.0, "rotation", rotation, "at least 0")
        self._activation()
        self.loss()
        self._solver()

    def fingerprint(self) -> str:
        """Eight hexadecimal digits that name this recipe."""
        return fingerprint(self)

    def build(self, name: str) -> keras.Model:
        """Returns the untrained model, not compiled."""
        return ode_classifier(
            width=self.width,
            activation=self._activation(),
            solver=self._solver(),
            encoder_initializer=self._encoder_initializer(),
            kernel_initializer=self._kernel_initializer(),
            delta_bar=self.delta_bar,
            encoder_max_norm=self.encoder_max_norm,
            readout_max_norm=self.readout_max_norm,
            seed=self.seed,
            name=name,
        )

    def loss(self) -> keras.losses.Loss:
        """Returns the loss to train with."""
        return MarginCrossentropy(self.scale, self.offset)

    def _activation(self) -> Any:
        return activations.BY_NAME[self.activation](self.alpha)

    def _solver(self) -> Any:
        solver = solvers.get(self.solver)
        if isinstance(solver, solvers.FixedGrid):
            return type(solver)(self.num_steps)
        return solver

    def _encoder_initializer(self) -> Any:
        return "zeros" if self.encoder_initializer == "zeros" else None

    def _kernel_initializer(self) -> Any:
        if self.rotation == 0.0:
            return None
        return SkewSymmetric(self.rotation, seed=self.seed)


def fingerprint(recipe: Any) -> str:
    """Eight hexadecimal digits that name what differs from the defaults.

    A field that is added later, with a default that changes nothing, leaves
    them as they are, and with them the checkpoints of trained models.
    """
    chosen = {
        field.name: value
        for field in dataclasses.fields(recipe)
        if (value := getattr(recipe, field.name)) != field.default
    }
    text = json.dumps(chosen, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def require(condition: bool, name: str, value: Any, what: str) -> None:
    """Raises ValueError, saying what a field must be, unless it is that."""
    if not condition:
        raise ValueError(f"`{name}` must be {what}. Received: {name}={value!r}")
