"""How tests run the programs."""

from absl import flags
from absl.testing import flagsaver


def run(program, **values):
    """Runs the main function of a program in this process."""
    name = program.__name__
    values = [f"--{flag}={value}" for flag, value in values.items()]
    with flagsaver.flagsaver():
        flags.FLAGS([name, *values])
        program.main([name])
