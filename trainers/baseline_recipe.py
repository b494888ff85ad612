"""How baselines are trained: recipes as for our models, and one method more."""

import dataclasses
from typing import Any

import keras

from stable_node_tf import SpectralNormConstraint
from trainers import baseline_methods
from trainers.recipe import Recipe
from trainers.settings import require, setting
from trainers.variants import variants


def _penalize(model: keras.Model, weight: float, seed: int) -> None:
    kernel = model.get_layer("ode").kernel
    kernel.regularizer = baseline_methods.InfinityLogNormPenalty(weight)


def _shift(model: keras.Model, delta_bar: float, seed: int) -> None:
    alpha = model.get_layer("ode").alpha
    _constrain(model, baseline_methods.ShiftConstraint(delta_bar, alpha))


def _bound(model: keras.Model, max_norm: float, seed: int) -> None:
    _constrain(model, SpectralNormConstraint(max_norm))


def _constrain(model: keras.Model, constraint: Any) -> None:
    kernel = model.get_layer("ode").kernel
    kernel.constraint = constraint
    kernel.assign(constraint(kernel))


# Each changes a model in place, or returns another one to train.
_METHODS: dict[str, Any] = {
    "none": lambda *_: None,
    "mu_inf_penalty": _penalize,
    "shift": _shift,
    "spectral_norm": _bound,
    "gaussian_noise": baseline_methods.GaussianNoiseTraining,
    "fgsm_training": baseline_methods.FgsmTraining,
}


@dataclasses.dataclass(frozen=True)
class BaselineRecipe(Recipe):
    """One training run with a method of others."""

    method: str = setting(
        "none",
        "mu_inf_penalty, shift or spectral_norm act on A, gaussian_noise and "
        "fgsm_training on the images. See trainers/baseline_methods.py.",
        choices=_METHODS,
    )
    strength: float = setting(
        0.0,
        "Weight of the penalty; δ̄ of the shift; bound on |A|₂; standard "
        "deviation of the noise; or ε of FGSM.",
    )

    def __post_init__(self) -> None:
        """Refuses values that no training run can have."""
        super().__post_init__()
        free = self.method in ("none", "shift")
        allowed = free or self.strength > 0.0
        require(allowed, "strength", self.strength, "positive")

    def build(
        self, name: str, image_shape: tuple[int, ...], num_classes: int
    ) -> keras.Model:
        """Returns the untrained model, not compiled."""
        model = super().build(name, image_shape, num_classes)
        apply = _METHODS[self.method]
        return apply(model, self.strength, self.seed) or model


# The best out of four to six values each, see docs/results.md: mean accuracy
# under PGD at ε = 0.05 and 0.1, the budgets that are reported, on 500 images
# held out of MNIST's training images, after 3 epochs.
STRENGTHS = {
    "mu_inf_penalty": 0.01,
    "shift": 0.0,
    "spectral_norm": 4.0,
    "gaussian_noise": 0.8,
    "fgsm_training": 0.075,
}


def baselines(recipe: Recipe) -> dict[str, BaselineRecipe]:
    """Returns all recipes of the comparison, ours first.

    Args:
      recipe: one with all three bounds, as `trainers.variants.variants` takes.
    """
    ours = {
        name: BaselineRecipe(**dataclasses.asdict(variant))
        for name, variant in variants(recipe).items()
    }

    def method(base: str, name: str) -> BaselineRecipe:
        return dataclasses.replace(
            ours[base], method=name, strength=STRENGTHS[name]
        )

    theirs = {name: method("ordinary", name) for name in STRENGTHS}
    attacked = method("stable_network", "fgsm_training")
    return {**ours, **theirs, "stable_network_fgsm": attacked}
