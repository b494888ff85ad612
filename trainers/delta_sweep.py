"""Stabilizes one trained classifier for several δ̄, as the literature does it.

    python -m trainers.delta_sweep --dataset=mnist

The method of arXiv 2501.10740 to the letter: a network is trained as usual, its
matrix A is replaced by A + Δ, the nearest matrix with δ(A + Δ) <= δ̄, and then
the read-out alone is trained again. This is done for δ̄ from δ(A) down to 0, and
clean and FGSM accuracy are measured on all test images after either step. The
network is the ordinary one of the preset "paper" of `trainers.compare`.

Everything goes to results/DATASET/delta_sweep/: the trained network,
sweep.json, sweep.csv and sweep.png. Interrupted, the same command carries on.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import rich
from absl import app, flags, logging
from rich.table import Table

from stable_node_tf import attacks, stabilize
from trainers import (
    command_line,
    delta_sweep_picture,
    drawing,
    outcomes,
    report,
    training,
)
from trainers.data import datasets
from trainers.measurement import environment, points
from trainers.recipe import Recipe
from trainers.variants import preset, variants

EPSILONS = (0.02, 0.04, 0.06, 0.08, 0.1)

_DATASET = flags.DEFINE_enum(
    "dataset", "mnist", datasets.NAMES, "Images.", allow_override=True
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seeds weights and image order.", 0, allow_override=True
)
_EPOCHS = flags.DEFINE_integer(
    "epochs",
    None,
    "Passes over the images; by default the preset's.",
    1,
    allow_override=True,
)
_READOUT_EPOCHS = flags.DEFINE_integer(
    "readout_epochs", 5, "Passes over the images for the read-out alone.", 1
)
_NUM_BOUNDS = flags.DEFINE_integer(
    "num_bounds", 9, "How many values of δ̄, evenly spaced from δ to 0.", 2
)
_RESULTS = flags.DEFINE_string(
    "results", "results", "Directory of results.", allow_override=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Directory of the TFDS data sets.", allow_override=True
)


def main(argv: Sequence[str]) -> None:
    """Runs the sweep that the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    recipe = preset("paper", _DATASET.value, _SEED.value)
    if _EPOCHS.value is not None:
        recipe = dataclasses.replace(recipe, epochs=_EPOCHS.value)
    try:
        drawing.require_matplotlib()
        data = datasets.load(recipe.dataset, data_dir=_DATA_DIR.value)
        sweep(
            variants(recipe)["ordinary"],
            data,
            np.linspace(1.0, 0.0, _NUM_BOUNDS.value),
            _READOUT_EPOCHS.value,
            Path(_RESULTS.value) / recipe.dataset / "delta_sweep",
        )
    except command_line.REFUSALS as error:
        sys.exit(f"error: {error}")


def sweep(
    recipe: Recipe,
    data: datasets.Dataset,
    shares: Sequence[float],
    readout_epochs: int,
    directory: Path,
) -> dict[str, Any]:
    """Trains one network, stabilizes it for every bound, and reports.

    Args:
      recipe: of the network that is trained as usual.
      data: images to train on and to attack.
      shares: the bounds δ̄ as shares of the δ of the trained network.
      readout_epochs: passes over the training images for the read-out.
      directory: where everything goes.

    Returns:
      What sweep.json holds.
    """
    model = training.train(
        recipe, data.train, directory / "checkpoints", "ordinary"
    ).model
    path = directory / "sweep.json"
    results = _opened(path, model, recipe, readout_epochs)
    for share in shares:
        delta_bar = float(share) * results["delta_upper"]
        if all(step["delta_bar"] != delta_bar for step in results["steps"]):
            print(f"δ̄ = {delta_bar:.4g}")
            step = _stabilized(model, delta_bar, recipe, data, readout_epochs)
            results["steps"].append(step)
            report.write_json(results, path)
    wanted = {float(share) * results["delta_upper"] for share in shares}
    results["steps"] = sorted(
        (step for step in results["steps"] if step["delta_bar"] in wanted),
        key=lambda step: -step["delta_bar"],
    )
    report.write_json(results, path)
    report.write_rows(_rows(results), directory / "sweep.csv")
    delta_sweep_picture.plot_delta_sweep(results, directory / "sweep.png")
    rich.print(table(results))
    print(sentence(results))
    print(f"Written to {directory}: sweep.json, sweep.csv, sweep.png")
    return results


def table(results: dict[str, Any]) -> Table:
    """Accuracies in % as a table for the terminal, two rows for each bound."""
    rows = Table(
        title=f"{report.dataset_title(results['recipe']['dataset'])}: accuracy "
        "in %, under FGSM for ε > 0",
    )
    rows.add_column("δ̄", justify="right")
    rows.add_column("‖Δ‖/‖A‖", justify="right")
    rows.add_column("")
    for column in ("clean", *(f"{epsilon:g}" for epsilon in EPSILONS)):
        rows.add_column(column, justify="right")
    for step in results["steps"]:
        head = [
            f"{step['delta_bar']:.3f}",
            f"{step['relative_perturbation']:.3f}",
        ]
        for stage, title in delta_sweep_picture.STAGES.items():
            cells = [f"{100 * share:.1f}" for share in _accuracies(step[stage])]
            rows.add_row(*head, title, *cells)
            head = ["", ""]
        rows.add_section()
    return rows


