"""Trains a classifier for certified accuracy, or certifies a trained one.

    python -m trainers.certify --output=results/mnist/certified --set=epochs=10
    python -m trainers.certify --model=results/mnist/certified/model.keras

The first trains, writes model.keras, 1 (a SavedModel) and certified.json into
--output, and carries on where it was interrupted when it is run again; both
print the share of test images whose class is proven within an ℓ2 radius, on all
10 000 of them. Choose parameters with --validation, which trains without the
last 10 000 training images and reports on them instead; the test images are
then not touched.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import rich
import tensorflow as tf
from absl import app, flags, logging
from rich.table import Table

from stable_node_tf.certification.certifier import (
    CertifiedCurve,
    certified_accuracy,
)
from trainers import command_line, distribution, report, training
from trainers.certified_recipe import CertifiedRecipe
from trainers.data import datasets
from trainers.measurement import certified_points, load_keras

RADII = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.25, 1.58, 2.0)

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "A .keras file to certify, without training.",
    allow_override=True,
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Directory to write to.", allow_override=True
)
_VALIDATION = flags.DEFINE_bool(
    "validation",
    False,
    "Hold out the last 10 000 training images.",
    allow_override=True,
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Directory of the TFDS data sets.", allow_override=True
)
_RADII = flags.DEFINE_list(
    "radii", [f"{radius:g}" for radius in RADII], "ℓ2 radii to report."
)
command_line.require_budgets("radii")
_DATASET = flags.DEFINE_enum(
    "dataset", "mnist", datasets.NAMES, "Data set.", allow_override=True
)
_SET = flags.DEFINE_multi_string(
    "set", [], "Field of the recipe, epochs=3 for example; may be repeated."
)
_STRATEGY = command_line.define_strategy(distribution.STRATEGIES)


def certify(
    model: keras.Model, split: datasets.Split, radii: Sequence[float]
) -> CertifiedCurve:
    """Certified accuracy of a model on a split, pixels scaled to [0, 1]."""
    return certified_accuracy(model, split.pixels, split.labels, radii)


def table(curve: CertifiedCurve, title: str) -> Table:
    """The curve as a table for the terminal."""
    rows = Table(title=title, caption=curve.holds_for)
    rows.add_column("ℓ2 radius", justify="right")
    rows.add_column("certified accuracy", justify="right")
    rows.add_row("clean", f"{curve.clean_accuracy:.2%}")
    for radius, accuracy in zip(curve.radii, curve.accuracies, strict=True):
        rows.add_row(f"{radius:g}", f"{accuracy:.2%}")
    return rows


def main(argv: Sequence[str]) -> None:
    """Trains where need be, certifies and reports."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    if (_MODEL.value is None) == (_OUTPUT.value is None):
        raise app.UsageError("Expected either --output or --model.")
    if _MODEL.value and _SET.value:
        raise app.UsageError("--set goes with --output: --model is trained.")
    logging.set_verbosity(logging.WARNING)
    try:
        radii = [float(radius) for radius in _RADII.value]
        recipe = CertifiedRecipe.parse(_DATASET.value, _SET.value)
        strategy = distribution.strategy(_STRATEGY.value)
        data = datasets.load(
            recipe.dataset,
            data_dir=_DATA_DIR.value,
            validation=_VALIDATION.value,
        )
        if _MODEL.value:
            model = load_keras(_MODEL.value)
        else:
            model = _train(recipe, data, Path(_OUTPUT.value), strategy)
        if not distribution.is_chief(strategy):
            return
        if _OUTPUT.value:
            training.save(model, Path(_OUTPUT.value))
        split = data.validation if _VALIDATION.value else data.test
        curve = certify(model, split, radii)
    except command_line.REFUSALS as error:
        sys.exit(f"error: {error}")
    which = "validation" if _VALIDATION.value else "test"
    rich.print(table(curve, f"{recipe.dataset}, {which} images"))
    if _OUTPUT.value:
        summary = {
            "recipe": dataclasses.asdict(recipe),
            "images": which,
            **certified_points(curve),
        }
        path = Path(_OUTPUT.value) / "certified.json"
        report.write_json(summary, path)
        print(f"Wrote {path}")


def _train(
    recipe: CertifiedRecipe,
    data: datasets.Dataset,
    output: Path,
    strategy: tf.distribute.Strategy | None,
) -> keras.Model:
    return training.train(
        recipe,
        data.train,
        output / "checkpoints",
        "validated" if _VALIDATION.value else "certified",
        data.validation if _VALIDATION.value else None,
        strategy=strategy,
    ).model


def run() -> None:
    """Entry point of the command line."""
    command_line.run(main)


if __name__ == "__main__":
    run()
