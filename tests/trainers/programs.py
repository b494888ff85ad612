"""How tests run the programs, and evaluations that take seconds."""

from stable_node_tf import Euler, ode_classifier

SMALL = {
    "epsilons": "0,0.1,0.3",
    "epsilons_l2": "0,1",
    "pgd_steps": 10,
    "queries": 25,
    "num_images": 30,
    "jit_compile": False,
}


def run(program, *words, **values):
    """Runs a program in this process."""
    program.main([*words, *(f"--{name}={v}" for name, v in values.items())])


def small_model(seed=0):
    """Two steps of Euler: quick to trace."""
    return ode_classifier(width=8, solver=Euler(2), seed=seed)
