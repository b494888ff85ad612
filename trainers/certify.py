"""Trains a classifier for certified accuracy, or certifies a trained one.

    python -m trainers.certify --output=results/mnist/certified --epochs=10
    python -m trainers.certify --model=results/mnist/certified/model.keras

The first trains, writes model.keras, 1 (a SavedModel) and certified.json into
--output, and carries on where it was interrupted when it is run again; both
print the share of test images whose class is proven within an ℓ2 radius, on all
of them, or within an ℓ∞ radius, the norm of FGSM, with --norm=inf. Choose
parameters with --validation, which holds the last sixth of the training images
out of the training and reports on them instead; the test images are then not
touched.
"""

import dataclasses
from pathlib import Path

import keras
import rich
import tensorflow as tf
from rich.table import Table

from stable_node_tf.certification.certifier import (
    CertifiedCurve,
    certified_accuracy,
)
from stable_node_tf.files import write_json
from trainers import command_line, distribution, training
from trainers.certified_recipe import CertifiedRecipe
from trainers.data import datasets
from trainers.measurement import certified_points, load_keras
from trainers.settings import setting


@dataclasses.dataclass(frozen=True)
class Options(command_line.DataOptions, command_line.StrategyOptions):
    """What is certified, and where it goes."""

    model: str | None = setting(
        None, "A .keras file to certify, without training."
    )
    output: str | None = setting(None, "Directory to write to.")
    validation: bool = setting(
        False, "Hold out the last sixth of the training images."
    )
    radii: tuple[float, ...] = setting(
        (), "Radii to report; by default some that suit the norm.", least=0
    )


RADII = {
    "2": (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.25, 1.58, 2.0),
    "inf": (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3),
}


@command_line.program
def main(recipe: CertifiedRecipe, options: Options) -> None:
    """Trains where need be, certifies and reports."""
    if (options.model is None) == (options.output is None):
        raise ValueError("Either --output or --model must be given.")
    untouched = CertifiedRecipe(dataset=recipe.dataset, norm=recipe.norm)
    if options.model and recipe != untouched:
        raise ValueError(
            "Flags of the recipe go with --output: --model is trained."
        )
    strategy = distribution.strategy(options.strategy)
    data = datasets.load(
        recipe.dataset,
        data_dir=options.data_dir,
        validation=options.validation,
    )
    if options.model:
        model = load_keras(options.model)
    else:
        model = _train(recipe, data, options, strategy)
    if not distribution.is_chief(strategy):
        return
    if options.output:
        training.save(model, Path(options.output))
    split = data.validation if options.validation else data.test
    curve = certified_accuracy(
        model,
        split.pixels,
        split.labels,
        options.radii or RADII[recipe.norm],
        norm=recipe.norm,
    )
    which = "validation" if options.validation else "test"
    rich.print(_table(curve, f"{recipe.dataset}, {which} images"))
    if options.output:
        summary = {
            "recipe": dataclasses.asdict(recipe),
            "images": which,
            **certified_points(curve),
        }
        path = Path(options.output) / "certified.json"
        write_json(summary, path)
        print(f"Wrote {path}")


def _train(
    recipe: CertifiedRecipe,
    data: datasets.Dataset,
    options: Options,
    strategy: tf.distribute.Strategy | None,
) -> keras.Model:
    return training.train(
        recipe,
        data.train,
        Path(options.output or "") / "checkpoints",
        "validated" if options.validation else "certified",
        data.validation if options.validation else None,
        strategy=strategy,
    ).model


def _table(curve: CertifiedCurve, title: str) -> Table:
    """Lays the curve out for the terminal."""
    rows = Table(title=title, caption=curve.holds_for)
    rows.add_column("radius", justify="right")
    rows.add_column("certified accuracy", justify="right")
    rows.add_row("clean", f"{curve.clean_accuracy:.2%}")
    for radius, accuracy in zip(curve.radii, curve.accuracies, strict=True):
        rows.add_row(f"{radius:g}", f"{accuracy:.2%}")
    return rows


if __name__ == "__main__":
    main()
