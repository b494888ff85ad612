"""How tests run the programs, and evaluations that take seconds."""

from absl import flags
from absl.testing import flagsaver

from stable_node_tf import Euler, ode_classifier

SMALL = {
    "epsilons": "0,0.1,0.3",
    "epsilons_l2": "0,1",
    "pgd_steps": 10,
    "queries": 25,
    "num_images": 30,
    "jit_compile": False,
}


def run(program, **values):
    """Runs the main function of a program in this process."""
    name = program.__name__
    values = [f"--{flag}={value}" for flag, value in values.items()]
    with flagsaver.flagsaver():
        flags.FLAGS([name, *values])
        program.main([name])


def small_model(seed=0):
    """Two steps of Euler: quick to trace."""
    return ode_classifier(width=8, solver=Euler(2), seed=seed)
