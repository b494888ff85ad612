"""Trains the methods of others in the same harness as ours, and attacks all.

    python -m trainers.baselines --dataset=mnist --seed=0

Same architecture, initial draw, schedule and number of steps for all. FGSM is
run on all test images, PGD on the first --pgd_images of them, on two losses, of
which the stronger counts for each image. Everything goes
to results/DATASET/baselines/seedN: checkpoints, models/NAME as `trainers.train`
writes them, for `trainers.evaluate`, a JSON file for each model, and
results.json. Interrupted, the same command carries on; models that are known
already are not trained or attacked again. Several seeds are summed up by
`python -m trainers.summarize results/mnist/baselines/seed*/results.json`.

With --validation, the last 10 000 training images are held out, trained without
and attacked; so are strengths chosen: --methods=gaussian_noise --strength=0.1.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from absl import app, flags, logging

from stable_node_tf import attacks
from trainers import command_line, outcomes, report, training
from trainers.baseline_recipe import BaselineRecipe, baselines
from trainers.data import datasets
from trainers.measurement import EPSILONS, environment, points
from trainers.summarize import summary
from trainers.variants import describe, preset

_DATASET = flags.DEFINE_enum(
    "dataset", "mnist", datasets.NAMES, "Images.", allow_override=True
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Of all models.", 0, allow_override=True
)
_EPOCHS = flags.DEFINE_integer(
    "epochs",
    None,
    "Passes over the images; by default the preset's.",
    1,
    allow_override=True,
)
_METHODS = flags.DEFINE_list(
    "methods", [], "Which of the models; all by default."
)
_STRENGTH = flags.DEFINE_float(
    "strength", None, "Of the methods named, in the place of the default."
)
_PGD_IMAGES = flags.DEFINE_integer(
    "pgd_images", 1000, "The first so many images are attacked by PGD.", 1
)
_PGD_EPSILONS = flags.DEFINE_list(
    "pgd_epsilons", ["0.05", "0.1"], "Budgets of PGD, ℓ∞."
)
command_line.require_budgets("pgd_epsilons")
_VALIDATION = flags.DEFINE_bool(
    "validation",
    False,
    "Hold out the last 10 000 training images.",
    allow_override=True,
)
_RESULTS = flags.DEFINE_string(
    "results", "results", "Directory of results.", allow_override=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Directory of the TFDS data sets.", allow_override=True
)


def main(argv: list[str]) -> None:
    """Runs the comparison that the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    # Retracing is what several models in one process need.
    logging.set_verbosity(logging.ERROR)
    try:
        recipes = _chosen()
        data = datasets.load(
            _DATASET.value,
            data_dir=_DATA_DIR.value,
            validation=_VALIDATION.value,
        )
        directory = Path(_RESULTS.value) / _DATASET.value / "baselines"
        directory /= "validation" if _VALIDATION.value else "."
        compare(
            recipes,
            data.train,
            data.validation if _VALIDATION.value else data.test,
            [float(epsilon) for epsilon in _PGD_EPSILONS.value],
            _PGD_IMAGES.value,
            directory / f"seed{_SEED.value}",
        )
    except command_line.REFUSALS as error:
        sys.exit(f"error: {error}")


def compare(
    recipes: Mapping[str, BaselineRecipe],
    train: datasets.Split,
    test: datasets.Split,
    pgd_epsilons: Sequence[float],
    pgd_images: int,
    directory: Path,
) -> None:
    """Trains and attacks what is not known yet, and reports on all.

    Args:
      recipes: by the names of the models.
      train: training images.
      test: images to attack.
      pgd_epsilons: budgets of PGD.
      pgd_images: how many images PGD attacks.
      directory: where everything goes.
    """
    recipe = next(iter(recipes.values()))
    pgd = outcomes.strongest_pgd(recipe.seed)
    attack: dict[str, Any] = {"pgd_images": pgd_images} | {
        each.name: outcomes.settings(each, pgd_epsilons) for each in pgd.attacks
    }
    images = {"train": train.fingerprint(), "test": test.fingerprint()}
    summaries = [
        _known(recipe, attack, images, directory / f"{name}.json")
        or _measure(
            name, recipe, train, test, attack, pgd_epsilons, images, directory
        )
        for name, recipe in recipes.items()
    ]
    results: Any = {
        "dataset": recipe.dataset,
        "preset": "baselines",
        "seed": recipe.seed,
        "config": {name: dataclasses.asdict(r) for name, r in recipes.items()},
        "attack": attack,
        "models": summaries,
        **environment(),
    }
    report.write_json(results, directory / "results.json")
    report.write_csv(results, directory / "results.csv")
    print(summary([results]))
    print(f"Written to {directory}: results.json, results.csv")


def _chosen() -> dict[str, BaselineRecipe]:
    recipe = preset("default", _DATASET.value, _SEED.value)
    if _EPOCHS.value is not None:
        recipe = dataclasses.replace(recipe, epochs=_EPOCHS.value)
    recipes = baselines(recipe)
    unknown = set(_METHODS.value) - recipes.keys()
    if unknown:
        raise ValueError(
            f"`methods` must be out of {', '.join(recipes)}. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    chosen = {n: recipes[n] for n in _METHODS.value or recipes}
    if _STRENGTH.value is not None:
        chosen = {
            f"{name}_{_STRENGTH.value:g}": dataclasses.replace(
                recipe, strength=_STRENGTH.value
            )
            for name, recipe in chosen.items()
        }
    return chosen


def _known(
    recipe: BaselineRecipe,
    attack: dict[str, Any],
    images: dict[str, str],
    path: Path,
) -> dict[str, Any] | None:
    """The summary at `path`, if it is of this recipe, attack and images."""
    try:
        summary = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    wanted = {
        "recipe": dataclasses.asdict(recipe),
        "attack": attack,
        "images": images,
    }
    same = all(summary.get(key) == value for key, value in wanted.items())
    return summary if same else None


def _measure(
    name: str,
    recipe: BaselineRecipe,
    train: datasets.Split,
    test: datasets.Split,
    attack: dict[str, Any],
    pgd_epsilons: Sequence[float],
    images: dict[str, str],
    directory: Path,
) -> dict[str, Any]:
    print(f"\nTraining {name}")
    trained = training.train(recipe, train, directory / "checkpoints", name)
    # What is saved predicts; how it was trained is of no use there.
    plain = keras.Model(trained.model.input, trained.model.output, name=name)
    training.save(plain, directory / "models" / name)
    summary = describe(name, trained.model, 0.0, trained)
    summary["recipe"] = dataclasses.asdict(recipe)
    summary["attack"] = attack
    summary["images"] = images

    few = test.take(slice(attack["pgd_images"]))
    fgsm, pgd = (
        outcomes.curve(
            method, trained.model, split, epsilons, f"Attacking {name}"
        )
        for method, split, epsilons in (
            (attacks.FGSM(), test, EPSILONS),
            (outcomes.strongest_pgd(recipe.seed), few, pgd_epsilons),
        )
    )
    summary["clean_accuracy"] = fgsm.clean_accuracy
    summary["zero_gradient_share"] = fgsm.zero_gradient_share
    summary["fgsm"], summary["pgd"] = points(fgsm), points(pgd)
    report.write_json(summary, directory / f"{name}.json")
    return summary


def run() -> None:
    """Entry point of the command line."""
    command_line.run(main)


if __name__ == "__main__":
    run()
