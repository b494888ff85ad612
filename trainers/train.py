"""Trains one neural ODE classifier and exports it.

    python -m trainers.train --dataset=mnist --delta_bar=0 --output=my_model

writes my_model/model.keras, my_model/1 (a SavedModel) and my_model/train.json.
Interrupted, the same command carries on from the last epoch. Choose parameters
with --validation, which holds the last sixth of the training images out of the
training and reports on them; the test images are never touched here. With
--strategy it trains on several devices or machines, see docs/training.md.
"""

import dataclasses
from pathlib import Path

from stable_node_tf.files import write_json
from trainers import command_line, distribution, training
from trainers.data import datasets
from trainers.recipe import Recipe
from trainers.settings import setting


@dataclasses.dataclass(frozen=True)
class Options(command_line.DataOptions, command_line.StrategyOptions):
    """What a training is told besides the recipe."""

    output: str = setting(dataclasses.MISSING, "Directory to write to.")
    validation: bool = setting(
        False, "Hold out the last sixth of the training images."
    )
    tensorboard: bool = setting(
        False, "Write summaries for TensorBoard below --output."
    )


@command_line.program
def main(recipe: Recipe, options: Options) -> None:
    """Trains, saves and exports one model."""
    strategy = distribution.strategy(options.strategy)
    data = datasets.load(
        recipe.dataset,
        data_dir=options.data_dir,
        validation=options.validation,
    )
    output = Path(options.output)
    trained = training.train(
        recipe,
        data.train,
        output / "checkpoints",
        "validated" if options.validation else "model",
        data.validation if options.validation else None,
        strategy=strategy,
        tensorboard=options.tensorboard,
    )
    if not distribution.is_chief(strategy):
        return
    version = training.save(trained.model, output)
    stability = trained.model.get_layer("ode").stability()._asdict()
    summary = {
        "recipe": dataclasses.asdict(recipe),
        "training_images": len(data.train.labels),
        "class_names": data.class_names,
        "columns": data.columns,
        "stability": stability,
        "training_seconds": trained.seconds,
        "steps": trained.steps,
    }
    write_json(summary, output / "train.json")
    for quantity, value in stability.items():
        print(f"{quantity}: {value}")
    print(f"Wrote {output / 'model.keras'}, {version} and train.json")


if __name__ == "__main__":
    main()
