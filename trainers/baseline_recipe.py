"""How baselines are trained: recipes as for our models, and one method more."""

import dataclasses
from typing import Any

import keras

from stable_node_tf import SpectralNormConstraint
from stable_node_tf.checks import check_number
from trainers import baseline_methods
from trainers.recipe import Recipe, require
from trainers.variants import variants


def _penalize(model: keras.Model, weight: float, recipe: Recipe) -> None:
    kernel = model.get_layer("ode").kernel
    kernel.regularizer = baseline_methods.InfinityLogNormPenalty(weight)


def _shift(model: keras.Model, delta_bar: float, recipe: Recipe) -> None:
    alpha = model.get_layer("ode").alpha
    _constrain(model, baseline_methods.ShiftConstraint(delta_bar, alpha))


def _bound(model: keras.Model, max_norm: float, recipe: Recipe) -> None:
    _constrain(model, SpectralNormConstraint(max_norm))


def _constrain(model: keras.Model, constraint: Any) -> None:
    kernel = model.get_layer("ode").kernel
    kernel.constraint = constraint
    kernel.assign(constraint(kernel))


def _add_noise(
    model: keras.Model, deviation: float, recipe: Recipe
) -> keras.Model:
    return baseline_methods.GaussianNoiseTraining(model, deviation, recipe.seed)


def _attack(model: keras.Model, epsilon: float, recipe: Recipe) -> keras.Model:
    return baseline_methods.FgsmTraining(model, epsilon, recipe.seed)


_METHODS = {
    "none": lambda model, strength, recipe: None,
    "mu_inf_penalty": _penalize,
    "shift": _shift,
    "spectral_norm": _bound,
    "gaussian_noise": _add_noise,
    "fgsm_training": _attack,
}


@dataclasses.dataclass(frozen=True)
class BaselineRecipe(Recipe):
    """One training run with a method of others.

    Attributes:
      method: "none"; "mu_inf_penalty", "shift" or "spectral_norm" for A; or
        "gaussian_noise" or "fgsm_training" for the images. See
        `trainers.baseline_methods`.
      strength: weight of the penalty; δ̄ of the shift; bound on |A|₂; standard
        deviation of the noise; or ε of FGSM.
    """

    method: str = "none"
    strength: float = 0.0

    def __post_init__(self) -> None:
        """Refuses values that no training run can have."""
        super().__post_init__()
        known = self.method in _METHODS
        require(known, "method", self.method, f"one of {tuple(_METHODS)}")
        strength = check_number(self.strength, "strength")
        free = self.method in ("none", "shift")
        require(free or strength > 0.0, "strength", strength, "positive")

    def build(self, name: str) -> keras.Model:
        """Returns the untrained model, not compiled."""
        model = super().build(name)
        return _METHODS[self.method](model, self.strength, self) or model


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
    """All recipes of the comparison, ours first.

    Args:
      recipe: all three bounds given, as for `trainers.variants.variants`.
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
