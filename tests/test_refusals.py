"""Whatever is given, it is taken, or refused by one message that names it."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import stable_node_tf as sn
from stable_node_tf import solvers

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**400, -(10**400), 2**63]),
    st.floats(),
    st.floats(width=16).map(np.float16),
    st.text(max_size=5),
    st.sampled_from(
        ["euler", "relu", b"", [], [1.0], {}, (), 1j, object(), np.ones(2)]
    ),
    st.dictionaries(
        st.sampled_from(["class_name", "config", "module", "registered_name"]),
        st.one_of(st.none(), st.text(max_size=3), st.just({})),
        max_size=3,
    ),
)

ARGUMENTS = {
    sn.StableODELayer: [
        "activation",
        "delta_bar",
        "terminal_time",
        "solver",
        "kernel_initializer",
        "bias_initializer",
    ],
    sn.DeepODELayer: ["widths", "delta_bar", "damping", "solver"],
    sn.PiecewiseODELayer: ["layer"],
    sn.LogNormConstraint: ["delta_bar", "alpha", "step"],
    sn.SpectralNormConstraint: ["max_norm"],
    sn.MarginCrossentropy: ["scale", "offset"],
    sn.SkewSymmetric: ["spectral_norm", "seed", "damping"],
    sn.SmoothLeakyReLU: ["alpha"],
    sn.LeakyTanh: ["alpha"],
    solvers.Euler: ["num_steps"],
    solvers.RungeKutta4: ["num_steps"],
    solvers.ImplicitMidpoint: ["num_steps"],
    solvers.PerSampleDormandPrince: ["rtol", "atol", "max_num_steps"],
}
VALID = {
    sn.DeepODELayer: {"widths": (3,)},
    sn.PiecewiseODELayer: {"layer": sn.StableODELayer()},
    sn.LogNormConstraint: {"delta_bar": 0.0, "alpha": 0.1},
    sn.SpectralNormConstraint: {"max_norm": 1.0},
    sn.MarginCrossentropy: {"scale": 1.0},
    sn.SkewSymmetric: {"spectral_norm": 1.0},
}
CASES = [(cls, name) for cls, names in ARGUMENTS.items() for name in names]


def taken_or_refused(function, name):
    """Calls; an error must be one of two, and say which argument it is."""
    try:
        function()
    except (TypeError, ValueError) as error:
        message = str(error)
        # Keras words these two itself, and wraps errors of `from_config`.
        if "initializer" not in name:
            assert name in message, message
        assert message and "eceived" in message or "initializer" in name


@pytest.mark.parametrize(
    "cls, name", CASES, ids=[f"{c.__name__}-{n}" for c, n in CASES]
)
@settings(max_examples=25, deadline=None)
@given(value=ODD)
def test_constructors(cls, name, value):
    arguments = VALID.get(cls, {}) | {name: value}
    taken_or_refused(lambda: cls(**arguments), name)


@pytest.mark.parametrize(
    "cls, name", CASES, ids=[f"{c.__name__}-{n}" for c, n in CASES]
)
@settings(max_examples=10, deadline=None)
@given(value=ODD)
def test_configs(cls, name, value):
    made = cls(**VALID.get(cls, {}))
    if not hasattr(made, "get_config"):
        pytest.skip("solvers are described by solvers.serialize")
    config = made.get_config() | {name: value}
    taken_or_refused(lambda: cls.from_config(config), name)


@pytest.mark.parametrize(
    "function, name, rest",
    [
        (sn.worst_case_log_norm, "matrix", {"alpha": 0.5}),
        (sn.worst_case_log_norm, "alpha", {"matrix": np.eye(2)}),
        (sn.nearest_stable, "matrix", {"delta_bar": 0.0, "alpha": 0.5}),
        (sn.nearest_stable, "delta_bar", {"matrix": np.eye(2), "alpha": 0.5}),
        (sn.nearest_stable, "alpha", {"matrix": np.eye(2), "delta_bar": 0.0}),
    ],
)
@settings(max_examples=25, deadline=None)
@given(value=ODD)
def test_functions(function, name, rest, value):
    if name == "alpha" and isinstance(value, float):
        assume(not 0.0 < value < 1e-6)  # too near 0 for eigenvalues
    taken_or_refused(lambda: function(**rest, **{name: value}), name)


def test_describes_no_python_objects():
    """Loading a config imports and runs nothing that it names."""
    config = sn.StableODELayer(name="ode").get_config()
    for payload in (
        {"class_name": "system", "module": "os", "config": {"command": "id"}},
        {"class_name": "function", "module": "builtins", "config": "eval"},
        {
            "class_name": "__lambda__",
            "module": "builtins",
            "registered_name": None,
            "config": {"value": "4wAAAAA="},
        },
    ):
        for field in ("activation", "solver", "kernel_initializer"):
            with pytest.raises((TypeError, ValueError)):
                sn.StableODELayer.from_config(config | {field: payload})
