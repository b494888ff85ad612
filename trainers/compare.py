"""Trains four classifiers alike and attacks them: what stability buys.

    python -m trainers.compare --dataset=mnist

Either the matrix A of the ODE is free or δ(A) is bounded, and either encoder
and read-out, the ends, are free or their spectral norms are bounded:

                    A free          A constrained
    ends free       ordinary        stable_ode (as in arXiv 2501.10740)
    ends bounded    bounded_ends    stable_network

So the difference within a row is what the stability constraint does. The four
share architecture, initial draw, loss, schedule and number of steps. FGSM is
run on all test images, PGD with 100 steps on the first 1000, on two losses, of
which the stronger counts for each image.

Everything goes to results/DATASET/: checkpoints, outcomes of attacks,
SavedModels, results.json, results.csv and the pictures. Interrupted, the same
command carries on; what is trained or attacked already is taken as it is.
"""

import dataclasses
import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import rich
import tensorflow as tf
from absl import app, flags, logging

from stable_node_tf import attacks, evaluation
from stable_node_tf.certification.certifier import certified_accuracy
from stable_node_tf.saved_model import (
    load_classifier,
    save_classifier,
)
from trainers import (
    command_line,
    comparison_pictures,
    distribution,
    drawing,
    effects,
    outcomes,
    report,
    training,
)
from trainers.data import datasets
from trainers.measurement import (
    EPSILONS,
    certified_points,
    environment,
    package_digest,
    points,
)
from trainers.recipe import Recipe
from trainers.variants import PRESETS, describe, preset, variants

_PGD_EPSILONS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25)
_PGD_IMAGES = 1000
_RADII = (
    *(0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75),
    *(0.9, 1.0, 1.1, 1.25, 1.4, 1.58, 1.75, 2.0, 2.25, 2.5),
)
_SHOWN_EPSILONS = (0.0, 0.05, 0.1, 0.15, 0.2)
_SHOWN = 4
_PAIRS = 200

_DATASET = flags.DEFINE_enum(
    "dataset", "mnist", datasets.NAMES, "Images.", allow_override=True
)
_PRESET = flags.DEFINE_enum(
    "preset",
    "default",
    PRESETS,
    "default: what we found best; paper: the architecture of the literature.",
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Of the four models.", 0, allow_override=True
)
_EPOCHS = flags.DEFINE_integer(
    "epochs",
    None,
    "Passes over the images; by default the preset's.",
    1,
    allow_override=True,
)
_STRATEGY = command_line.define_strategy(distribution.STRATEGIES)
_RESULTS = flags.DEFINE_string("results", "results", "Directory of results.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Directory of the TFDS data sets.", allow_override=True
)


