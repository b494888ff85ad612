r"""Our attacks against Foolbox and ART: the same figures, and how fast.

    python -m trainers.train --width=128 --initial_skew_norm=16 --epochs=12 \
        --output=results/attacks/ordinary
    python benchmarks/attacks.py --model=results/attacks/ordinary/model.keras \
        --rounds=3 --output=benchmarks/attacks.json

Agreement is measured on the first images of the test set, speed, in CPU
seconds, on all of it, in batches of 500 images. The peers call the model
through `tf.function`, which is faster than calling it eagerly; times include
what tracing and compiling takes in each case. --parts=fgsm,square measures
these alone; what the output file says of other parts stays.
"""

import json
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import foolbox
import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from art.attacks import evasion
from art.estimators.classification import TensorFlowV2Classifier

from stable_node_tf import attacks
from stable_node_tf.files import write_json
from trainers.data import datasets
from trainers.measurement import load_model

_STEP_SIZE = 0.25
_BATCH = 500
_MODEL = flags.DEFINE_string("model", None, "The .keras file.", required=True)
_IMAGES = flags.DEFINE_integer("images", 1000, "For the agreement.", 1)
_STEPS = flags.DEFINE_integer("steps", 10, "Of PGD, for the agreement.", 1)
_QUERIES = flags.DEFINE_integer("queries", 300, "Of Square.", 1)
_SEEDS = flags.DEFINE_integer("seeds", 10, "Runs of Square to compare.", 2)
_ROUNDS = flags.DEFINE_integer("rounds", 1, "Of the timings.", 1)
_PARTS = flags.DEFINE_list(
    "parts",
    ["fgsm", "pgd_10", "pgd_100", "square", "agreement", "square_agreement"],
    "Timings of four attacks, and the agreement of figures.",
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
_EPSILONS = (0.02, 0.04, 0.06, 0.08, 0.1)


def accuracy(model, images, labels):
    return float(np.mean(model(images).numpy().argmax(1) == labels))


def as_foolbox(model):
    return foolbox.TensorFlowModel(model, bounds=(0, 1))


def as_art(model):
    return TensorFlowV2Classifier(
        model,
        nb_classes=10,
        input_shape=(28, 28, 1),
        clip_values=(0.0, 1.0),
        loss_object=lambda y, logits: tf.reduce_mean(
            tf.nn.softmax_cross_entropy_with_logits(
                tf.cast(y, logits.dtype), logits
            )
        ),
    )


def agreement(model, images, labels):
    """Yields rows: attack, peer, both accuracies, share of equal pixels.

    A peer marked "float64" sees logits that were converted to float64, so that
    its loss, and nothing else, is computed in double precision.
    """

    def double(x, training=False):
        return tf.cast(model(x, training=training), tf.float64)

    peers = {"": model, ", float64": double}
    x, y = tf.constant(images), tf.constant(labels)
    tf.random.set_seed(0)
    np.random.seed(0)

    def row(name, other, ours, theirs):
        theirs = np.asarray(theirs)
        return {
            "attack": name,
            "peer": other,
            "ours": accuracy(model, ours, labels),
            "theirs": accuracy(model, theirs, labels),
            "equal_pixels": float(np.mean(np.abs(ours - theirs) < 1e-6)),
        }

    for epsilon in (0.02, 0.1):
        name = f"FGSM, {epsilon:g}"
        ours = attacks.FGSM()(model, images, labels, [epsilon]).adversarial[0]
        for suffix, served in peers.items():
            attack = foolbox.attacks.FGSM()
            theirs = attack(as_foolbox(served), x, y, epsilons=epsilon)[1]
            yield row(name, "Foolbox" + suffix, ours, theirs)
            attack = evasion.FastGradientMethod(
                as_art(served), eps=epsilon, batch_size=_BATCH
            )
            theirs = attack.generate(images, labels)
            yield row(name, "ART" + suffix, ours, theirs)
    for norm, order, epsilon, cls in (
        ("linf", np.inf, 0.06, foolbox.attacks.LinfPGD),
        ("l2", 2, 0.75, foolbox.attacks.L2PGD),
    ):
        name = f"PGD, {norm}, {epsilon:g}"
        pgd = attacks.PGD(norm=norm, steps=_STEPS.value, step_size=_STEP_SIZE)
        [ours] = pgd(model, images, labels, epsilon).adversarial
        for suffix, served in peers.items():
            attack = cls(rel_stepsize=_STEP_SIZE, steps=_STEPS.value)
            theirs = attack(as_foolbox(served), x, y, epsilons=epsilon)[1]
            yield row(name, "Foolbox" + suffix, ours, theirs)
            attack = evasion.ProjectedGradientDescent(
                as_art(served),
                norm=order,
                eps=epsilon,
                eps_step=_STEP_SIZE * epsilon,
                max_iter=_STEPS.value,
                num_random_init=1,
                batch_size=_BATCH,
                verbose=False,
            )
            theirs = attack.generate(images, labels)
            yield row(name, "ART" + suffix, ours, theirs)


def square_agreement(model, images, labels, epsilon=0.1):
    """Accuracies under Square for several seeds: ours twice, and ART's.

    ART's squares never touch the last row and column. The second time ours
    does not either: it attacks images without them, and the model sees them
    black. Images in which they are not are left out of all runs.
    """
    black = ~(images[:, -1].any((1, 2)) | images[:, :, -1].any((1, 2)))
    images, labels = images[black], labels[black]
    last = [[0, 0], [0, 1], [0, 1], [0, 0]]

    def framed(x):
        return model(tf.pad(x, last))

    def ours(classifier, x, initial_share, seed):
        attack = attacks.Square(
            queries=_QUERIES.value + 1, initial_share=initial_share, seed=seed
        )
        return float(attack(classifier, x, labels, epsilon).accuracies[0])

    def theirs(seed):
        np.random.seed(seed)
        attack = art_square(model, epsilon, len(images))
        return accuracy(model, attack.generate(images, labels), labels)

    less = images[:, :-1, :-1]
    runs = {
        "ours": lambda seed: ours(model, images, 0.8, seed),
        "ours, without last row and column": lambda seed: ours(
            framed, less, 0.8 * 28**2 / 27**2, seed
        ),
        "ART": theirs,
    }
    return {
        name: [run(seed) for seed in range(_SEEDS.value)]
        for name, run in runs.items()
    }


def art_square(model, epsilon, batch_size):
    return evasion.SquareAttack(
        as_art(model),
        eps=epsilon,
        max_iter=_QUERIES.value,
        batch_size=batch_size,
        verbose=False,
    )


def seconds(call):
    """CPU seconds of all threads: others may be using the machine."""
    start = time.process_time()
    call()
    return time.process_time() - start


def speed(model, images, labels, rounds, parts):
    """CPU seconds of a peer and of ours, one after another, and the ratio."""

    @tf.function(autograph=False, reduce_retracing=True)
    def graph(x, training=False):
        return model(x, training=training)

    peer = foolbox.TensorFlowModel(graph, bounds=(0, 1))
    batches = [slice(i, i + _BATCH) for i in range(0, len(images), _BATCH)]

    def foolbox_runs(attack, epsilons):
        def call():
            for part in batches:
                batch = tf.constant(images[part]), tf.constant(labels[part])
                attack(peer, *batch, epsilons=epsilons)

        return call

    def pgd(steps):
        attack = foolbox.attacks.LinfPGD(rel_stepsize=_STEP_SIZE, steps=steps)

        def ours(jit_compile):
            attack = attacks.PGD(
                steps=steps, step_size=_STEP_SIZE, jit_compile=jit_compile
            )
            return lambda: attack(model, images, labels, 0.06)

        return (
            f"PGD-{steps}, 0.06",
            "Foolbox",
            foolbox_runs(attack, 0.06),
            {"": ours(False), ", XLA": ours(True)},
        )

    def square(jit_compile):
        attack = attacks.Square(
            queries=_QUERIES.value + 1, jit_compile=jit_compile
        )
        return lambda: attack(model, images, labels, 0.1)

    cases = {
        "fgsm": (
            "FGSM, 5 budgets",
            "Foolbox",
            foolbox_runs(foolbox.attacks.FGSM(), list(_EPSILONS)),
            {"": lambda: attacks.FGSM()(model, images, labels, _EPSILONS)},
        ),
        "pgd_10": pgd(10),
        "pgd_100": pgd(100),
        "square": (
            f"Square, {_QUERIES.value} queries, 0.1",
            "ART",
            lambda: art_square(graph, 0.1, _BATCH).generate(images, labels),
            {"": square(False), ", XLA": square(True)},
        ),
    }
    rows = []
    for part in [p for p in cases if p in parts]:
        name, other, theirs, ours = cases[part]
        measured = np.array(
            [
                [seconds(theirs)] + [seconds(call) for call in ours.values()]
                for _ in range(rounds)
            ]
        )
        for column, suffix in enumerate(ours, 1):
            row = {
                "attack": name + suffix,
                "peer": other,
                "ours": float(np.median(measured[:, column])),
                "theirs": float(np.median(measured[:, 0])),
                "ratio": float(np.median(measured[:, 0] / measured[:, column])),
            }
            rows.append(row)
            print(
                f"{row['attack']:28} ours {row['ours']:7.1f} s, "
                f"{other:7} {row['theirs']:7.1f} s, ratio {row['ratio']:.1f}",
                flush=True,
            )
    return rows


def main(argv):
    del argv
    model = load_model(_MODEL.value)
    test = datasets.load("mnist").test
    images, labels = test.pixels, test.labels
    few = images[: _IMAGES.value], labels[: _IMAGES.value]
    path = Path(_OUTPUT.value) if _OUTPUT.value else None
    results = json.loads(path.read_text()) if path and path.is_file() else {}
    results |= {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    timed = speed(model, images, labels, _ROUNDS.value, _PARTS.value)
    known = {row["attack"]: row for row in results.get("speed", [])}
    known |= {row["attack"]: row for row in timed}
    results["speed"] = list(known.values())
    if "agreement" in _PARTS.value:
        results["agreement"] = []
        for row in agreement(model, *few):
            results["agreement"].append(row)
            print(
                f"{row['attack']:16} {row['peer']:8} ours {row['ours']:.2%}, "
                f"theirs {row['theirs']:.2%}, {row['equal_pixels']:.2%} of "
                "the pixels equal",
                flush=True,
            )
    if "square_agreement" in _PARTS.value:
        results["square"] = square_agreement(model, *few)
        for name, run in results["square"].items():
            mean, deviation = np.mean(run), np.std(run, ddof=1)
            print(f"Square, {name}: {mean:.2%} ± {deviation:.2%}", flush=True)
    if path:
        write_json(results, path)


if __name__ == "__main__":
    app.run(main)
