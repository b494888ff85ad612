import numpy as np
import pytest
import tensorflow as tf
from c_session import Session
from tensorflow.core.protobuf import meta_graph_pb2

from stable_node_tf import ode_classifier
from stable_node_tf.saved_model import (
    load_classifier,
    save_classifier,
    warm_up,
)

pytest.importorskip(
    "tensorflow_serving.apis", reason="needs the extra 'serving'"
)
from tensorflow_serving.apis import (  # noqa: E402
    predict_pb2,
    prediction_log_pb2,
)


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    model = ode_classifier(width=8, delta_bar=0.0)
    return save_classifier(model, tmp_path_factory.mktemp("warm"))


def logs(version):
    records = tf.data.TFRecordDataset(str(version / warm_up.PATH))
    return [
        prediction_log_pb2.PredictionLog.FromString(record.numpy())
        for record in records
    ]


def test_requests_replay_on_every_signature(version):
    session = Session(version)
    signatures = meta_graph_pb2.MetaGraphDef.FromString(
        session.meta_graph
    ).signature_def
    replayed = []
    for log in logs(version):
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        name = request.model_spec.signature_name
        outputs = {k: t.name for k, t in signatures[name].outputs.items()}
        values = session.run(
            {
                signatures[name].inputs[key].name: tf.make_ndarray(tensor)
                for key, tensor in request.inputs.items()
            },
            outputs.values(),
        )
        replayed.append(name)
        for value in values:
            assert len(value) == 1 and np.all(np.isfinite(value))
    assert sorted(replayed) == sorted(
        name for name in signatures if not name.startswith("__")
    )


def test_encoding_is_that_of_the_official_messages(tmp_path):
    requests = {
        "serving_default": {"image": np.zeros([1, 200, 1], np.float32)},
        "serving_png": {"image_bytes": np.array([b"\x00\xff" * 90], object)},
        "": {"a": np.arange(3), "b": np.array(True)},
    }
    (tmp_path / "1").mkdir()
    warm_up.write(tmp_path / "1", requests)
    for log, (name, inputs) in zip(
        logs(tmp_path / "1"), requests.items(), strict=True
    ):
        expected = predict_pb2.PredictRequest()
        expected.model_spec.signature_name = name
        for key, value in inputs.items():
            expected.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        assert log.predict_log.request == expected


def test_model_with_free_image_sizes_is_not_warmed_up(tmp_path):
    import keras

    image = keras.Input((None, 2), name="image")
    pooled = keras.layers.GlobalAveragePooling1D()(image)
    model = keras.Model(image, keras.layers.Dense(3)(pooled))
    assert logs(save_classifier(model, tmp_path)) == []
    assert load_classifier(tmp_path)(np.ones([4, 5, 2])).shape == (4, 3)
