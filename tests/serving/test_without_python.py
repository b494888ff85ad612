"""Exports in a process that knows TensorFlow's C API only, as a server does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from stable_node_tf import ode_classifier
from stable_node_tf.models.certified_classifier import certified_classifier
from stable_node_tf.saved_model import (
    load_classifier,
    save_classifier,
)

PROGRAM = Path(__file__).with_name("c_session.py")
ZOO = sorted(
    path.parent
    for path in Path(__file__).parents[2].glob("saved_models/**/saved_model.pb")
)
SIZES = (1, 2, 3, 15, 16, 17, 33, 64)
FEW_SIZES = (1, 33)
SOLVERS = (
    *("rk4", "implicit_midpoint"),
    *("dormand_prince", "dormand_prince_per_sample"),
)
MODELS = {
    "certified": lambda: certified_classifier(width=13, blocks=1),
    **{
        solver: lambda solver=solver: ode_classifier(width=9, solver=solver)
        for solver in SOLVERS
    },
}

# Reviewed by hand: plain computations, and the variables' restoration. None
# reads or writes files but Save and Restore, none calls Python or the network.
OPS = set(
    """
    Abs Add AddN AddV2 All Any ArgMax Assert AssignVariableOp BatchMatMulV2
    BiasAdd BiasAddGrad BroadcastGradientArgs BroadcastTo Cast Ceil ConcatV2
    Const DecodePng DecodeRaw DisableCopyOnRead Div DivNoNan EnsureShape
    Equal Exp ExpandDims Fill Floor FloorMod Gather GatherV2 Greater
    GreaterEqual Identity IdentityN If IsFinite IsNan LeakyRelu Less
    LessEqual LogicalAnd LogicalNot LogicalOr MatMul MatrixDiagPartV3
    MatrixDiagV3 MatrixInverse MatrixSetDiagV3 Max Maximum Mean
    MergeV2Checkpoints Min Minimum Mul Neg NoOp NotEqual OnesLike Pack
    PartitionedCall Placeholder Pow PreventGradient Prod Range Rank
    ReadVariableOp RealDiv Relu ReluGrad Reshape RestoreV2 SaveV2 Select
    SelectV2 Shape ShardedFilename Sigmoid Sign Size Slice Softmax Softplus
    Split SplitV Sqrt Square Squeeze StatefulPartitionedCall StatelessIf
    StatelessWhile StaticRegexFullMatch StopGradient StridedSlice StringJoin
    StringLength Sub Substr Sum Tanh TanhGrad TensorListFromTensor
    TensorListGetItem TensorListReserve TensorListSetItem TensorListStack
    Tile Transpose Unpack VarHandleOp Where While ZerosLike
    """.split()
)


class CallsPython(tf.Module):
    """Answers in the process that made it, and nowhere else."""

    @tf.function(
        input_signature=[tf.TensorSpec([None, 28, 28, 1], name="image")]
    )
    def serve(self, image):
        return {
            "label": tf.py_function(
                lambda x: x[:, 0, 0, 0], [image], tf.float32
            )
        }


def graph(version):
    content = (version / "saved_model.pb").read_bytes()
    [meta_graph] = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    return meta_graph


def ops(version):
    definition = graph(version).graph_def
    nodes = list(definition.node)
    for function in definition.library.function:
        nodes += function.node_def
    return {node.op for node in nodes}


def sizes(name):
    """How large the batches are; the models of the zoo are many and alike."""
    return SIZES if name in MODELS else FEW_SIZES


def images(count):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(count, 28, 28, 1)).astype(np.float32)


class Outcome:
    """What became of all exports in the other process."""

    def __init__(self, directory):
        self._directory = directory
        self.versions = {path.parent.name: path for path in ZOO}
        for name, make in MODELS.items():
            self.versions[name] = save_classifier(
                make(), directory / name, pixels=name == "certified"
            )
        self.unservable = directory / "unservable" / "1"
        module = CallsPython()
        tf.saved_model.save(
            module, str(self.unservable), signatures=module.serve
        )
        self._runs, jobs = {}, []
        for name, version in self.versions.items():
            for key in self.signatures(version):
                parts = [(0, size) for size in sizes(name)]
                for start, size in [*parts, (60, 4)]:
                    jobs.append(self._job(name, version, key, start, size))
        jobs.append(
            self._job("unservable", self.unservable, "serving_default", 0, 1)
        )
        self.ops = set().union(*map(ops, self.versions.values()))
        unknown = ["PyFunc", "EagerPyFunc", "NoSuchOp"]
        (directory / "jobs.json").write_text(
            json.dumps({"runs": jobs, "ops": sorted(self.ops) + unknown})
        )
        completed = subprocess.run(
            [sys.executable, str(PROGRAM), str(directory / "jobs.json")],
            stdout=subprocess.PIPE,
            check=True,
            # As examples/serving/compose.yaml has it; see docs/serving.md.
            env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1"},
        )
        outcome = json.loads(completed.stdout)
        self.errors = dict(zip(self._runs, outcome["errors"], strict=True))
        self.without_kernel = outcome["without_kernel"]

    def signatures(self, version):
        found = graph(version).signature_def
        return [
            name for name in ("serving_default", "certify") if name in found
        ]

    def _job(self, name, version, key, start, size):
        signature = graph(version).signature_def[key]
        [tensor] = signature.inputs.values()
        feed = self._directory / f"images-{start}-{size}.npy"
        if not feed.exists():
            np.save(feed, images(64)[start : start + size])
        output = self._directory / f"output-{len(self._runs)}.npz"
        self._runs[name, key, start, size] = output
        return {
            "path": str(version),
            "feeds": {tensor.name: str(feed)},
            "fetches": {k: t.name for k, t in signature.outputs.items()},
            "output": str(output),
        }

    def answers(self, name, key, start, size):
        assert self.errors[name, key, start, size] is None
        with np.load(self._runs[name, key, start, size]) as values:
            return dict(values)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return Outcome(tmp_path_factory.mktemp("without_python"))


NAMES = [*(path.parent.name for path in ZOO), *MODELS]


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_python(outcome, name):
    reloaded = load_classifier(outcome.versions[name])
    certified = outcome.signatures(outcome.versions[name])[1:]
    for size in sizes(name):
        expected = reloaded.predict(images(64)[:size])
        answers = outcome.answers(name, "serving_default", 0, size)
        assert answers.keys() == expected.keys()
        np.testing.assert_allclose(
            answers["logits"], expected["logits"], rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(
            answers["probabilities"], expected["probabilities"], atol=1e-5
        )
        np.testing.assert_array_equal(
            answers["label"], answers["logits"].argmax(1)
        )
        if certified:
            np.testing.assert_allclose(
                outcome.answers(name, "certify", 0, size)["certified_radius"],
                reloaded.certify(images(64)[:size])["certified_radius"],
                rtol=1e-4,
                atol=1e-6,
            )


# The steps of the other one suit the whole batch.
SEPARATE = [name for name in MODELS if name != "dormand_prince"]


@pytest.mark.parametrize("name", SEPARATE)
def test_answers_do_not_depend_on_the_batch(outcome, name):
    for key in outcome.signatures(outcome.versions[name]):
        whole = outcome.answers(name, key, 0, 64)
        for start, size in [(0, size) for size in SIZES] + [(60, 4)]:
            for output, values in outcome.answers(
                name, key, start, size
            ).items():
                np.testing.assert_array_equal(
                    values, whole[output][start : start + size]
                )


def test_model_that_calls_python_fails(outcome):
    reloaded = tf.saved_model.load(str(outcome.unservable))
    answers = reloaded.signatures["serving_default"](tf.constant(images(1)))
    assert answers["label"].shape == (1,)
    error = outcome.errors["unservable", "serving_default", 0, 1]
    assert "EagerPyFunc" in error


def test_operations_are_reviewed_and_stock(outcome):
    assert outcome.without_kernel == ["PyFunc", "EagerPyFunc", "NoSuchOp"]
    assert outcome.ops <= OPS, " ".join(sorted(outcome.ops - OPS))
