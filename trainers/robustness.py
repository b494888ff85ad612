"""Attacks trained models alike: what `compare` and `baselines` share.

FGSM is run on all test images; PGD on the first few, once for each of its
losses, of which the stronger one counts for each image.
"""

import dataclasses
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from stable_node_tf import attacks, nearest_stable
from stable_node_tf.evaluation import AccuracyCurve
from stable_node_tf.files import write_json
from stable_node_tf.stability.lipschitz import (
    network_lipschitz,
    spectral_norm_bound,
)
from trainers import effects, outcomes, report
from trainers.data.datasets import Split
from trainers.measurement import EPSILONS, environment, package_digest, points
from trainers.recipe import Recipe
from trainers.training import Trained


@dataclasses.dataclass(frozen=True)
class Bench:
    """How models are attacked.

    Attributes:
      test: the images.
      pgd: the runs of PGD, of which the stronger one counts.
      pgd_epsilons: budgets of PGD.
      pgd_images: the first so many images are attacked by PGD.
      directory: where the outcomes are kept, in the folder attacks.
    """

    test: Split
    pgd: attacks.WorstCase
    pgd_epsilons: Sequence[float]
    pgd_images: int
    directory: Path

    def attack(
        self, name: str, model: keras.Model, recipe: Recipe
    ) -> dict[str, attacks.AttackResult]:
        """Attacks a model; what is known already is taken as it is.

        Returns:
          What FGSM leaves, and what PGD leaves, under "fgsm" and "pgd".
        """
        weights = hashlib.sha256()
        for weight in model.get_weights():
            weights.update(weight.tobytes())
        made_from = {
            "recipe": dataclasses.asdict(recipe),
            "weights": weights.hexdigest(),
            "package": package_digest(),
        }

        def run(
            key: str,
            attack: attacks.Attack,
            split: Split,
            epsilons: Sequence[float],
        ) -> attacks.AttackResult:
            title = f"{name}: {effects.ATTACKS[key]}"
            start = time.perf_counter()
            outcome = outcomes.kept(
                self.directory / "attacks" / f"{name}_{key}.npz",
                made_from
                | {
                    "images": split.fingerprint(),
                    "settings": outcomes.settings(attack, epsilons),
                },
                lambda: outcomes.attacked(
                    attack, model, split, epsilons, title
                ),
            )
            seconds = time.perf_counter() - start
            left = dict(zip(epsilons, outcome.accuracies, strict=True))
            if effects.QUOTED in left:
                print(
                    f"{title} leaves {left[effects.QUOTED]:.1%} at "
                    f"ε = {effects.QUOTED:g} ({seconds:.0f} s)"
                )
            return outcome

        few = self.test.take(slice(self.pgd_images))
        return {
            "fgsm": run("fgsm", attacks.FGSM(), self.test, EPSILONS),
            "pgd": run("pgd", self.pgd, few, self.pgd_epsilons),
        }

    def report(
        self,
        preset: str,
        recipe: Recipe,
        config: Mapping[str, Any],
        models: list[dict[str, Any]],
        **more: Any,
    ) -> Any:
        """Writes results.json and results.csv, and returns the former."""
        results: Any = {
            "dataset": recipe.dataset,
            "preset": preset,
            "seed": recipe.seed,
            "config": config,
            "attack": {
                "pgd_images": min(self.pgd_images, len(self.test.labels)),
                **{
                    attack.name: outcomes.settings(attack, self.pgd_epsilons)
                    for attack in self.pgd.attacks
                },
            },
            "models": models,
            **more,
            **environment(),
        }
        write_json(results, self.directory / "results.json")
        report.write_csv(results, self.directory / "results.csv")
        return results


def describe(
    name: str,
    trained: Trained,
    delta_bar: float,
    withstood: Mapping[str, attacks.AttackResult],
) -> dict[str, Any]:
    """Returns what `results.json` says of a model.

    Args:
      name: the name of the model.
      trained: the model, and what it took to train it.
      delta_bar: the bound that the distance to a stable matrix is told for.
      withstood: what `Bench.attack` returned.
    """
    ode = trained.model.get_layer("ode")
    stability = ode.stability()
    encoder, readout = (
        spectral_norm_bound(
            keras.ops.convert_to_numpy(trained.model.get_layer(layer).kernel)
        )
        for layer in ("encoder", "logits")
    )
    kernel = keras.ops.convert_to_numpy(ode.kernel)
    fgsm, pgd = (
        AccuracyCurve.of(withstood[attack]) for attack in ("fgsm", "pgd")
    )
    return {
        "name": name,
        "delta_lower": stability.delta_lower,
        "delta_upper": stability.delta_upper,
        "delta_bar": stability.delta_bar,
        "lipschitz_bound": network_lipschitz(
            encoder, stability.lipschitz_bound, readout
        ),
        "lipschitz_bound_holds_for": (
            f"network from image to logits, ODE as {stability.holds_for}"
        ),
        "distance_to_stable": nearest_stable(
            kernel, delta_bar, ode.alpha
        ).distance,
        "encoder_norm": encoder,
        "readout_norm": readout,
        "training_seconds": trained.seconds,
        "steps": trained.steps,
        "clean_accuracy": fgsm.clean_accuracy,
        "zero_gradient_share": fgsm.zero_gradient_share,
        "fgsm": points(fgsm),
        "pgd": points(pgd),
    }
