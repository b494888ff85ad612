r"""Attacks a trained model and checks that the figures can be believed.

    python -m trainers.evaluate --model=my_model --output=results/my_model
    python -m trainers.evaluate --model=model.keras --attacks=fgsm,pgd \
        --epsilons=0,0.1,0.2 --num_images=1000

--model is a `.keras` file or the directory of an exported SavedModel. With
--output, evaluation.json, evaluation.csv, attacks.png and margins.png are
written there, the JSON after every attack: interrupted, the same command
carries on with the attacks that are missing.

Some of the checks need the model both in memory and exported: a `.keras` file
is exported for the purpose, and beside a SavedModel's version directory a
model.keras is looked for, as `trainers.train` writes it. With it, certified
accuracy is computed at the budgets of pgd_l2 and margin_l2, and must not be
above what the stronger one leaves.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import rich
import tensorflow as tf
from absl import app, flags, logging

from stable_node_tf import attacks, evaluation, operation_errors
from stable_node_tf.certification.certifier import (
    CertifiedCurve,
    certified_accuracy,
)
from stable_node_tf.evaluation import sanity_checks
from stable_node_tf.models import with_finer_solver
from stable_node_tf.saved_model import (
    ExportedModel,
    load_classifier,
    save_classifier,
)
from trainers import (
    attack_pictures,
    attack_report,
    attack_suite,
    command_line,
    drawing,
    report,
)
from trainers.data import datasets
from trainers.measurement import (
    EPSILONS,
    certified_points,
    load_keras,
    load_model,
)

_NUM_CLASSES = 10
_GRAY = 0.5  # a budget that turns every image into the same one
_FEW = 1000
_SHOWN_EPSILONS = (0.05, 0.1)

_MODEL = flags.DEFINE_string(
    "model", None, "A .keras file or the directory of a SavedModel."
)
_KERAS_MODEL = flags.DEFINE_string(
    "keras_model",
    None,
    "The .keras file of the model that --model is an export of.",
)
_DATASET = flags.DEFINE_enum(
    "dataset", "mnist", datasets.NAMES, "Test images.", allow_override=True
)
_ATTACKS = flags.DEFINE_list(
    "attacks", ["fgsm"], f"Out of {', '.join(attack_suite.TITLES)}; or all."
)
_EPSILONS = flags.DEFINE_list(
    "epsilons",
    [f"{epsilon:g}" for epsilon in EPSILONS],
    "Budgets in the l-infinity norm, pixels ranging from 0 to 1.",
)
_EPSILONS_L2 = flags.DEFINE_list(
    "epsilons_l2",
    ["0", "0.25", "0.5", "0.75", "1", "1.25", "1.5", "2", "2.5", "3"],
    "Budgets of pgd_l2 and margin_l2, in the 2-norm of a whole image.",
)
_PGD_STEPS = flags.DEFINE_integer("pgd_steps", 100, "Of a run of PGD.", 1)
_RESTARTS = flags.DEFINE_integer("restarts", 1, "Runs of PGD.", 1)
_QUERIES = flags.DEFINE_integer("queries", 1000, "Of Square.", 1)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", None, "The first so many test images; all by default.", 1
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Of the attacks' random numbers.", 0, allow_override=True
)
_JIT_COMPILE = flags.DEFINE_bool(
    "jit_compile",
    True,
    "Compile iterated attacks with XLA.",
    allow_override=True,
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Directory to write to.", allow_override=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Directory of the TFDS data sets.", allow_override=True
)


command_line.require_budgets("epsilons")
command_line.require_budgets("epsilons_l2")


@flags.validator(
    "attacks", f"must be out of {', '.join(attack_suite.TITLES)}, or all"
)
def _valid_attacks(names: list[str]) -> bool:
    return names == ["all"] or (
        bool(names) and set(names) <= attack_suite.TITLES.keys()
    )


def main(argv: Sequence[str]) -> None:
    """Evaluates the model that the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    try:
        evaluate(_suite(), Path(_OUTPUT.value) if _OUTPUT.value else None)
    except command_line.REFUSALS as error:
        sys.exit(f"error: {error}")
    except tf.errors.OpError as error:
        sys.exit(
            f"error: {operation_errors.reason(error)} "
            "(XLA? --nojit_compile does without.)"
        )
    except KeyboardInterrupt:
        print(
            "\nInterrupted. "
            + (
                "The same command carries on after the last finished attack."
                if _OUTPUT.value
                else "With --output, finished attacks would have been kept."
            ),
            file=sys.stderr,
        )
        sys.exit(130)


def evaluate(suite: attack_suite.Suite, output: Path | None) -> None:
    """Attacks, checks, prints and writes."""
    if output is not None:
        drawing.require_matplotlib()
        output.mkdir(parents=True, exist_ok=True)
    model = load_model(_MODEL.value)
    memory = _in_memory(model)
    test = datasets.load(_DATASET.value, data_dir=_DATA_DIR.value).test
    test = test.take(slice(_NUM_IMAGES.value))
    images, labels = test.pixels, test.labels

    path = output / "evaluation.json" if output else None
    record = attack_suite.open_record(
        path,
        model.path if isinstance(model, ExportedModel) else Path(_MODEL.value),
        _DATASET.value,
        test,
    )
    curves = attack_suite.run(suite, model, images, labels, record, path)
    proven = _certified(memory, images, labels, suite)
    if proven is not None:
        record["certified"] = certified_points(proven)
    rich.print(attack_report.heading(record))
    for layout in attack_report.tables(record, suite.attacks):
        rich.print(layout)
    checks = _checks(suite, model, memory, images, labels, curves)
    if proven is not None:
        checks.append(
            sanity_checks.certified_at_most_attacked(
                proven,
                [c for n, c in curves.items() if attack_suite.norm(n) == "l2"],
            )
        )
    record["checks"] = [check._asdict() for check in checks]
    for line in attack_report.check_lines(record):
        rich.print(line)
    if memory is None:
        print(
            "Not checked for want of the .keras file (--keras_model): gradients"
        )
        print("of the exported model, a finer solver, certified accuracy.")
    if output is not None:
        report.write_json(record, path)
        attack_report.write_csv(record, output / "evaluation.csv")
        attack_pictures.plot_attacks(record, output / "attacks.png")
        _draw_margins(model, images, labels, output / "margins.png")
        print(f"Written to {output}: evaluation.json, evaluation.csv,")
        print("attacks.png, margins.png")


