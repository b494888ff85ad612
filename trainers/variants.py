"""Presets, and the recipes of the four models that are compared."""

import dataclasses
from pathlib import Path
from typing import Any

from trainers import command_line
from trainers.data import datasets
from trainers.recipe import DatasetChoice, Recipe
from trainers.settings import setting

PRESETS = {
    "default": Recipe(
        width=256,
        encoder_initializer="zeros",
        initial_skew_norm=16.0,
        delta_bar=0.0,
        encoder_max_norm=1.0,
        readout_max_norm=1.0,
        loss_scale=8.0,
        loss_offset=0.85,
        epochs=8,
    ),
    # Ends as in arXiv 2503.15696, the rest as in arXiv 2501.10740 but for the
    # loss.
    "paper": Recipe(
        width=64,
        delta_bar=0.0,
        encoder_max_norm=1.0,
        readout_max_norm=1.0,
        loss_scale=8.0,
        loss_offset=0.85,
        epochs=12,
    ),
}

# The best on the validation images of that data set, see docs/results.md.
_CHANGES: dict[tuple[str, str], dict[str, Any]] = {
    ("default", "fashion_mnist"): {"loss_offset": 0.55},
}


def preset(name: str, dataset: str, seed: int = 0) -> Recipe:
    """Returns a preset for one data set, with all constraints on."""
    changes = _CHANGES.get((name, dataset), {})
    return dataclasses.replace(
        PRESETS[name], dataset=dataset, seed=seed, **changes
    )


def variants(recipe: Recipe) -> dict[str, Recipe]:
    """Returns the four recipes compared, alike but for what is constrained.

    Args:
      recipe: the one in which A, encoder and read-out are all constrained.

    Returns:
      By their names: nothing constrained, A, the ends (encoder and read-out),
      and both.
    """
    free_a: dict[str, Any] = {"delta_bar": None}
    free_ends: dict[str, Any] = {
        "encoder_max_norm": None,
        "readout_max_norm": None,
    }
    return {
        "ordinary": dataclasses.replace(recipe, **free_a, **free_ends),
        "stable_ode": dataclasses.replace(recipe, **free_ends),
        "bounded_ends": dataclasses.replace(recipe, **free_a),
        "stable_network": recipe,
    }


@dataclasses.dataclass(frozen=True)
class PresetOptions(command_line.DataOptions, DatasetChoice):
    """Options of programs that train by a preset and write results."""

    seed: int = setting(
        0, "Seeds the weights and the order of the images.", least=0
    )
    epochs: int | None = setting(
        None,
        "Passes over the training images; by default the preset's.",
        least=1,
    )
    results: str = setting("results", "Directory of results.")

    def recipe(self, name: str) -> Recipe:
        """Returns a preset as these options change it."""
        recipe = preset(name, self.dataset, self.seed)
        if self.epochs is None:
            return recipe
        return dataclasses.replace(recipe, epochs=self.epochs)

    @property
    def directory(self) -> Path:
        """The directory of the results on this data set."""
        return Path(self.results) / datasets.title(self.dataset)
