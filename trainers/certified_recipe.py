"""How to train for certified accuracy: choices of a run, checked when made."""

import dataclasses

import keras

from stable_node_tf.losses import MarginCrossentropy
from stable_node_tf.models.box_trained import BoxTrained
from stable_node_tf.models.certified_classifier import certified_classifier
from trainers.recipe import TrainingRecipe
from trainers.settings import setting


@dataclasses.dataclass(frozen=True)
class CertifiedRecipe(TrainingRecipe):
    """One training run of a `certified_classifier`."""

    width: int = setting(256, "Dimension of the ODEs.", least=1)
    blocks: int = setting(
        2, "How many pairs of an affine map and an ODE.", least=1
    )
    alpha: float = setting(
        0.02, "Smallest slope of the activation, in (0, 1].", above=0, most=1
    )
    terminal_time: float = setting(0.1, "T of every ODE.", above=0)
    num_steps: int = setting(1, "Steps of Euler in every ODE.", least=1)
    damping: float = setting(
        19.0, "Minus the diagonal of the initial A.", above=0
    )
    norm: str = setting(
        "2",
        "Norm of the radii that are trained for. With inf, convolutions come "
        "first, only A is constrained, and the loss is on boxes.",
        choices=("2", "inf"),
    )
    epsilon: float = setting(
        0.1,
        "Radius of the boxes, with norm=inf; it rises from 0 over the first "
        "half of the training.",
        above=0,
    )
    clean_share: float = setting(
        0.5,
        "Share of the images themselves in the loss, with norm=inf; it falls "
        "from 1 over the first half of the training.",
        least=0,
        most=1,
    )
    loss_scale: float = setting(
        1.5,
        "Factor of the margins in the loss: larger for accuracy, smaller for "
        "radius.",
        above=0,
    )
    batch_size: int = setting(256, "Images per step.", least=1)
    learning_rate: float = setting(
        5e-3, "Adam's at the start; a cosine takes it to zero.", above=0
    )

    def build(
        self, name: str, image_shape: tuple[int, ...], num_classes: int
    ) -> keras.Model:
        """Returns the untrained model, not compiled."""
        return certified_classifier(
            image_shape=image_shape,
            num_classes=num_classes,
            width=self.width,
            blocks=self.blocks,
            alpha=self.alpha,
            terminal_time=self.terminal_time,
            num_steps=self.num_steps,
            damping=self.damping,
            norm=self.norm,
            seed=self.seed,
            name=name,
        )

    def loss(self) -> keras.losses.Loss:
        """Returns the loss to train with."""
        return MarginCrossentropy(self.loss_scale)

    def trainee(self, model: keras.Model, num_steps: int) -> keras.Model:
        """Returns what `fit` trains: with norm=inf, the model on boxes."""
        if self.norm == "2":
            return model
        return BoxTrained(
            model, self.epsilon, -(-num_steps // 2), self.clean_share
        )
