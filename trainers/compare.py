"""Trains three classifiers alike and compares them under FGSM.

    python -m trainers.compare --dataset=mnist

"ordinary" is free; in "stable_ode" only the matrix A of the ODE is constrained,
as in arXiv 2501.10740; in "stable_network" A, encoder and read-out are. The
three share architecture, seed, schedule and number of steps. Everything goes
to results/DATASET/: checkpoints, SavedModels, results.json, results.csv and the
pictures. Interrupted, the same command carries on; models that are trained
already are taken as they are.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import rich
import tensorflow as tf
from absl import app, flags, logging

from stable_node_tf import attacks, evaluation, export
from trainers import (
    command_line,
    comparison_pictures,
    datasets,
    distribution,
    drawing,
    report,
    training,
)
from trainers.attack_suite import attack_curve
from trainers.measurement import EPSILONS, environment, points
from trainers.recipe import Recipe
from trainers.variants import PRESETS, describe, variants

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
    "seed", 0, "Of the three models.", 0, allow_override=True
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
    logging.set_verbosity(logging.WARNING)
    recipe = dataclasses.replace(
        PRESETS[_PRESET.value], dataset=_DATASET.value, seed=_SEED.value
    )
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
    """Trains, exports, attacks and reports on the three variants.

    Of several workers all train, and one does the rest.
    """
    drawing.require_matplotlib()
    data = datasets.load(recipe.dataset, data_dir=_DATA_DIR.value)
    trained = {}
    for name, variant in variants(recipe).items():
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
    models = {name: of.model for name, of in trained.items()}
    summaries = []
    for name, model in models.items():
        summary = describe(name, model, recipe.delta_bar, trained[name])
        saved = export.export(model, directory / "saved_models" / name)
        for key, attacked in (
            ("fgsm", model),
            ("saved_model_fgsm", export.load(saved)),
        ):
            curve = attack_curve(
                "fgsm",
                attacked,
                data.test.pixels,
                data.test.labels,
                {"epsilons": EPSILONS},
                f"Attacking {name}" + " reloaded" * (key != "fgsm"),
            )
            summary.setdefault("clean_accuracy", curve.clean_accuracy)
            summary.setdefault("zero_gradient_share", curve.zero_gradient_share)
            summary[key] = points(curve)
        summaries.append(summary)

    results = {
        "dataset": recipe.dataset,
        "preset": preset,
        "seed": recipe.seed,
        "config": dataclasses.asdict(recipe),
        "models": summaries,
        **environment(),
    }
    report.write_json(results, directory / "results.json")
    report.write_csv(results, directory / "results.csv")
    draw(results, models, data.test, directory)
    rich.print(report.table(results))
    print(f"Written to {directory}: results.json, results.csv, accuracy.png,")
    print("attacked_images.png, separation.png, saved_models/")


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
    for name in ("ordinary", "stable_network"):
        adversarial, _ = attacks.fgsm(
            models[name], images, labels, _SHOWN_EPSILONS
        )
        answers = [
            models[name](batch).numpy().argmax(-1) for batch in adversarial
        ]
        attacked[name] = (np.asarray(adversarial), np.asarray(answers))
    comparison_pictures.plot_attacked_images(
        directory / "attacked_images.png",
        labels,
        _SHOWN_EPSILONS,
        attacked,
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
