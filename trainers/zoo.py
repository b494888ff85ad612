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
from pathlib import Path
from typing import Any

import keras
import numpy as np

from stable_node_tf import StableODELayer, attacks, evaluation
from stable_node_tf.certification.certifier import certified_accuracy
from stable_node_tf.evaluation import sanity_checks
from stable_node_tf.files import atomic, write_json
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
from trainers.data import datasets, tfds_sets
from trainers.measurement import (
    certified_points,
    environment,
    package_digest,
)
from trainers.recipe import TrainingRecipe
from trainers.settings import setting
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


@dataclasses.dataclass(frozen=True)
class Options(command_line.DataOptions):
    """What is built, and where it goes."""

    models: tuple[str, ...] = setting(
        (), "Which, mnist_certified for example; all by default."
    )
    cards: bool = setting(
        False, "Write the cards anew from results.json, nothing else."
    )
    pgd_images: int = setting(
        1000, "The first so many test images are attacked by PGD.", least=1
    )
    zoo: str = setting("saved_models", "Directory of the zoo.")
    results: str = setting("results", "Directory of results.")


def recipes() -> dict[str, TrainingRecipe]:
    """How every model of the zoo is trained, by its name."""
    zoo: dict[str, TrainingRecipe] = {}
    for dataset in tfds_sets.NAMES:
        for name, recipe in variants(preset("default", dataset)).items():
            zoo[f"{dataset}_{name}"] = recipe
        zoo[f"{dataset}_certified"] = CertifiedRecipe(dataset=dataset)
    return zoo


@command_line.program
def main(options: Options) -> None:
    """Builds what the flags ask for."""
    zoo, known = Path(options.zoo), recipes()
    if unknown := set(options.models) - known.keys():
        raise ValueError(
            f"--models must be out of {', '.join(known)}. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    for name in options.models or known:
        recipe = known[name]
        if options.cards:
            write_card(zoo / name)
        elif _is_current(zoo / name, recipe, options.pgd_images):
            print(f"{name}: is there already")
        else:
            data = datasets.load(recipe.dataset, data_dir=options.data_dir)
            work = Path(options.results) / "zoo" / name
            build(name, recipe, data, work, options.pgd_images)
            _publish(work, zoo / name)
            print(f"{name}: written to {zoo / name}")


def build(
    name: str,
    recipe: TrainingRecipe,
    data: datasets.Dataset,
    work: Path,
    pgd_images: int,
) -> None:
    """Makes 1/, results.json and README.md in the directory `work`.

    What an interrupted run left there is used.
    """
    print(f"\n{name}")
    trained = training.train(recipe, data.train, work / "checkpoints", "model")
    exported = _exported(trained.model, recipe, data.train, work)
    pixels, labels = data.test.pixels, data.test.labels
    first = data.test.take(slice(pgd_images))
    evaluations = []
    curves: dict[str, evaluation.AccuracyCurve] = {}
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
        proven_few, [curves[a.name] for a in _PGD.attacks if a.norm == "l2"]
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
    write_json(results, work / "results.json")
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
    with atomic(directory / "README.md") as temporary:
        temporary.write_text(model_card.card(results), encoding="utf-8")


def _exported(
    model: keras.Model,
    recipe: TrainingRecipe,
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
    if not report.read_json(marker, made_from):
        save_classifier(model, work)
        write_json(made_from, marker)
    return load_classifier(work / "1")


def _is_current(
    directory: Path, recipe: TrainingRecipe, pgd_images: int
) -> bool:
    """Whether a directory of the zoo is what would be built."""
    digest = attack_suite.digest(directory / "1")
    results = report.read_json(directory / "results.json", {"digest": digest})
    if not results or not recipe.is_written(results["recipe"]):
        return False
    wanted = [suite.settings() for suite in (_FGSM, _PGD)]
    found = [
        {name: each["settings"] for name, each in evaluation["attacks"].items()}
        for evaluation in results["evaluations"]
    ]
    few = results["evaluations"][1]["num_images"]
    return found == wanted and few == pgd_images


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


if __name__ == "__main__":
    main()
