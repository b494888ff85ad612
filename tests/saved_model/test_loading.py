"""What is read back, and what is refused."""

import os
import shutil

import pytest
import tensorflow as tf
from classifiers import classifier

from stable_node_tf.saved_model import (
    load_classifier,
)


def test_newest_version_is_read(exported, tmp_path):
    for version in ("9", "10"):
        shutil.copytree(exported[2], tmp_path / version)
    (tmp_path / "11").mkdir()  # empty
    assert load_classifier(tmp_path).path == tmp_path / "10"
    assert load_classifier(tmp_path / "9").path == tmp_path / "9"


def test_directories_without_a_saved_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="directory must exist"):
        load_classifier(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="must hold a SavedModel"):
        load_classifier(tmp_path)
    (tmp_path / "1").mkdir()
    with pytest.raises(FileNotFoundError, match="must hold a SavedModel"):
        load_classifier(tmp_path)


def test_saved_models_of_others_are_refused(tmp_path):
    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / "1"))
    with pytest.raises(ValueError, match="signature serving_default"):
        load_classifier(tmp_path)
    classifier().export(str(tmp_path / "2"), verbose=False)
    with pytest.raises(ValueError, match=r"outputs \['output_0'\]"):
        load_classifier(tmp_path)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(bytes(content))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("saved_model.pb", truncate),
        ("saved_model.pb", empty),
        ("variables/variables.index", truncate),
        ("variables/variables.index", empty),
        ("variables/variables.data-00000-of-00001", truncate),
        ("variables/variables.data-00000-of-00001", flip),
        ("variables/variables.data-00000-of-00001", os.remove),
    ],
)
def test_damage_is_named(exported, tmp_path, name, damage):
    path = shutil.copytree(exported[2], tmp_path / "1")
    damage(path / name)
    with pytest.raises(ValueError, match=f"{name} (must|is)") as caught:
        load_classifier(tmp_path)
    messages = [str(caught.value)]
    # Exports of others have no checksums.
    (path / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match="damaged or unreadable") as caught:
        load_classifier(tmp_path)
    messages.append(str(caught.value))
    for message in messages:
        assert str(path) in message
        assert "\n" not in message