def _suite() -> attack_suite.Suite:
    chosen = _ATTACKS.value
    return attack_suite.Suite(
        attacks=[
            n for n in attack_suite.TITLES if n in chosen or "all" in chosen
        ],
        epsilons=[float(value) for value in _EPSILONS.value],
        epsilons_l2=[float(value) for value in _EPSILONS_L2.value],
        pgd_steps=_PGD_STEPS.value,
        restarts=_RESTARTS.value,
        queries=_QUERIES.value,
        seed=_SEED.value,
        jit_compile=_JIT_COMPILE.value,
    )


def _in_memory(model: Any) -> keras.Model | None:
    """The model as Keras has it, or None where only an export is at hand."""
    if isinstance(model, keras.Model):
        return model
    path = (
        Path(_KERAS_MODEL.value)
        if _KERAS_MODEL.value
        else model.path.parent / "model.keras"
    )
    if _KERAS_MODEL.value or path.is_file():
        return load_keras(path)
    return None


def _checks(
    suite: attack_suite.Suite,
    model: Any,
    memory: keras.Model | None,
    images: np.ndarray,
    labels: np.ndarray,
    curves: dict[str, evaluation.AccuracyCurve],
) -> list[sanity_checks.Check]:
    checks = []
    gradient = {n: c for n, c in curves.items() if n != "square"}
    in_box = [c for n, c in gradient.items() if attack_suite.norm(n) == "linf"]
    if {"fgsm", "pgd"} <= curves.keys():
        checks.append(
            sanity_checks.pgd_at_least_as_strong(curves["pgd"], curves["fgsm"])
        )
    if "square" in curves and in_box:
        checks.append(
            sanity_checks.square_never_strongest(curves["square"], in_box)
        )
    gray = suite.settings("pgd") | {"epsilons": [_GRAY]}
    few = images[:_FEW], labels[:_FEW]
    checks.append(
        sanity_checks.falls_to_chance(
            attack_suite.attack_curve("pgd", model, *few, gray, "PGD, gray"),
            _NUM_CLASSES,
        )
    )
    # The margin ratio is constant, whatever the model, where the answer is
    # wrong and the true class not even second.
    smooth = [c for n, c in gradient.items() if not n.startswith("margin")]
    if smooth:
        checks.append(
            sanity_checks.few_zero_gradients(
                max(smooth, key=lambda curve: curve.zero_gradient_share)
            )
        )
    if memory is not None:
        checks.append(
            sanity_checks.same_gradient(memory, _exported(model), *few)
        )
    finer = _finer(memory)
    if finer is not None:
        fgsm = suite.settings("fgsm")
        before = curves.get("fgsm") or attack_suite.attack_curve(
            "fgsm", memory, images, labels, fgsm, "FGSM"
        )
        after = attack_suite.attack_curve(
            "fgsm", finer, images, labels, fgsm, "FGSM, finer solver"
        )
        checks.append(
            sanity_checks.finer_solver_agrees({"FGSM": before}, {"FGSM": after})
        )
    return checks


def _certified(
    memory: keras.Model | None,
    images: np.ndarray,
    labels: np.ndarray,
    suite: attack_suite.Suite,
) -> CertifiedCurve | None:
    """What is proven at the budgets in the 2-norm, if there are any."""
    in_ball = any(attack_suite.norm(n) == "l2" for n in suite.attacks)
    if memory is None or not in_ball:
        return None
    try:
        return certified_accuracy(memory, images, labels, suite.epsilons_l2)
    except ValueError as error:
        print(f"Not certified: {error}")
        return None


def _finer(memory: keras.Model | None) -> keras.Model | None:
    """The model with a finer solver, where it has one that can be refined."""
    if memory is None:
        return None
    try:
        return with_finer_solver(memory)
    except ValueError as error:
        print(f"Not checked with a finer solver: {error}")
        return None


def _draw_margins(
    model: Any, images: np.ndarray, labels: np.ndarray, path: Path
) -> None:
    attacked = attacks.fgsm(model, images, labels, _SHOWN_EPSILONS).adversarial
    seen = {"clean": images} | {
        f"FGSM, ε = {epsilon:g}": adversarial
        for epsilon, adversarial in zip(_SHOWN_EPSILONS, attacked, strict=True)
    }
    margins = {
        name: evaluation.margins(model, pixels, labels)
        for name, pixels in seen.items()
    }
    attack_pictures.plot_margins(path, margins, _DATASET.value)


def _exported(model: Any) -> ExportedModel:
    if isinstance(model, ExportedModel):
        return model
    with tempfile.TemporaryDirectory() as directory:
        save_classifier(model, directory)
        return load_classifier(directory)


def run() -> None:
    """Entry point of the command line."""
    flags.mark_flag_as_required("model")
    command_line.run(main)


if __name__ == "__main__":
    run()
