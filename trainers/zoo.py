"""Builds the zoo in saved_models/: trains, exports, attacks and certifies.

    python -m trainers.zoo
    python -m trainers.zoo --models=mnist_certified
    python -m trainers.zoo --cards

Five models for each data set: the four of `trainers.compare` with seed 0, and
that of `trainers.certify`. Each gets a directory with a SavedModel in 1/, all
figures in results.json, and a model card made from them, README.md. The
directory takes the place of an earlier one when it is complete. Interrupted,
the same command carries on; work in progress lies in results/zoo. A model whose
recipe and evaluation are as they would be now is left alone, --cards only
writes the cards anew.
"""

import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags, logging

from stable_node_tf import StableODELayer, attacks
from stable_node_tf.certification.certifier import certified_accuracy
from stable_node_tf.evaluation import sanity_checks
from stable_node_tf.saved_model import (
    ExportedModel,
    load_classifier,
    save_classifier,
)
from stable_node_tf.stability.lipschitz import (
    network_lipschitz,
    spectral_norm_bound,
)
from trainers import attack_suite, command_line, model_card, report, training
from trainers.certified_recipe import CertifiedRecipe
from trainers.data import datasets
from trainers.measurement import (
    certified_points,
    environment,
    package_digest,
)
from trainers.recipe import Recipe
from trainers.variants import preset, variants

_RADII = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.25, 1.58, 2.0)
_FGSM = attack_suite.Suite(
    [attacks.FGSM()],
    {"linf": [0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2]},
)
_PGD = attack_suite.Suite(
    [
        attacks.PGD(norm=norm, loss=loss, jit_compile=True)
        for norm in ("linf", "l2")
        for loss in ("cross_entropy", "dlr")
    ],
    {"linf": [0.02, 0.05, 0.1, 0.15], "l2": [0.3, 0.5, 1.0, 1.58]},
)
CHECKED = 2000  # images whose accuracy the test of the zoo asks for

_MODELS = flags.DEFINE_list(
    "models", [], "Which, mnist_certified for example; all by default."
)
_CARDS = flags.DEFINE_bool(
    "cards", False, "Write the cards anew from results.json, nothing else."
)
_PGD_IMAGES = flags.DEFINE_integer(
    "pgd_images",
    1000,
    "The first so many test images are attacked by PGD.",
    1,
    allow_override=True,
)
_ZOO = flags.DEFINE_string("zoo", "saved_models", "Directory of the zoo.")
_RESULTS = flags.DEFINE_string(
    "results", "results", "Directory of results.", allow_override=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Directory of the TFDS data sets.", allow_override=True
)


def recipes() -> dict[str, Recipe | CertifiedRecipe]:
    """How every model of the zoo is trained, by its name."""
    zoo: dict[str, Recipe | CertifiedRecipe] = {}
    for dataset in datasets.NAMES:
        for name, recipe in variants(preset("default", dataset)).items():
            zoo[f"{dataset}_{name}"] = recipe
        zoo[f"{dataset}_certified"] = CertifiedRecipe(dataset=dataset)
    return zoo


