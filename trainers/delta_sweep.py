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
from pathlib import Path
from typing import Any

import keras
import numpy as np
import rich
from rich.table import Table

from stable_node_tf import attacks, stabilize
from stable_node_tf.files import write_json
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
from trainers.settings import setting
from trainers.variants import PresetOptions, variants

EPSILONS = (0.02, 0.04, 0.06, 0.08, 0.1)


@dataclasses.dataclass(frozen=True)
class Options(PresetOptions):
    """What is swept, and where it goes."""

    readout_epochs: int = setting(
        5, "Passes over the images for the read-out alone.", least=1
    )
    num_bounds: int = setting(
        9, "How many values of δ̄, evenly spaced from δ to 0.", least=2
    )


@command_line.program
def main(options: Options) -> None:
    """Trains one network, stabilizes it for every bound, and reports."""
    drawing.require_matplotlib()
    recipe = variants(options.recipe("paper"))["ordinary"]
    data = datasets.load(recipe.dataset, data_dir=options.data_dir)
    directory = options.directory / "delta_sweep"
    model = training.train(
        recipe, data.train, directory / "checkpoints", "ordinary"
    ).model
    path = directory / "sweep.json"
    results = _opened(path, model, recipe, options.readout_epochs, data)
    shares = np.linspace(1.0, 0.0, options.num_bounds)
    bounds = [float(share) * results["delta_upper"] for share in shares]
    known = {step["delta_bar"]: step for step in results["steps"]}
    for delta_bar in bounds:
        if delta_bar not in known:
            print(f"δ̄ = {delta_bar:.4g}")
            known[delta_bar] = _stabilized(
                model, delta_bar, recipe, data, options.readout_epochs
            )
            results["steps"] = list(known.values())
            write_json(results, path)
    results["steps"] = [known[delta_bar] for delta_bar in bounds]
    write_json(results, path)
    report.write_rows(_rows(results), directory / "sweep.csv")
    delta_sweep_picture.plot_delta_sweep(results, directory / "sweep.png")
    rich.print(table(results))
    print(sentence(results))
    print(f"Written to {directory}: sweep.json, sweep.csv, sweep.png")


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
    path: Path,
    model: keras.Model,
    recipe: Recipe,
    readout_epochs: int,
    data: datasets.Dataset,
) -> dict[str, Any]:
    """The record at `path` if it is of this network and data, or a new one."""
    ode = model.get_layer("ode")
    kernel = keras.ops.convert_to_numpy(ode.kernel).astype(np.float64)
    head = {
        "recipe": dataclasses.asdict(recipe),
        "readout_epochs": readout_epochs,
        "kernel_norm": float(np.linalg.norm(kernel)),
        "images": [data.train.fingerprint(), data.test.fingerprint()],
    }
    if known := report.read_json(path, head):
        return known
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


if __name__ == "__main__":
    main()