def main(argv: Sequence[str]) -> None:
    """Runs the comparison that the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    # Retracing is what several models in one process need.
    logging.set_verbosity(logging.ERROR)
    recipe = preset(_PRESET.value, _DATASET.value, _SEED.value)
    if _EPOCHS.value is not None:
        recipe = dataclasses.replace(recipe, epochs=_EPOCHS.value)
    try:
        compare(
            recipe,
            _PRESET.value,
            Path(_RESULTS.value) / recipe.dataset,
            distribution.strategy(_STRATEGY.value),
        )
    except command_line.REFUSALS as error:
        sys.exit(f"error: {error}")


def compare(
    recipe: Recipe,
    preset: str,
    directory: Path,
    strategy: tf.distribute.Strategy | None = None,
) -> None:
    """Trains, exports, attacks and reports on the four variants.

    Of several workers all train, and one does the rest.
    """
    drawing.require_matplotlib()
    effects.require_scipy()
    data = datasets.load(recipe.dataset, data_dir=_DATA_DIR.value)
    recipes, trained = variants(recipe), {}
    for name, variant in recipes.items():
        print(f"\nTraining {name}")
        trained[name] = training.train(
            variant,
            data.train,
            directory / "checkpoints",
            name,
            strategy=strategy,
        )
    if not distribution.is_chief(strategy):
        return
    print()
    pgd = outcomes.strongest_pgd(recipe.seed)
    summaries, withstood = [], {}
    for name, of in trained.items():
        withstood[name] = _attacked(
            name, of.model, recipes[name], pgd, data.test, directory
        )
        curves = {
            key: evaluation.AccuracyCurve.of(outcome)
            for key, outcome in withstood[name].items()
        }
        saved = load_classifier(
            save_classifier(of.model, directory / "saved_models" / name)
        )
        reloaded = outcomes.curve(
            attacks.FGSM(),
            saved,
            data.test,
            EPSILONS,
            f"{name}, reloaded: FGSM",
        )
        summaries.append(
            describe(name, of.model, recipe.delta_bar, of)
            | {
                "clean_accuracy": curves["fgsm"].clean_accuracy,
                "zero_gradient_share": curves["fgsm"].zero_gradient_share,
                "fgsm": points(curves["fgsm"]),
                "pgd": points(curves["pgd"]),
                "saved_model_fgsm": points(reloaded),
                "certified": _certified(name, of.model, data.test),
            }
        )

    results = {
        "dataset": recipe.dataset,
        "preset": preset,
        "seed": recipe.seed,
        "config": dataclasses.asdict(recipe),
        "attack": {
            "pgd_images": min(_PGD_IMAGES, len(data.test.labels)),
            **{
                attack.name: outcomes.settings(attack, _PGD_EPSILONS)
                for attack in pgd.attacks
            },
        },
        "models": summaries,
        "effects": effects.of_run(withstood),
        **environment(),
    }
    report.write_json(results, directory / "results.json")
    report.write_csv(results, directory / "results.csv")
    draw(
        results,
        {name: of.model for name, of in trained.items()},
        data.test,
        directory,
    )
    rich.print(report.table(results))
    rich.print(report.effect_table(results))
    for line in effects.sentences(
        results["effects"], report.dataset_title(recipe.dataset)
    ):
        print(f"\n{line}")
    print(f"\nWritten to {directory}: results.json, results.csv, accuracy.png,")
    print("attacked_images.png, separation.png, saved_models/")


def _attacked(
    name: str,
    model: keras.Model,
    recipe: Recipe,
    pgd: attacks.Attack,
    test: datasets.Split,
    directory: Path,
) -> dict[str, attacks.AttackResult]:
    """What FGSM and the stronger of two runs of PGD leave of one model."""
    weights = hashlib.sha256()
    for weight in model.get_weights():
        weights.update(weight.tobytes())

    def run(
        key: str,
        attack: attacks.Attack,
        split: datasets.Split,
        epsilons: Sequence[float],
    ) -> attacks.AttackResult:
        title = f"{name}: {effects.ATTACKS[key]}"
        start = time.perf_counter()
        outcome = outcomes.kept(
            directory / "attacks" / f"{name}_{key}.npz",
            {
                "recipe": dataclasses.asdict(recipe),
                "weights": weights.hexdigest(),
                "package": package_digest(),
                "images": split.fingerprint(),
                "settings": outcomes.settings(attack, epsilons),
            },
            lambda: outcomes.attacked(attack, model, split, epsilons, title),
        )
        seconds = time.perf_counter() - start
        left = dict(zip(epsilons, outcome.accuracies, strict=True))
        print(
            f"{title} leaves {left[effects.QUOTED]:.1%} at "
            f"ε = {effects.QUOTED:g} ({seconds:.0f} s)"
        )
        return outcome

    few = test.take(slice(_PGD_IMAGES))
    return {
        "fgsm": run("fgsm", attacks.FGSM(), test, EPSILONS),
        "pgd": run("pgd", pgd, few, _PGD_EPSILONS),
    }


def _certified(
    name: str, model: keras.Model, test: datasets.Split
) -> dict[str, Any] | None:
    """What is proven of one model, if a bound of its solver is known."""
    try:
        curve = certified_accuracy(model, test.pixels, test.labels, _RADII)
    except ValueError as error:
        print(f"{name}: not certified: {error}")
        return None
    return certified_points(curve)


def draw(
    results: dict,
    models: dict[str, keras.Model],
    test: datasets.Split,
    directory: Path,
) -> None:
    """Draws the three pictures."""
    comparison_pictures.plot_accuracy(results, directory / "accuracy.png")

    # The first image of each of the first classes to show up.
    firsts = np.sort(np.unique(test.labels, return_index=True)[1])[:_SHOWN]
    shown = test.take(firsts)
    images, labels = shown.pixels, shown.labels
    attacked = {}
    for name in effects.PAIRS["bounded"]:
        fgsm = attacks.FGSM()(models[name], images, labels, _SHOWN_EPSILONS)
        attacked[name] = (fgsm.adversarial, fgsm.predictions)
    comparison_pictures.plot_attacked_images(
        directory / "attacked_images.png",
        labels,
        _SHOWN_EPSILONS,
        attacked,
        results["dataset"],
        datasets.CLASS_NAMES[results["dataset"]],
    )

    images = test.take(slice(_PAIRS)).pixels
    times = np.linspace(0.0, 1.0, 11)
    separations, uppers = {}, {}
    for summary in results["models"]:
        model = models[summary["name"]]
        encoder = keras.Model(model.input, model.get_layer("encoder").output)
        state = encoder(images).numpy()
        noise = np.random.default_rng(0).standard_normal(state.shape)
        noise *= 1e-2 * np.linalg.norm(state, axis=1, keepdims=True)
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        separations[summary["name"]] = evaluation.separation(
            model.get_layer("ode").trajectory, state, noise, times
        )
        uppers[summary["name"]] = summary["delta_upper"]
    comparison_pictures.plot_separation(
        directory / "separation.png",
        times,
        separations,
        uppers,
        results["dataset"],
    )


def run() -> None:
    """Entry point of the command line."""
    command_line.run(main)


if __name__ == "__main__":
    run()
