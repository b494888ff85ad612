"""Settings stay as they were given, in layers and in all that they hold."""

import copy

import keras
import numpy as np
import pytest

from stable_node_tf import (
    CustomActivation,
    DeepODELayer,
    Euler,
    LeakyTanh,
    LogNormConstraint,
    PiecewiseODELayer,
    SkewSymmetric,
    SmoothLeakyReLU,
    SpectralNormConstraint,
    StableODELayer,
    solvers,
)
from stable_node_tf.constraints.product_log_norm import ProductLogNormConstraint

STATES = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
LAYERS = {
    "free": StableODELayer,
    "bound": lambda: StableODELayer(delta_bar=0.0, discrete=True),
    "deep": lambda: DeepODELayer((5,), delta_bar=0.3, damping=0.5),
    "pieces": lambda: PiecewiseODELayer(StableODELayer(delta_bar=0.0), 2),
}
COMMON = {
    "delta_bar": -0.5,
    "terminal_time": -3.0,
    "dtype_policy": "float64",
    "dtype": "float64",
}
ONE_EQUATION = {
    **COMMON,
    "activation": LeakyTanh(1.0),
    "alpha": 1.0,
    "solver": "rk4",
    "kernel_initializer": "zeros",
    "bias_initializer": "ones",
}
SETTINGS = {
    "free": {**ONE_EQUATION, "discrete": True, "norm": "inf"},
    "bound": {**ONE_EQUATION, "discrete": False, "norm": "inf"},
    "deep": {**ONE_EQUATION, "damping": 9.0, "widths": (3, 3)},
    "pieces": {
        **COMMON,
        "num_pieces": 3,
        "layer": StableODELayer(),
        "pieces": (),
    },
}
WEIGHTS = {
    "free": ("kernel", "bias"),
    "bound": (
        "kernel",
        "bias",
        "certificate",
        "certificate_proposal",
        "total_perturbation",
    ),
    "deep": ("kernels", "biases", "certificate", "total_perturbation"),
    "pieces": (),
}


@pytest.fixture(scope="module", params=LAYERS)
def stages(request):
    """The kind of a layer, and it not built, built, and after `predict`."""
    layers = [LAYERS[request.param]() for _ in range(3)]
    layers[1].build((None, 4))
    model = keras.Sequential([keras.Input((4,)), layers[2]])
    model.predict(STATES, verbose=0)
    return request.param, layers


def refused(obj, name, value):
    before, config = copy.copy(vars(obj)), obj.get_config()
    with pytest.raises(AttributeError, match=rf"`{name}` of .*read-only"):
        setattr(obj, name, value)
    with pytest.raises(AttributeError):
        delattr(obj, name)
    assert vars(obj) == before
    assert obj.get_config() == config


def test_settings_of_layers(stages):
    kind, layers = stages
    for layer in layers:
        for name, value in SETTINGS[kind].items():
            refused(layer, name, value)
        for piece in getattr(layer, "pieces", ()):
            for name, value in SETTINGS["bound"].items():
                refused(piece, name, value)
    for layer in layers[1:]:
        for name in WEIGHTS[kind]:
            refused(layer, name, np.zeros((4, 4)))


def test_every_constructor_argument_is_in_the_table():
    for kind, make in LAYERS.items():
        own = set(make().get_config()) - {"name", "trainable", "dtype"}
        assert own <= set(SETTINGS[kind])


def test_methods_are_those_of_the_class(stages):
    _, layers = stages
    for layer in layers:
        for name in ("call", "build", "stability", "get_config"):
            with pytest.raises(AttributeError, match=f"`{name}` is a method"):
                setattr(layer, name, lambda *_: None)


def test_the_refusal_says_what_to_do(stages):
    _, layers = stages
    with pytest.raises(AttributeError) as refusal:
        layers[1].delta_bar = -0.5
    for word in ("get_config()", "set_weights", "stable_node_tf.stabilize"):
        assert word in str(refusal.value)
    assert f"layer {layers[1].name!r}" in str(refusal.value)


def test_a_changed_configuration_changes_no_layer(stages):
    """Not even a nested one."""
    kind, layers = stages
    before = copy.deepcopy(layers[0].get_config())
    config = layers[0].get_config()
    inner = config["layer"]["config"] if kind == "pieces" else config
    inner["terminal_time"] = 7.0
    inner["solver"]["config"]["num_steps"] = 3
    assert layers[0].get_config() == before
    changed = type(layers[0]).from_config(config)
    assert changed.terminal_time == 7.0


@keras.saving.register_keras_serializable(package="test_read_only_settings")
def identity(x):
    return 1.0 * x


def grids():
    for cls in (
        solvers.Euler,
        solvers.SSPRungeKutta3,
        solvers.RungeKutta4,
        solvers.KuttaThreeEighths,
        solvers.DormandPrince5,
    ):
        yield cls(3), ("num_steps", "checkpointed", "tableau", "num_stages")


@pytest.mark.parametrize(
    ("obj", "names"),
    [
        (LeakyTanh(0.1), ("alpha",)),
        (SmoothLeakyReLU(0.1), ("alpha",)),
        (CustomActivation(identity, 1.0), ("alpha", "function")),
        *grids(),
        (
            solvers.ImplicitMidpoint(3),
            ("num_steps", "checkpointed", "num_stages", "unrolls"),
        ),
        (
            solvers.PerSampleDormandPrince(),
            ("rtol", "atol", "max_num_steps"),
        ),
        (
            LogNormConstraint(0.0, 0.1),
            ("delta_bar", "alpha", "step", "norm"),
        ),
        (ProductLogNormConstraint(1.0, 0.1), ("bound", "alpha")),
        (SpectralNormConstraint(1.0), ("max_norm",)),
        (SkewSymmetric(1.0, 0), ("spectral_norm", "damping", "seed")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_settings_of_what_layers_hold(obj, names):
    for name in names:
        refused(obj, name, 0.5)
    with pytest.raises(AttributeError, match="`get_config` is a method"):
        obj.get_config = dict
    assert copy.deepcopy(obj).get_config() == obj.get_config()


def test_a_scheme_with_arguments_of_its_own():
    class Scheme(solvers.ExplicitRungeKutta):
        def __init__(self, tableau, num_steps):
            super().__init__(num_steps)
            self.tableau = tableau
            self.calls = 0

    scheme = Scheme(solvers.RungeKutta4.tableau, 3)
    assert scheme.num_stages == 4
    scheme.calls += 1
    assert scheme.calls == 1
    with pytest.raises(AttributeError, match="`tableau` of Scheme"):
        scheme.tableau = Euler.tableau
