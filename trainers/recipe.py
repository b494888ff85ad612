"""What to train: all choices of one training run, checked when made."""

import abc
import dataclasses
from typing import Any

import keras

from stable_node_tf import (
    MarginCrossentropy,
    SkewSymmetric,
    activations,
    ode_classifier,
    solvers,
)
from trainers.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class DatasetChoice(Settings):
    """Names the images."""

    dataset: str = setting(
        "mnist",
        "Images: mnist, fashion_mnist, another image classification data set "
        "of TFDS, an .npz file, or a folder with a folder per class in train/ "
        "and in test/; or a table, a .csv file. See docs/training.md.",
    )


@dataclasses.dataclass(frozen=True)
class TrainingRecipe(DatasetChoice, abc.ABC):
    """One training run. Equal recipes and images give equal models."""

    epochs: int = setting(10, "Passes over the training images.", least=1)
    batch_size: int = setting(128, "Images per step.", least=1)
    learning_rate: float = setting(
        3e-3, "Adam's at the start; a cosine takes it to zero.", above=0
    )
    seed: int = setting(
        0, "Seeds the initial weights and the order of the images.", least=0
    )
    jit_compile: bool = setting(False, "Compile the train step with XLA.")

    @abc.abstractmethod
    def build(
        self, name: str, image_shape: tuple[int, ...], num_classes: int
    ) -> keras.Model:
        """Returns the untrained model, not compiled."""

    @abc.abstractmethod
    def loss(self) -> keras.losses.Loss:
        """Returns the loss to train with."""

    def trainee(self, model: keras.Model, num_steps: int) -> keras.Model:
        """Returns what `fit` trains in so many steps: it, or one around it."""
        del num_steps
        return model


@dataclasses.dataclass(frozen=True)
class Recipe(TrainingRecipe):
    """One training run of an `ode_classifier`."""

    width: int = setting(64, "Dimension of the ODE.", least=1)
    activation: str = setting(
        "smooth_leaky_relu", "Activation of the ODE.", choices=activations.NAMES
    )
    alpha: float = setting(
        0.1, "Smallest slope of the activation, in (0, 1].", above=0, most=1
    )
    solver: str = setting("euler", "Solver of the ODE.", choices=solvers.NAMES)
    num_steps: int = setting(
        20, "Steps of a solver with a fixed grid.", least=1
    )
    encoder_initializer: str = setting(
        "glorot_uniform",
        "What the encoder starts from.",
        choices=("glorot_uniform", "zeros"),
    )
    initial_skew_norm: float = setting(
        0.0,
        "Spectral norm of the skew-symmetric A that training starts from; 0 "
        "starts from Glorot's uniform distribution instead.",
        least=0,
    )
    delta_bar: float | None = setting(
        None,
        "Bound on the worst-case logarithmic norm of A; none by default.",
    )
    encoder_max_norm: float | None = setting(
        None,
        "Bound on the spectral norm of the encoder; none by default.",
        above=0,
    )
    readout_max_norm: float | None = setting(
        None,
        "Bound on the spectral norm of the read-out; none by default.",
        above=0,
    )
    loss_scale: float = setting(
        1.0,
        "Factor of the margins in the loss; 1 is that of the plain "
        "cross-entropy.",
        above=0,
    )
    loss_offset: float = setting(
        0.0,
        "Margin that the loss asks for; 0 in the plain cross-entropy.",
        least=0,
    )

    def build(
        self, name: str, image_shape: tuple[int, ...], num_classes: int
    ) -> keras.Model:
        """Returns the untrained model, not compiled."""
        solver = solvers.get(self.solver)
        if isinstance(solver, solvers.FixedGrid):
            solver = type(solver)(self.num_steps)
        skew: Any = None
        if self.initial_skew_norm:
            skew = SkewSymmetric(self.initial_skew_norm, seed=self.seed)
        zeros = self.encoder_initializer == "zeros"
        return ode_classifier(
            image_shape=image_shape,
            num_classes=num_classes,
            width=self.width,
            activation=activations.BY_NAME[self.activation](self.alpha),
            solver=solver,
            encoder_initializer="zeros" if zeros else None,
            kernel_initializer=skew,
            delta_bar=self.delta_bar,
            encoder_max_norm=self.encoder_max_norm,
            readout_max_norm=self.readout_max_norm,
            seed=self.seed,
            name=name,
        )

    def loss(self) -> keras.losses.Loss:
        """Returns the loss to train with."""
        return MarginCrossentropy(self.loss_scale, self.loss_offset)
