"""Trains one neural ODE classifier and exports it.

    python -m trainers.train --dataset=mnist --delta_bar=0 --output=my_model

writes my_model/model.keras, my_model/1 (a SavedModel) and my_model/train.json.
Interrupted, the same command carries on from the last epoch. Choose parameters
with --validation, which trains without the last 10 000 training images and
reports on them; the test images are never touched here. With --strategy it
trains on several devices or machines, see docs/training.md.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging

from stable_node_tf import solvers
from trainers import command_line, distribution, report, training
from trainers.data import datasets
from trainers.recipe import ENCODER_INITIALIZERS, Recipe

_DEFAULT = Recipe()
_FIELDS = [field.name for field in dataclasses.fields(Recipe)]

flags.DEFINE_enum(
    "dataset",
    _DEFAULT.dataset,
    datasets.NAMES,
    "Data set to train on.",
    allow_override=True,
)
flags.DEFINE_integer("width", _DEFAULT.width, "Dimension of the ODE.", 1)
flags.DEFINE_enum(
    "activation",
    _DEFAULT.activation,
    ["smooth_leaky_relu", "leaky_tanh"],
    "Activation of the ODE.",
)
flags.DEFINE_float("alpha", _DEFAULT.alpha, "Its smallest slope, in (0, 1].")
flags.DEFINE_enum(
    "solver",
    _DEFAULT.solver,
    solvers.NAMES,
    "Solver of the ODE.",
)
flags.DEFINE_integer(
    "num_steps", _DEFAULT.num_steps, "Steps of solvers on a fixed grid.", 1
)
flags.DEFINE_enum(
    "encoder_initializer",
    _DEFAULT.encoder_initializer,
    ENCODER_INITIALIZERS,
    "What the encoder starts from.",
)
flags.DEFINE_float(
    "rotation",
    _DEFAULT.rotation,
    "Spectral norm of a skew-symmetric initial A; 0: Glorot's initial A.",
    0.0,
)
flags.DEFINE_float(
    "delta_bar",
    _DEFAULT.delta_bar,
    "Bound on the worst-case logarithmic norm of A; none by default.",
)
flags.DEFINE_float(
    "encoder_max_norm",
    _DEFAULT.encoder_max_norm,
    "Bound on the spectral norm of the encoder; none by default.",
)
flags.DEFINE_float(
    "readout_max_norm",
    _DEFAULT.readout_max_norm,
    "Bound on the spectral norm of the read-out; none by default.",
)
flags.DEFINE_float(
    "scale",
    _DEFAULT.scale,
    "What the loss multiplies margins by; 1 in the plain cross-entropy.",
)
flags.DEFINE_float(
    "offset",
    _DEFAULT.offset,
    "Margin that the loss asks for; 0 in the plain cross-entropy.",
    0.0,
)
flags.DEFINE_integer(
    "epochs",
    None,  # as of trainers.compare, which may be imported beside
    f"Passes over the images; by default {_DEFAULT.epochs}.",
    1,
    allow_override=True,
)
flags.DEFINE_integer("batch_size", _DEFAULT.batch_size, "Images a step.", 1)
flags.DEFINE_float(
    "learning_rate", _DEFAULT.learning_rate, "Of Adam, at the start."
)
flags.DEFINE_integer(
    "seed",
    _DEFAULT.seed,
    "Of initial weights and image order.",
    0,
    allow_override=True,
)
flags.DEFINE_bool(
    "jit_compile", _DEFAULT.jit_compile, "Compile the train step with XLA."
)
_OUTPUT = flags.DEFINE_string("output", None, "Directory to write to.")
_VALIDATION = flags.DEFINE_bool(
    "validation", False, "Hold out the last 10 000 training images."
)
_STRATEGY = command_line.define_strategy(distribution.STRATEGIES)
_TENSORBOARD = flags.DEFINE_bool(
    "tensorboard", False, "Write summaries for TensorBoard below --output."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Directory of the TFDS data sets.", allow_override=True
)


def main(argv: Sequence[str]) -> None:
    """Trains, saves and exports one model."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    try:
        values = {name: flags.FLAGS[name].value for name in _FIELDS}
        recipe = Recipe(**{n: v for n, v in values.items() if v is not None})
        strategy = distribution.strategy(_STRATEGY.value)
        data = datasets.load(
            recipe.dataset,
            data_dir=_DATA_DIR.value,
            validation=_VALIDATION.value,
        )
        output = Path(_OUTPUT.value)
        trained = training.train(
            recipe,
            data.train,
            output / "checkpoints",
            "validated" if _VALIDATION.value else "model",
            data.validation if _VALIDATION.value else None,
            strategy=strategy,
            tensorboard=_TENSORBOARD.value,
        )
        if not distribution.is_chief(strategy):
            return
        model = trained.model
        version = training.save(model, output)
        stability = model.get_layer("ode").stability()._asdict()
        summary = {
            "recipe": dataclasses.asdict(recipe),
            "training_images": len(data.train.labels),
            "stability": stability,
            "training_seconds": trained.seconds,
            "steps": trained.steps,
        }
        report.write_json(summary, output / "train.json")
    except command_line.REFUSALS as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(
            "\nInterrupted. The same command carries on after the last epoch.",
            file=sys.stderr,
        )
        sys.exit(130)
    for quantity, value in stability.items():
        print(f"{quantity}: {value}")
    print(f"Wrote {output / 'model.keras'}, {version} and train.json")


def run() -> None:
    """Entry point of the command line."""
    flags.mark_flag_as_required("output")
    command_line.run(main)


if __name__ == "__main__":
    run()
