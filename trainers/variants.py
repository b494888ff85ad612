"""The four models compared: their recipes, and what is proven of them."""

import dataclasses
from typing import Any

import keras

from stable_node_tf import nearest_stable
from stable_node_tf.stability.lipschitz import (
    network_lipschitz,
    spectral_norm_bound,
)
from trainers import training
from trainers.recipe import Recipe

PRESETS = {
    "default": Recipe(
        width=256,
        encoder_initializer="zeros",
        rotation=16.0,
        delta_bar=0.0,
        encoder_max_norm=1.0,
        readout_max_norm=1.0,
        scale=8.0,
        offset=0.85,
        epochs=8,
    ),
    # Ends as in arXiv 2503.15696, the rest as in arXiv 2501.10740 but for the
    # loss.
    "paper": Recipe(
        width=64,
        delta_bar=0.0,
        encoder_max_norm=1.0,
        readout_max_norm=1.0,
        scale=8.0,
        offset=0.85,
        epochs=12,
    ),
}

# The best on the validation images of that data set, see docs/results.md.
_CHANGES: dict[tuple[str, str], dict[str, Any]] = {
    ("default", "fashion_mnist"): {"offset": 0.75},
}


def preset(name: str, dataset: str, seed: int = 0) -> Recipe:
    """The recipe of a preset for one data set, all constraints on.

    Args:
      name: a key of `PRESETS`.
      dataset: the data set to train on.
      seed: seeds the initial weights and the order of the images.
    """
    changes = _CHANGES.get((name, dataset), {})
    return dataclasses.replace(
        PRESETS[name], dataset=dataset, seed=seed, **changes
    )


def variants(recipe: Recipe) -> dict[str, Recipe]:
    """The four recipes compared, alike but for what is constrained.

    Args:
      recipe: the one in which A, encoder and read-out are all constrained.

    Returns:
      By their names: nothing constrained, A, the ends (encoder and read-out),
      and both.
    """
    free_a = {"delta_bar": None}
    free_ends = {"encoder_max_norm": None, "readout_max_norm": None}
    return {
        "ordinary": dataclasses.replace(recipe, **free_a, **free_ends),
        "stable_ode": dataclasses.replace(recipe, **free_ends),
        "bounded_ends": dataclasses.replace(recipe, **free_a),
        "stable_network": recipe,
    }


def describe(
    name: str, model: keras.Model, delta_bar: float, trained: training.Trained
) -> dict:
    """What `results.json` says of a model besides its accuracies."""
    stability = model.get_layer("ode").stability()
    encoder, readout = (
        spectral_norm_bound(keras.ops.convert_to_numpy(layer.kernel))
        for layer in (model.get_layer("encoder"), model.get_layer("logits"))
    )
    kernel = keras.ops.convert_to_numpy(model.get_layer("ode").kernel)
    nearest = nearest_stable(kernel, delta_bar, model.get_layer("ode").alpha)
    return {
        "name": name,
        "delta_lower": stability.delta_lower,
        "delta_upper": stability.delta_upper,
        "delta_bar": stability.delta_bar,
        "lipschitz_bound": network_lipschitz(
            encoder, stability.lipschitz_bound, readout
        ),
        "lipschitz_bound_holds_for": (
            f"network from image to logits, ODE as {stability.holds_for}"
        ),
        "distance_to_stable": nearest.distance,
        "encoder_norm": encoder,
        "readout_norm": readout,
        "training_seconds": trained.seconds,
        "steps": trained.steps,
    }
