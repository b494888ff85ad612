"""Prepares MNIST and Fashion-MNIST for `tfds.load`.

    python -m trainers.prepare_data
    python -m trainers.prepare_data --datasets=mnist --idx_dir=~/idx

What is there already is verified and left alone.
"""

import dataclasses

from trainers import command_line
from trainers.data import tfds_sets
from trainers.settings import setting


@dataclasses.dataclass(frozen=True)
class Options(command_line.DataOptions):
    """What is prepared, and from what."""

    datasets: str = setting(
        "both", "What to prepare.", choices=(*tfds_sets.NAMES, "both")
    )
    idx_dir: str | None = setting(
        None,
        "A directory with the four IDX files of the data set, gzipped or not, "
        "to use instead of a download.",
    )


@command_line.program
def main(options: Options) -> None:
    """Prepares what the flags ask for, and verifies it."""
    both = options.datasets == "both"
    if options.idx_dir is not None and both:
        raise ValueError(
            "--idx_dir holds one data set: --datasets must name it."
        )
    for name in tfds_sets.NAMES if both else (options.datasets,):
        if tfds_sets.is_prepared(name, data_dir=options.data_dir):
            tfds_sets.read(name, options.data_dir)
            print(f"{name}: already prepared, and verified")
        else:
            tfds_sets.prepare(
                name, data_dir=options.data_dir, idx_dir=options.idx_dir
            )


if __name__ == "__main__":
    main()