def main(argv: Sequence[str]) -> None:
    """Builds what the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    # Retracing is what several models in one process need.
    logging.set_verbosity(logging.ERROR)
    zoo, known = Path(_ZOO.value), recipes()
    chosen = _MODELS.value or list(known)
    if unknown := set(chosen) - known.keys():
        raise app.UsageError(
            f"--models must be out of {', '.join(known)}. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    try:
        for name in chosen:
            if _CARDS.value:
                write_card(zoo / name)
            elif _is_current(zoo / name, known[name]):
                print(f"{name}: is there already")
            else:
                data = datasets.load(
                    known[name].dataset, data_dir=_DATA_DIR.value
                )
                work = Path(_RESULTS.value) / "zoo" / name
                build(name, known[name], data, work)
                _publish(work, zoo / name)
                print(f"{name}: written to {zoo / name}")
    except command_line.REFUSALS as error:
        sys.exit(f"error: {error}")


def build(
    name: str,
    recipe: Recipe | CertifiedRecipe,
    data: datasets.Dataset,
    work: Path,
) -> None:
    """Makes 1/, results.json and README.md in a directory, step by step.

    Args:
      name: of the model.
      recipe: how to train it.
      data: what to train on, and to test with.
      work: the directory; what an interrupted run left there is used.
    """
    print(f"\n{name}")
    trained = training.train(recipe, data.train, work / "checkpoints", "model")
    exported = _exported(trained.model, recipe, data.train, work)
    pixels, labels = data.test.pixels, data.test.labels
    first = data.test.take(slice(_PGD_IMAGES.value))
    evaluations = []
    curves = {}
    for suite, images in ((_FGSM, data.test), (_PGD, first)):
        path = work / f"evaluation_{'_'.join(suite.settings())}.json"
        record = attack_suite.open_record(
            path, exported.path, recipe.dataset, images
        )
        curves |= attack_suite.run(suite, exported, images, record, path)
        evaluations.append(
            {key: record[key] for key in ("num_images", "attacks")}
        )
    proven = certified_accuracy(trained.model, pixels, labels, _RADII)
    proven_few = certified_accuracy(
        trained.model, first.pixels, first.labels, _PGD.epsilons["l2"]
    )
    check = sanity_checks.certified_at_most_attacked(
        proven_few,
        [curves[a.name] for a in _PGD.attacks if a.norm == "l2"],
    )
    if not check.passed:
        raise RuntimeError(f"{name}: refuted: {check.name}, {check.measured}")
    checked = slice(CHECKED)
    answers = exported.predict(pixels[checked])["label"]
    results: Any = {
        "name": name,
        "recipe_of": type(recipe).__name__,
        "recipe": dataclasses.asdict(recipe),
        "training": {"seconds": trained.seconds, "steps": trained.steps},
        "parameters": trained.model.count_params(),
        "clean_accuracy": proven.clean_accuracy,
        "checked": {
            "images": len(answers),
            "correct": int(np.sum(answers == labels[checked])),
        },
        "bounds": bounds(trained.model),
        "certified": certified_points(proven),
        "certified_few": certified_points(proven_few),
        "evaluations": evaluations,
        "digest": attack_suite.digest(exported.path),
        "bytes": sum(
            file.stat().st_size
            for file in exported.path.rglob("*")
            if file.is_file()
        ),
        **environment(),
    }
    report.write_json(results, work / "results.json")
    write_card(work)


def bounds(model: keras.Model) -> dict[str, Any]:
    """What is proven about each layer of a chain, and about the network.

    Returns:
      "layers": name and "norm" of a `Dense` kernel, or the `StabilityReport` of
      a `StableODELayer`; "lipschitz": of the network, in real arithmetic.
    """
    layers: list[dict[str, Any]] = []
    factors = []
    for layer in model.layers:
        if isinstance(layer, StableODELayer):
            stability = layer.stability()
            factors.append(stability.lipschitz_bound)
            layers.append({"name": layer.name, **stability._asdict()})
        elif isinstance(layer, keras.layers.Dense):
            kernel = keras.ops.convert_to_numpy(layer.kernel)
            factors.append(spectral_norm_bound(kernel))
            layers.append({"name": layer.name, "norm": factors[-1]})
    return {"layers": layers, "lipschitz": network_lipschitz(*factors)}


def write_card(directory: Path) -> None:
    """Writes README.md from the results.json beside it."""
    results = json.loads((directory / "results.json").read_text())
    with report.atomic(directory / "README.md") as temporary:
        temporary.write_text(model_card.card(results), encoding="utf-8")


def _exported(
    model: keras.Model,
    recipe: Recipe | CertifiedRecipe,
    train: datasets.Split,
    work: Path,
) -> ExportedModel:
    """The export of a model, which stays while what it was made from does."""
    marker = work / "exported.json"
    made_from: Any = {
        "recipe": dataclasses.asdict(recipe),
        "training_images": train.fingerprint(),
        "package": package_digest(),
    }
    try:
        there = json.loads(marker.read_text()) == made_from
    except (OSError, ValueError):
        there = False
    if not there:
        save_classifier(model, work)
        report.write_json(made_from, marker)
    return load_classifier(work / "1")


def _is_current(directory: Path, recipe: Recipe | CertifiedRecipe) -> bool:
    """Whether a directory of the zoo is what would be built."""
    try:
        results = json.loads((directory / "results.json").read_text())
        digest = attack_suite.digest(directory / "1")
    except (OSError, ValueError):
        return False
    wanted = [suite.settings() for suite in (_FGSM, _PGD)]
    found = [
        {name: each["settings"] for name, each in evaluation["attacks"].items()}
        for evaluation in results["evaluations"]
    ]
    return (
        results["recipe"] == dataclasses.asdict(recipe)
        and results["digest"] == digest
        and found == wanted
        and results["evaluations"][1]["num_images"] == _PGD_IMAGES.value
    )


def _publish(work: Path, target: Path) -> None:
    """Puts what was built in the place of what is there, all of it at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    complete = target.with_name(f".{target.name}.new")
    replaced = target.with_name(f".{target.name}.old")
    for leftover in (complete, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    complete.mkdir()
    shutil.copytree(work / "1", complete / "1")
    for name in ("results.json", "README.md"):
        shutil.copy(work / name, complete / name)
    if target.exists():
        target.rename(replaced)
    complete.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)


def run() -> None:
    """Entry point of the command line."""
    command_line.run(main)


if __name__ == "__main__":
    run()
