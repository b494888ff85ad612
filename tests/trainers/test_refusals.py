"""Odd flags, files and directories get one clear line, and no traceback."""

import gzip
import io
import struct
import zipfile

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stable_node_tf import Euler, ode_classifier
from trainers import measurement, train
from trainers.data import datasets, sources
from trainers.recipe import Recipe

FLAGS = (
    *("width", "activation", "alpha", "solver", "num_steps"),
    *(
        "initial_skew_norm",
        "delta_bar",
        "encoder_max_norm",
        "readout_max_norm",
        "epochs",
    ),
    *("batch_size", "learning_rate", "seed", "jit_compile", "dataset"),
    *("validation", "data_dir", "strategy", "tensorboard"),
)
TEXTS = st.one_of(
    st.sampled_from(
        [
            *(
                "",
                "0",
                "-1",
                "1",
                "1.5",
                "nan",
                "inf",
                "-inf",
                "1e400",
                "1e-400",
            ),
            *(
                "9" * 400,
                "true",
                "none",
                "None",
                "0x10",
                "1,2",
                "euler",
                "mnist",
            ),
            *("mirrored", "multi_worker", "/dev/null/x", "\0", "é", "--", "-"),
        ]
    ),
    st.text(max_size=4),
)


@pytest.fixture
def no_data(monkeypatch):
    def load(*_, **__):
        raise RuntimeError("the flags were taken, and there are no data")

    monkeypatch.setattr(datasets, "load", load)
    monkeypatch.delenv("TF_CONFIG", raising=False)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(values=st.dictionaries(st.sampled_from(FLAGS), TEXTS, max_size=3))
def test_odd_flags_are_taken_or_refused(no_data, values):
    arguments = [f"--{name}={value}" for name, value in values.items()]
    with pytest.raises(SystemExit) as end:
        train.main(["--output=nowhere", *arguments])
    message = end.value.code
    assert message.startswith("error: ")
    first, _, rest = message.partition("\n")
    assert rest in ("", "--help lists the flags.")
    assert not rest or any(name in first for name in values)


@example(name="jit_compile", value=1j)
@example(name="jit_compile", value=1)
@example(name="solver", value=Euler())
@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from([field for field in Recipe.__annotations__]),
    value=st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 2),
        st.sampled_from([10**400, 1j, b"", [], {}, object()]),
        st.floats(),
        st.text(max_size=3),
    ),
)
def test_odd_fields_of_a_recipe_are_taken_or_refused(name, value):
    try:
        recipe = Recipe(**{name: value})
    except (TypeError, ValueError) as error:
        assert name in str(error) and "eceived" in str(error), error
    else:
        assert len(recipe.fingerprint()) == 8


def idx(shape, size):
    header = struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape)
    return header + bytes(size)


@settings(max_examples=60, deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=40),
        st.builds(
            idx,
            st.lists(st.integers(0, 2**32 - 1), min_size=0, max_size=4),
            st.integers(0, 40),
        ),
    ),
    packed=st.sampled_from(["plain", "gzip", "torn", "not gzip"]),
)
def test_odd_idx_files_are_named(tmp_path_factory, content, packed):
    directory = tmp_path_factory.mktemp("idx")
    if packed == "gzip":
        content = gzip.compress(content)
    elif packed == "torn":
        content = gzip.compress(content + bytes(range(200)))[:-9]
    suffix = "" if packed == "plain" else ".gz"
    path = directory / f"{sources.FILES[0]}{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError) as refusal:
        sources.unpack("mnist", directory, directory)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The bytes of a good .keras file."""
    path = tmp_path_factory.mktemp("model") / "model.keras"
    ode_classifier(width=4).save(path)
    return path.read_bytes()


def rezipped(saved, name, content):
    """A .keras file one of whose members is something else, or missing."""
    changed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved)) as old,
        zipfile.ZipFile(changed, "w") as new,
    ):
        for member in old.namelist():
            if member != name:
                new.writestr(member, old.read(member))
            elif content is not None:
                new.writestr(member, content)
    return changed.getvalue()


@settings(max_examples=15, deadline=None)
@given(draw=st.data())
def test_odd_keras_files_are_named(tmp_path_factory, saved, draw):
    name = draw.draw(st.sampled_from(["config.json", "model.weights.h5"]))
    content = draw.draw(
        st.one_of(
            st.none(),
            st.binary(max_size=30),
            st.sampled_from(
                [
                    b"{}",
                    b"null",
                    b"[1]",
                    b'{"class_name": "Functional"}',
                    b'{"class_name": "system", "module": "os", "config": {}}',
                ]
            ),
        )
    )
    cut = draw.draw(st.integers(0, 2000))
    path = tmp_path_factory.mktemp("odd") / "odd.keras"
    broken = rezipped(saved, name, content) if cut < 1500 else saved[:cut]
    path.write_bytes(broken)
    with pytest.raises(ValueError) as refusal:
        measurement.load_model(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@settings(max_examples=15, deadline=None)
@given(content=st.binary(max_size=60), folder=st.sampled_from(["", "1", "x"]))
def test_odd_saved_models_are_named(tmp_path_factory, content, folder):
    directory = tmp_path_factory.mktemp("saved_model")
    (directory / folder).mkdir(exist_ok=True)
    (directory / folder / "saved_model.pb").write_bytes(content)
    with pytest.raises((FileNotFoundError, ValueError)) as refusal:
        measurement.load_model(directory)
    assert str(directory) in str(refusal.value)
    assert "\n" not in str(refusal.value)
