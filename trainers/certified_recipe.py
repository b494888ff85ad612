"""How to train for certified accuracy: choices of a run, checked when made."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from stable_node_tf.checks import check_alpha, check_number
from stable_node_tf.losses import MarginCrossentropy
from stable_node_tf.models.certified_classifier import certified_classifier
from trainers.data import datasets
from trainers.recipe import fingerprint, require


@dataclasses.dataclass(frozen=True)
class CertifiedRecipe:
    """One training run of a `certified_classifier`.

    Attributes:
      dataset: "mnist" or "fashion_mnist".
      width: dimension of the ODEs.
      blocks: pairs of an affine map and an ODE.
      alpha: smallest slope of the activation, in (0, 1].
      terminal_time: T of an ODE.
      num_steps: of explicit Euler in an ODE.
      damping: minus the diagonal of the initial A.
      scale: of `MarginCrossentropy`: larger for accuracy, smaller for radius.
      epochs: passes over the training images.
      batch_size: images per step.
      learning_rate: of Adam at the start; a cosine takes it to zero.
      seed: of the initial weights and of the order of the images.
      jit_compile: whether XLA compiles the train step.
    """

    dataset: str = "mnist"
    width: int = 256
    blocks: int = 2
    alpha: float = 0.02
    terminal_time: float = 0.1
    num_steps: int = 1
    damping: float = 19.0
    scale: float = 1.5
    epochs: int = 10
    batch_size: int = 256
    learning_rate: float = 5e-3
    seed: int = 0
    jit_compile: bool = False

    def __post_init__(self) -> None:
        """Refuses values that no training run can have."""
        known = self.dataset in datasets.NAMES
        require(known, "dataset", self.dataset, f"one of {datasets.NAMES}")
        for name in ("width", "blocks", "num_steps", "epochs", "batch_size"):
            value = getattr(self, name)
            whole = isinstance(value, int) and value >= 1
            require(whole, name, value, "a positive integer")
        for name in ("terminal_time", "damping", "scale", "learning_rate"):
            value = check_number(getattr(self, name), name)
            require(value > 0.0, name, value, "positive")
        check_alpha(self.alpha)
        whole = isinstance(self.seed, int) and self.seed >= 0
        require(whole, "seed", self.seed, "an integer >= 0")

    @classmethod
    def parse(cls, dataset: str, settings: Sequence[str]) -> "CertifiedRecipe":
        """Makes a recipe from texts such as "epochs=3".

        Raises:
          ValueError: if a text has no such form, names no field, or its value
            is not one that the field can have.
        """
        values: dict[str, Any] = {"dataset": dataset}
        kinds = {
            field.name: type(field.default) for field in dataclasses.fields(cls)
        }
        for setting in settings:
            name, _, text = setting.partition("=")
            try:
                kind = kinds[name]
                values[name] = (
                    {"true": True, "false": False}[text]
                    if kind is bool
                    else kind(text)
                )
            except (KeyError, ValueError) as error:
                raise ValueError(
                    "a setting must be name=value with a name out of "
                    f"{', '.join(kinds)}. Received: {setting!r}"
                ) from error
        return cls(**values)

    def fingerprint(self) -> str:
        """Eight hexadecimal digits that name this recipe."""
        return fingerprint(self)

    def build(self, name: str) -> keras.Model:
        """Returns the untrained model, not compiled."""
        return certified_classifier(
            width=self.width,
            blocks=self.blocks,
            alpha=self.alpha,
            terminal_time=self.terminal_time,
            num_steps=self.num_steps,
            damping=self.damping,
            seed=self.seed,
            name=name,
        )

    def loss(self) -> keras.losses.Loss:
        """Returns the loss to train with."""
        return MarginCrossentropy(self.scale)
