import re
import shlex
from pathlib import Path

import pytest
import served_accuracy
import yaml
from google.protobuf import text_format

from trainers import compare
from trainers.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text()


def test_models_are_those_that_compare_exports():
    apis = pytest.importorskip(
        "tensorflow_serving.config.model_server_config_pb2",
        reason="needs the extra 'serving'",
    )
    content = (ROOT / "examples" / "serving" / "models.config").read_text()
    config = text_format.Parse(content, apis.ModelServerConfig())
    models = config.model_config_list.config
    names = [model.name for model in models]
    assert names == list(compare.variants(Recipe()))
    for model in models:
        assert model.base_path == f"/models/{model.name}"
        assert model.model_platform == "tensorflow"


def test_compose_file_mounts_what_is_there():
    path = ROOT / "examples" / "serving" / "compose.yaml"
    [service] = yaml.safe_load(path.read_text())["services"].values()
    assert service["image"].startswith("tensorflow/serving:")
    # Open to this machine only.
    assert service["ports"] == [
        "127.0.0.1:8500:8500",
        "127.0.0.1:8501:8501",
    ]
    models, config = (volume.split(":") for volume in service["volumes"][:2])
    assert service["volumes"][0].endswith(":/models:ro")
    assert "../../results/mnist/saved_models" in service["volumes"][0]
    source, target, mode = config
    assert (path.parent / source).is_file() and mode == "ro"
    assert service["command"] == [f"--model_config_file={target}"]
    assert models


def test_commands_on_the_page_are_accepted():
    page = PAGE.replace("\\\n", " ")
    commands = re.findall(
        r"^python examples/serving/(\w+)\.py(.*)$", page, re.M
    )
    assert {name for name, _ in commands} == {"client_rest", "client_grpc"}
    for name, arguments in commands:
        assert (ROOT / "examples" / "serving" / f"{name}.py").is_file()
        served_accuracy.parser("", "").parse_args(shlex.split(arguments))


def test_signatures_on_the_page_are_those_exported():
    import tensorflow as tf

    from stable_node_tf.saved_model.signatures import signatures

    spec = tf.TensorSpec([None, 28, 28, 1], tf.float32, "image")
    radii = {"certified_radius": lambda *_: 0.0}
    names = signatures(tf.identity, spec, certifiers=radii)
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.M)) == set(names)
