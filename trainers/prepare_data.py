"""Prepares MNIST and FashionMNIST for `tfds.load`.

    python -m trainers.prepare_data
    python -m trainers.prepare_data --datasets=mnist --idx_dir=~/idx

What is there already is verified and left alone.
"""

import sys
from collections.abc import Sequence

from absl import app, flags, logging

from trainers import command_line
from trainers.data import datasets

_DATASETS = flags.DEFINE_enum(
    "datasets", "both", [*datasets.NAMES, "both"], "What to prepare."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Where TFDS keeps its data sets; by default $TFDS_DATA_DIR, else "
    "~/tensorflow_datasets.",
    allow_override=True,
)
_IDX_DIR = flags.DEFINE_string(
    "idx_dir",
    None,
    "A directory with the four IDX files of the data set, gzipped or not, to "
    "use instead of a download.",
)


@flags.multi_flags_validator(
    ["datasets", "idx_dir"],
    "--idx_dir holds one data set: --datasets must name it.",
)
def _one_data_set(values: dict[str, str | None]) -> bool:
    return values["idx_dir"] is None or values["datasets"] != "both"


def main(argv: Sequence[str]) -> None:
    """Prepares what the flags ask for, and verifies it."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    chosen = _DATASETS.value
    for name in datasets.NAMES if chosen == "both" else [chosen]:
        try:
            if datasets.is_prepared(name, data_dir=_DATA_DIR.value):
                datasets.load(name, data_dir=_DATA_DIR.value)
                print(f"{name}: already prepared, and verified")
            else:
                datasets.prepare(
                    name, data_dir=_DATA_DIR.value, idx_dir=_IDX_DIR.value
                )
        except (OSError, RuntimeError, ValueError) as error:
            sys.exit(f"error: {error}")


def run() -> None:
    """Entry point of the command line."""
    command_line.run(main)


if __name__ == "__main__":
    run()
