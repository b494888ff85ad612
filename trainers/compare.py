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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import rich

from stable_node_tf import attacks, evaluation
from stable_node_tf.certification.certifier import certified_accuracy
from stable_node_tf.saved_model import load_classifier, save_classifier
from trainers import (
    command_line,
    comparison_pictures,
    distribution,
    drawing,
    effects,
    outcomes,
    report,
    robustness,
    training,
)
from trainers.data import datasets
from trainers.measurement import certified_points, points
from trainers.settings import setting
from trainers.variants import PRESETS, PresetOptions, variants

_PGD_EPSILONS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25)
_PGD_IMAGES = 1000
_RADII = (
    *(0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75),
    *(0.9, 1.0, 1.1, 1.25, 1.4, 1.58, 1.75, 2.0, 2.25, 2.5),
)
_SHOWN_EPSILONS = (0.0, 0.05, 0.1, 0.15, 0.2)
_SHOWN = 4
_PAIRS = 200


@dataclasses.dataclass(frozen=True)
class Options(PresetOptions, command_line.StrategyOptions):
    """What is compared, and where it goes."""

    preset: str = setting(
        "default",
        "default: what we found best; paper: the architecture of the "
        "literature.",
        choices=PRESETS,
    )


@command_line.program
def main(options: Options) -> None:
    """Trains, exports, attacks and reports on the four variants.

    Of several workers all train, and one does the rest.
    """
    drawing.require_matplotlib()
    effects.require_scipy()
    recipe = options.recipe(options.preset)
    directory = options.directory
    strategy = distribution.strategy(options.strategy)
    data = datasets.load(recipe.dataset, data_dir=options.data_dir)
    if len(data.train.image_shape) != 3:
        raise ValueError(
            "`dataset` must be of images, which compare draws. Received: "
            f"dataset={recipe.dataset}, a table"
        )
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
    bench = robustness.Bench(
        data.test,
        outcomes.strongest_pgd(recipe.seed),
        _PGD_EPSILONS,
        _PGD_IMAGES,
        directory,
    )
    summaries, withstood = [], {}
    for name, of in trained.items():
        withstood[name] = bench.attack(name, of.model, recipes[name])
        saved = load_classifier(
            save_classifier(of.model, directory / "saved_models" / name)
        )
        reloaded = outcomes.curve(
            attacks.FGSM(),
            saved,
            data.test,
            robustness.EPSILONS,
            f"{name}, reloaded: FGSM",
        )
        summaries.append(
            robustness.describe(
                name, of, recipe.delta_bar or 0.0, withstood[name]
            )
            | {
                "saved_model_fgsm": points(reloaded),
                "certified": _certified(name, of.model, data.test),
            }
        )
    results = bench.report(
        options.preset,
        recipe,
        dataclasses.asdict(recipe),
        summaries,
        effects=effects.of_run(withstood),
    )
    models = {name: of.model for name, of in trained.items()}
    draw(results, models, data, directory)
    rich.print(report.table(results))
    rich.print(report.effect_table(results))
    for line in effects.sentences(
        results["effects"], report.dataset_title(recipe.dataset)
    ):
        print(f"\n{line}")
    print(f"\nWritten to {directory}: results.json, results.csv, accuracy.png,")
    print("attacked_images.png, separation.png, saved_models/")


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
    results: Any,
    models: Mapping[str, keras.Model],
    data: datasets.Dataset,
    directory: Path,
) -> None:
    """Draws the three pictures."""
    test = data.test
    comparison_pictures.plot_accuracy(
        results, directory / "accuracy.png", 1 / data.train.num_classes
    )

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
        data.class_names,
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


if __name__ == "__main__":
    main()
