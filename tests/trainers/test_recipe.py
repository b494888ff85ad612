import dataclasses

import keras
import numpy as np
import pytest

from stable_node_tf import Euler, LeakyTanh, RungeKutta4
from trainers.recipe import Recipe

MNIST = (28, 28, 1), 10
CHANGED = {
    "dataset": "fashion_mnist",
    "width": 9,
    "activation": "leaky_tanh",
    "alpha": 0.2,
    "solver": "rk4",
    "num_steps": 3,
    "encoder_initializer": "zeros",
    "initial_skew_norm": 1.0,
    "delta_bar": 0.0,
    "encoder_max_norm": 1.0,
    "readout_max_norm": 1.0,
    "loss_scale": 2.0,
    "loss_offset": 0.5,
    "epochs": 1,
    "batch_size": 7,
    "learning_rate": 1e-4,
    "seed": 5,
    "jit_compile": True,
}


def test_fingerprints_are_stable_and_tell_recipes_apart():
    assert set(CHANGED) == {f.name for f in dataclasses.fields(Recipe)}
    recipes = [Recipe()]
    recipes += [Recipe(**{name: value}) for name, value in CHANGED.items()]
    fingerprints = {recipe.fingerprint() for recipe in recipes}
    assert len(fingerprints) == len(recipes)
    assert Recipe().fingerprint() == Recipe(width=64).fingerprint()
    assert all(len(text) == 8 for text in fingerprints)


def test_fingerprints_survive_a_new_field():
    @dataclasses.dataclass(frozen=True)
    class Extended(Recipe):
        novelty: float = 0.0

    assert Extended(width=9).fingerprint() == Recipe(width=9).fingerprint()
    assert Extended(novelty=1.0).fingerprint() != Recipe().fingerprint()
    written = dataclasses.asdict(Recipe(width=9))
    assert Extended(width=9).is_written(written)
    assert not Extended(width=9, novelty=1.0).is_written(written)
    assert not Extended().is_written(written)


def test_the_default_loss_is_the_cross_entropy():
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((5, 10)).astype(np.float32)
    labels = generator.integers(10, size=5)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    np.testing.assert_array_equal(
        Recipe().loss()(labels, logits), plain(labels, logits)
    )
    loss = Recipe(loss_scale=2.0, loss_offset=0.5).loss()
    assert (loss.scale, loss.offset) == (2.0, 0.5)


def test_builds_what_it_says():
    model = Recipe(
        **CHANGED | {"solver": "rk4", "width": 6, "readout_max_norm": 0.3}
    ).build("it", *MNIST)
    layer = model.get_layer("ode")
    assert model.name == "it"
    assert isinstance(layer.solver, RungeKutta4)
    assert layer.solver.num_steps == 3
    assert isinstance(layer.activation, LeakyTanh)
    assert (layer.alpha, layer.delta_bar) == (0.2, 0.0)
    readout = model.get_layer("logits").kernel.numpy().astype("float64")
    assert np.linalg.norm(readout, 2) <= 0.3
    assert not np.any(model.get_layer("encoder").kernel)


def test_initial_skew_norm_is_the_norm_of_a_skew_symmetric_start():
    kernel = (
        Recipe(width=6, initial_skew_norm=2.0)
        .build("it", *MNIST)
        .get_layer("ode")
        .kernel
    )
    kernel = kernel.numpy().astype("float64")
    np.testing.assert_array_equal(kernel, -kernel.T)
    assert np.linalg.norm(kernel, 2) == pytest.approx(2.0, rel=1e-5)


def test_default_solver_is_the_one_of_the_literature():
    solver = Recipe(width=4).build("it", *MNIST).get_layer("ode").solver
    assert isinstance(solver, Euler)
    assert solver.num_steps == 20


def test_adaptive_solver_takes_no_number_of_steps():
    model = Recipe(width=4, solver="dormand_prince").build("it", *MNIST)
    assert "DormandPrince" in type(model.get_layer("ode").solver).__name__


@pytest.mark.parametrize(
    "name, value",
    [
        ("dataset", 1),
        ("activation", "relu"),
        ("solver", "leapfrog"),
        ("encoder_initializer", "ones"),
        ("alpha", 0.0),
        ("alpha", 1.5),
        ("alpha", "0.1"),
        ("width", 0),
        ("width", 2.5),
        ("width", "8"),
        ("num_steps", -1),
        ("epochs", 0),
        ("batch_size", 0),
        ("seed", -1),
        ("seed", 0.5),
        ("learning_rate", 0.0),
        ("learning_rate", None),
        ("learning_rate", float("nan")),
        ("initial_skew_norm", -0.1),
        ("delta_bar", float("inf")),
        ("delta_bar", "0"),
        ("encoder_max_norm", 0.0),
        ("readout_max_norm", -1.0),
        ("loss_scale", 0.0),
        ("loss_scale", None),
        ("loss_offset", -0.5),
        ("loss_offset", "0"),
    ],
)
def test_bad_values_are_refused_by_name(name, value):
    with pytest.raises((TypeError, ValueError), match=f"{name}={value!r}"):
        Recipe(**{name: value})
