"""The card of a model of the zoo, made from its results.json."""

import dataclasses
import textwrap
from typing import Any

from trainers.attack_report import curves, markdown_table
from trainers.certified_recipe import CertifiedRecipe
from trainers.recipe import Recipe
from trainers.report import (
    dataset_title,
    rounded_down,
    rounded_up,
)

_KINDS = {
    "ordinary": (
        "Nothing is constrained. It is here to be compared with: it is easily "
        "attacked, and nothing useful is proven about it."
    ),
    "stable_ode": (
        "Only the matrix A of the ODE is constrained, δ(A) <= 0, so that the "
        "flow stretches no distance. Encoder and read-out are free, and the "
        "gain that A lost is found there: a stable ODE alone is no defence."
    ),
    "bounded_ends": (
        "The spectral norms of encoder and read-out are bounded as in the "
        "stable network, and the matrix A of the ODE is free: what the "
        "stability of the ODE is worth is the difference between the two."
    ),
    "stable_network": (
        "A is constrained, δ(A) <= 0, and so are the spectral norms of encoder "
        "and read-out: the whole network has a small Lipschitz constant."
    ),
    "certified": (
        "Trained for certified radii: every affine map has spectral norm at "
        "most 1, every step of Euler stretches no distance, and the loss asks "
        "for margins. Its ODEs take one step with h|A| near 2: what is "
        "certified is the network that runs, and not a flow."
    ),
}
_RECIPES = {"Recipe": Recipe, "CertifiedRecipe": CertifiedRecipe}
_WILD = {
    "mnist": "reading digits in the wild is another problem than MNIST.",
    "fashion_mnist": "it knows ten kinds of clothes, photographed as in "
    "Fashion-MNIST.",
}
_CARD = """
# {name}

Classifies {dataset} images with {parameters:,} parameters: {clean} of the test
images are right without an attack. {kind}

## Use

    import tensorflow as tf
    model = tf.saved_model.load("saved_models/{name}/1")
    answers = model.signatures["certify"](image=images)

Images are float32, (n, 28, 28, 1), with pixels in [0, 1]. Beside `logits`,
`probabilities` and `label`, the signature `certify` answers `certified_radius`:
no image closer than that in the 2-norm has another label (on a GPU, if TF32 is
off). The directory is laid out for TensorFlow Serving; nothing of this project
is needed to use it.

Intended for research on robustness, and for teaching: as a subject of attacks,
a baseline, a test of serving. Not intended for decisions that matter; {wild}

## Training

Data: the {dataset} training images, 60 000, as TensorFlow Datasets has them,
without augmentation. The test images were used for the figures below and for
nothing else; parameters of the recipe were chosen on the last 10 000 training
images. {training[steps]} steps took {training[seconds]:.0f} s on {machine}.

    {command}

The same, and all that is told below:

    python -m trainers.zoo --models={name}

## Accuracy under attack

FGSM: {full[num_images]} test images. PGD, {pgd[steps]} steps from one random
start on the cross-entropy or on the difference of logits ratio (DLR): the first
{few[num_images]} of them. Measured on the SavedModel, pixels in [0, 1], true
labels; upper bounds of the accuracy under the best attack.

{attack_table}

## Certified accuracy

Share of images that are right and stay right, provably, under every change of
2-norm up to the radius. It holds for: {certified[holds_for]}.

{certified_table}

## Bounds

δ(A) is the largest logarithmic norm of DA over diagonal D with slopes of the
activation; the flow of the ODE stretches distances by at most exp(δT). The
Lipschitz bounds are for what is named, in the 2-norm and in real arithmetic.

{bounds_table}

## Limits

Accuracies under attack are measured, not proven: a better attack may do better.
Certificates are for the 2-norm and say little about changes of all pixels,
rotations or blur. One seed; another one gives other figures, see
docs/results.md. {limits}

This card was written by `python -m trainers.zoo` from results.json; TensorFlow
{versions[tensorflow]}, Keras {versions[keras]}.
"""


