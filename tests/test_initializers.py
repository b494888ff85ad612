import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_node_tf import SkewSymmetric


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.floats(0.0, 50.0))
def test_skew_symmetric_with_the_norm_asked_for(seed, size, spectral_norm):
    matrix = SkewSymmetric(spectral_norm, seed)((size, size)).numpy()
    np.testing.assert_array_equal(matrix, -matrix.T)
    norm = np.linalg.norm(matrix.astype(np.float64), 2)
    assert norm == pytest.approx(spectral_norm, rel=1e-5)


def test_one_by_one_is_zero():
    assert SkewSymmetric(3.0, seed=0)((1, 1)).numpy() == 0.0


def test_dtype_and_seed():
    first = SkewSymmetric(seed=1)((4, 4), dtype="float64")
    assert first.dtype == "float64"
    np.testing.assert_array_equal(
        first, SkewSymmetric(seed=1)((4, 4), dtype="float64")
    )
    other = SkewSymmetric(seed=2)((4, 4), dtype="float64")
    assert np.abs(first - other).max() > 0.1


def test_config_round_trip():
    initializer = SkewSymmetric(2.5, seed=7)
    config = keras.saving.serialize_keras_object(initializer)
    twin = keras.saving.deserialize_keras_object(config)
    np.testing.assert_array_equal(initializer((3, 3)), twin((3, 3)))


def test_damping_is_subtracted():
    damped = np.asarray(SkewSymmetric(2.5, seed=7, damping=4.0)((3, 3)))
    plain = np.asarray(SkewSymmetric(2.5, seed=7)((3, 3)))
    np.testing.assert_allclose(damped, plain - 4 * np.eye(3), rtol=1e-6)
    with pytest.raises(ValueError, match="damping=-1.0"):
        SkewSymmetric(damping=-1.0)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 2)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="must be square"):
        SkewSymmetric()(shape)


@pytest.mark.parametrize(
    "norm, error",
    [(-1.0, ValueError), (float("nan"), ValueError), ("1", TypeError)],
)
def test_bad_norms_are_refused(norm, error):
    with pytest.raises(error, match="spectral_norm="):
        SkewSymmetric(norm)
