import zipfile

import keras
import numpy as np
import pytest

from trainers import measurement


def saved(path, *layers):
    image = keras.Input((4,), name="image")
    x = image
    for layer in (*layers, keras.layers.Dense(3)):
        x = layer(x)
    keras.Model(image, x).save(path)
    return path


def refused(path):
    with pytest.raises(ValueError, match="cannot be read as a Keras") as caught:
        measurement.load_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_truncated_keras_file(tmp_path, share):
    path = saved(tmp_path / "model.keras")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path)


@pytest.mark.parametrize(
    "name", ["config.json", "model.weights.h5", "metadata.json"]
)
@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1, 2]"])
def test_keras_file_with_a_damaged_member(tmp_path, name, content):
    source = saved(tmp_path / "whole.keras")
    path = tmp_path / "damaged.keras"
    with (
        zipfile.ZipFile(source) as whole,
        zipfile.ZipFile(path, "w") as damaged,
    ):
        for member in whole.namelist():
            if member != name:
                damaged.writestr(member, whole.read(member))
            elif content is not None:
                damaged.writestr(member, content)
    try:
        model = measurement.load_model(path)
    except ValueError:
        refused(path)
    else:
        assert name == "metadata.json"
        assert model(np.zeros([2, 4])).shape == (2, 3)


def test_code_in_a_keras_file_is_not_run(tmp_path):
    path = saved(tmp_path / "code.keras", keras.layers.Lambda(lambda x: 2 * x))
    refused(path)
