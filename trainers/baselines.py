"""Trains the methods of others in the same harness as ours, and attacks all.

    python -m trainers.baselines --dataset=mnist --seed=0

Same architecture, initial draw, schedule and number of steps for all. FGSM is
run on all test images, PGD on the first --pgd_images of them, on two losses, of
which the stronger counts for each image. Everything goes
to results/DATASET/baselines/seedN: checkpoints, outcomes of attacks,
models/NAME as `trainers.train` writes them, for `trainers.evaluate`,
results.json and results.csv. Interrupted, the same command carries on; what is
trained or attacked already is taken as it is. Several seeds are summed up by
`python -m trainers.summarize results/mnist/baselines/seed*/results.json`.

With --validation, the last sixth of the training images is held out of the
training, and attacked; so are strengths chosen: --methods=gaussian_noise
--strength=0.1.
"""

import dataclasses

import keras

from trainers import command_line, outcomes, robustness, training
from trainers.baseline_recipe import BaselineRecipe, baselines
from trainers.data import datasets
from trainers.settings import setting
from trainers.summarize import summary
from trainers.variants import PresetOptions


@dataclasses.dataclass(frozen=True)
class Options(PresetOptions):
    """Which models are trained, and how they are attacked."""

    methods: tuple[str, ...] = setting(
        (), "Which of the models; all by default."
    )
    strength: float | None = setting(
        None, "Strength of the methods named, instead of the default."
    )
    pgd_images: int = setting(
        1000, "The first so many images are attacked by PGD.", least=1
    )
    pgd_epsilons: tuple[float, ...] = setting(
        (0.05, 0.1), "Budgets of PGD, ℓ∞.", least=0
    )
    validation: bool = setting(
        False, "Hold out the last sixth of the training images."
    )


@command_line.program
def main(options: Options) -> None:
    """Trains and attacks every model, and reports on all."""
    recipes = _recipes(options)
    data = datasets.load(
        options.dataset,
        data_dir=options.data_dir,
        validation=options.validation,
    )
    directory = options.directory / "baselines"
    directory /= "validation" if options.validation else "."
    directory /= f"seed{options.seed}"
    test = data.validation if options.validation else data.test
    bench = robustness.Bench(
        test,
        outcomes.strongest_pgd(options.seed),
        options.pgd_epsilons,
        options.pgd_images,
        directory,
    )
    summaries = []
    for name, recipe in recipes.items():
        print(f"\nTraining {name}")
        trained = training.train(
            recipe, data.train, directory / "checkpoints", name
        )
        model = trained.model
        # What is saved predicts; how it was trained is of no use there.
        plain = keras.Model(model.input, model.output, name=name)
        training.save(plain, directory / "models" / name)
        withstood = bench.attack(name, model, recipe)
        summaries.append(
            robustness.describe(name, trained, 0.0, withstood)
            | {"recipe": dataclasses.asdict(recipe)}
        )
    results = bench.report(
        "baselines",
        next(iter(recipes.values())),
        {name: dataclasses.asdict(r) for name, r in recipes.items()},
        summaries,
    )
    print(summary([results]))
    print(f"Written to {directory}: results.json, results.csv")


def _recipes(options: Options) -> dict[str, BaselineRecipe]:
    """Returns the recipes that the options choose, by name."""
    known = baselines(options.recipe("default"))
    if unknown := set(options.methods) - known.keys():
        raise ValueError(
            f"`methods` must be out of {', '.join(known)}. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    chosen = {name: known[name] for name in options.methods or known}
    strength = options.strength
    if strength is None:
        return chosen
    return {
        f"{name}_{strength:g}": dataclasses.replace(recipe, strength=strength)
        for name, recipe in chosen.items()
    }


if __name__ == "__main__":
    main()