def card(results: dict[str, Any]) -> str:
    """Returns the card as Markdown.

    Args:
      results: the results.json of one model, see `trainers.zoo.build`.
    """
    recipe = results["recipe"]
    kind = results["name"].removeprefix(f"{recipe['dataset']}_")
    full, few = results["evaluations"]
    command = textwrap.wrap(
        training_command(results), 72, break_on_hyphens=False
    )
    text = _CARD.strip().format(
        **results,
        dataset=dataset_title(recipe["dataset"]),
        clean=_percent(results["clean_accuracy"]),
        kind=_KINDS[kind],
        wild=_WILD[recipe["dataset"]],
        command=" \\\n      ".join(command),
        full=full,
        few=few,
        pgd=few["attacks"]["pgd"]["settings"],
        attack_table=_curve_table(
            "ε in ℓ∞", _curves(full, "linf") | _curves(few, "linf")
        ),
        certified_table=_certified_table(results, few),
        bounds_table=_bounds_table(results),
        limits=_limits(kind, recipe),
    )
    blocks = [
        block if block.startswith(("#", "|", " ")) else _wrap(block)
        for block in text.split("\n\n")
    ]
    return "\n\n".join(blocks) + "\n"


def training_command(results: dict[str, Any]) -> str:
    """The command that trains this model alone."""
    recipe = results["recipe"]
    default = dataclasses.asdict(_RECIPES[results["recipe_of"]]())
    changed = {
        field: value
        for field, value in recipe.items()
        if value != default[field] and field != "dataset"
    }
    certified = results["recipe_of"] == "CertifiedRecipe"
    program = "certify" if certified else "train"
    words = [
        f"python -m trainers.{program} --dataset={recipe['dataset']}",
        f"--output=results/{results['name']}",
        *(f"--{field}={value}" for field, value in changed.items()),
    ]
    return " ".join(words)


def _wrap(text: str) -> str:
    return textwrap.fill(text, 80, break_on_hyphens=False)


def _certified_table(results: dict[str, Any], few: dict[str, Any]) -> str:
    images = f"first {few['num_images']} images"
    curves = {
        f"certified, {which}": {
            point["radius"]: point["accuracy"]
            for point in results[key]["certified"]
        }
        for which, key in (
            (f"{results['certified']['num_images']} images", "certified"),
            (images, "certified_few"),
        )
    }
    for title, attacked in _curves(few, "l2").items():
        curves[f"{title}, {images}"] = attacked
    return _curve_table("ℓ2 radius", curves)


def _bounds_table(results: dict[str, Any]) -> str:
    rows = []
    for layer in results["bounds"]["layers"]:
        if "norm" in layer:
            cells = ["", "", rounded_up(layer["norm"]), "the map"]
        else:
            cells = [
                rounded_down(layer["delta_lower"]),
                rounded_up(layer["delta_upper"]),
                rounded_up(layer["lipschitz_bound"]),
                layer["holds_for"],
            ]
        rows.append([layer["name"], *cells])
    product = rounded_up(results["bounds"]["lipschitz"])
    network = ["network, image to logits", "", "", product, "their product"]
    bounds = ("δ(A), from below", "δ(A), from above", "Lipschitz bound")
    return markdown_table(["layer", *bounds, "holds for"], [*rows, network])


def _limits(kind: str, recipe: dict[str, Any]) -> str:
    bound = "The Lipschitz bound is too large to certify much. "
    if kind == "certified":
        return "A finer grid is another network, which nobody has trained."
    return (bound if kind != "stable_network" else "") + (
        f"Euler's {recipe['num_steps']} steps are part of the network: with a "
        "finer grid its figures differ."
    )


def _curves(
    evaluation: dict[str, Any], norm: str
) -> dict[str, dict[float, float]]:
    """Accuracy by budget, under each attack in a norm, by its title."""
    return {
        curve.title: curve.accuracies
        for curve in curves(evaluation)
        if curve.norm == norm
    }


def _curve_table(corner: str, curves: dict[str, dict[float, float]]) -> str:
    """A row for each budget of any curve, and a column for each curve."""
    budgets = sorted({x for curve in curves.values() for x in curve})
    rows = [
        [f"{x:g}", *(_percent(curve.get(x)) for curve in curves.values())]
        for x in budgets
    ]
    return markdown_table([corner, *curves], rows)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"
