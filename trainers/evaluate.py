"""Attacks a trained model with FGSM and prints its accuracies.

    python -m trainers.evaluate --model=results/mnist/saved_models/ordinary
    python -m trainers.evaluate --model=model.keras --epsilons=0,0.1,0.2

--model is a `.keras` file or the directory of an exported SavedModel.
"""

import sys
from collections.abc import Sequence

import rich
from absl import app, flags, logging
from rich.table import Table

from trainers import datasets, report
from trainers.measurement import EPSILONS, fgsm_curve, load_model, points

_MODEL = flags.DEFINE_string(
    "model", None, "A .keras file or the directory of a SavedModel."
)
_DATASET = flags.DEFINE_enum(
    "dataset", "mnist", datasets.NAMES, "Test images.", allow_override=True
)
_EPSILONS = flags.DEFINE_list(
    "epsilons",
    [f"{epsilon:g}" for epsilon in EPSILONS],
    "Attack budgets, pixels ranging from 0 to 1.",
)
_JSON = flags.DEFINE_string("json", None, "File to write the figures to.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Directory of the TFDS data sets.", allow_override=True
)


@flags.validator("epsilons", "must be finite numbers >= 0, with commas")
def _valid_epsilons(values: list[str]) -> bool:
    try:
        return all(0.0 <= float(value) < float("inf") for value in values)
    except ValueError:
        return False


def main(argv: Sequence[str]) -> None:
    """Evaluates the model that the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    epsilons = [float(value) for value in _EPSILONS.value]
    try:
        model = load_model(_MODEL.value)
        test = datasets.load(_DATASET.value, data_dir=_DATA_DIR.value).test
        curve = fgsm_curve(model, test.images, test.labels, epsilons, "FGSM")
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        sys.exit(f"error: {error}")
    table = Table(
        title=f"{_MODEL.value} on the test images of {_DATASET.value}"
    )
    table.add_column("FGSM, ε", justify="right")
    table.add_column("accuracy", justify="right")
    for point in points(curve):
        table.add_row(f"{point['epsilon']:g}", f"{point['accuracy']:.2%}")
    rich.print(table)
    print(f"Images with a gradient of zero: {curve.zero_gradient_share:.2%}")
    if _JSON.value:
        figures = {
            "model": _MODEL.value,
            "dataset": _DATASET.value,
            "clean_accuracy": curve.clean_accuracy,
            "fgsm": points(curve),
            "zero_gradient_share": curve.zero_gradient_share,
        }
        report.write_json(figures, _JSON.value)


def run() -> None:
    """Entry point of the command line."""
    flags.mark_flag_as_required("model")
    app.run(main)


if __name__ == "__main__":
    run()