def sentence(results: dict[str, Any]) -> str:
    """What the last bound costs and buys, in one sentence."""
    first, last = results["steps"][0], results["steps"][-1]
    before = _accuracies(first["readout_trained"])
    after = _accuracies(last["readout_trained"])
    middle = 1 + len(EPSILONS) // 2
    return (
        f"From δ̄ = {first['delta_bar']:.3g} down to {last['delta_bar']:.3g}, "
        f"with the read-out trained again, clean accuracy goes from "
        f"{before[0]:.1%} to {after[0]:.1%} and FGSM accuracy at ε = "
        f"{EPSILONS[middle - 1]:g} from {before[middle]:.1%} to "
        f"{after[middle]:.1%}."
    )


def _opened(
    path: Path, model: keras.Model, recipe: Recipe, readout_epochs: int
) -> dict[str, Any]:
    """The record at `path` if it is of this network, or a new one."""
    ode = model.get_layer("ode")
    kernel = keras.ops.convert_to_numpy(ode.kernel).astype(np.float64)
    try:
        old = json.loads(path.read_text())
    except (OSError, ValueError):
        old = {}
    head = {
        "recipe": dataclasses.asdict(recipe),
        "readout_epochs": readout_epochs,
        "kernel_norm": float(np.linalg.norm(kernel)),
    }
    if isinstance(old, dict) and all(old.get(k) == v for k, v in head.items()):
        return old
    bounds = ode.stability()
    return {
        **head,
        "delta_lower": bounds.delta_lower,
        "delta_upper": bounds.delta_upper,
        "steps": [],
        **environment(),
    }


def _stabilized(
    model: keras.Model,
    delta_bar: float,
    recipe: Recipe,
    data: datasets.Dataset,
    readout_epochs: int,
) -> dict[str, Any]:
    """Replaces A, trains the read-out, and measures after either."""
    stable = stabilize(model, delta_bar).model
    old, new = (
        keras.ops.convert_to_numpy(m.get_layer("ode").kernel).astype(np.float64)
        for m in (model, stable)
    )
    distance = float(np.linalg.norm(new - old))
    step = {
        "delta_bar": delta_bar,
        "stability": stable.get_layer("ode").stability()._asdict(),
        "perturbation": distance,
        "relative_perturbation": distance / float(np.linalg.norm(old)),
        "replaced": _measured(stable, data.test),
    }
    _train_readout(stable, recipe, data.train, readout_epochs)
    return step | {"readout_trained": _measured(stable, data.test)}


def _measured(model: keras.Model, test: datasets.Split) -> dict[str, Any]:
    fgsm = attacks.FGSM()
    curve = outcomes.curve(fgsm, model, test, EPSILONS, "Attacking")
    return {"clean_accuracy": curve.clean_accuracy, "fgsm": points(curve)}


def _train_readout(
    model: keras.Model,
    recipe: Recipe,
    train: datasets.Split,
    epochs: int,
) -> None:
    """Trains the last layer alone, on what comes out of the ODE."""
    features = keras.Model(model.input, model.get_layer("ode").output)
    states = features.predict(train.pixels, batch_size=1000, verbose=0)
    readout = model.get_layer("logits")
    alone = keras.Sequential([keras.Input(states.shape[1:]), readout])
    steps = epochs * -(-len(states) // recipe.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate, steps
    )
    alone.compile(keras.optimizers.Adam(schedule), recipe.loss())
    keras.utils.set_random_seed(recipe.seed)
    alone.fit(
        states,
        train.labels,
        batch_size=recipe.batch_size,
        epochs=epochs,
        verbose=0,
    )


def _accuracies(measured: dict[str, Any]) -> list[float]:
    """Clean accuracy, then that under FGSM for every ε."""
    by_epsilon = {p["epsilon"]: p["accuracy"] for p in measured["fgsm"]}
    return [
        measured["clean_accuracy"],
        *(by_epsilon[epsilon] for epsilon in EPSILONS),
    ]


def _rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per bound and stage."""
    names = ["clean_accuracy", *(f"fgsm_{epsilon:g}" for epsilon in EPSILONS)]
    return [
        {
            "dataset": results["recipe"]["dataset"],
            "seed": results["recipe"]["seed"],
            "delta_bar": step["delta_bar"],
            "perturbation": step["perturbation"],
            "stage": stage,
            **dict(zip(names, _accuracies(step[stage]), strict=True)),
        }
        for step in results["steps"]
        for stage in ("replaced", "readout_trained")
    ]


def run() -> None:
    """Entry point of the command line."""
    command_line.run(main)


if __name__ == "__main__":
    run()
