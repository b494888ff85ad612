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
accuracy is computed at the budgets in the 2-norm, and must not be above what
the strongest attack leaves.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
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
    outcomes,
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
    "attacks", ["fgsm"], f"Any of {', '.join(attacks.registered())}; or all."
)
_EPSILONS = flags.DEFINE_list(
    "epsilons",
    [f"{epsilon:g}" for epsilon in EPSILONS],
    "Budgets in the l-infinity norm, pixels ranging from 0 to 1.",
)
_EPSILONS_L2 = flags.DEFINE_list(
    "epsilons_l2",
    ["0", "0.25", "0.5", "0.75", "1", "1.25", "1.5", "2", "2.5", "3"],
    "Budgets in the 2-norm of a whole image.",
)
_PGD_STEPS = flags.DEFINE_integer("pgd_steps", 100, "Steps of a run of PGD.", 1)
_RESTARTS = flags.DEFINE_integer(
    "restarts", 1, "Runs of PGD and Square from new random numbers.", 1
)
_QUERIES = flags.DEFINE_integer("queries", 1000, "Queries of Square.", 1)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", None, "The first so many test images; all by default.", 1
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seeds the attacks' random numbers.", 0, allow_override=True
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


@flags.validator("attacks", "must be names of attacks, see --help, or all")
def _valid_attacks(names: list[str]) -> bool:
    known = attacks.registered().keys()
    return names == ["all"] or (bool(names) and set(names) <= known)


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

    path = output / "evaluation.json" if output else None
    record = attack_suite.open_record(
        path,
        model.path if isinstance(model, ExportedModel) else Path(_MODEL.value),
        _DATASET.value,
        test,
    )
    curves = attack_suite.run(suite, model, test, record, path)
    proven = _certified(memory, test, suite)
    if proven is not None:
        record["certified"] = certified_points(proven)
    rich.print(attack_report.heading(record))
    for layout in attack_report.tables(record, list(curves)):
        rich.print(layout)
    checks = _checks(suite, model, memory, test, curves)
    if proven is not None:
        in_ball = [curves[a.name] for a in suite.attacks if a.norm == "l2"]
        checks.append(sanity_checks.certified_at_most_attacked(proven, in_ball))
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
        _draw_margins(model, test, output / "margins.png")
        print(f"Written to {output}: evaluation.json, evaluation.csv,")
        print("attacks.png, margins.png")


def _suite() -> attack_suite.Suite:
    """The attacks that were asked for, with their budgets."""
    chosen = [
        _as_asked(attack)
        for name, attack in attacks.registered().items()
        if name in _ATTACKS.value or "all" in _ATTACKS.value
    ]
    budgets = {"linf": _EPSILONS.value, "l2": _EPSILONS_L2.value}
    return attack_suite.Suite(
        chosen,
        {norm: [float(e) for e in texts] for norm, texts in budgets.items()},
    )


def _as_asked(attack: attacks.Attack) -> attacks.Attack:
    """The attack, trying as hard as the flags say."""
    asked: dict[str, Any] = {
        "steps": _PGD_STEPS.value,
        "restarts": _RESTARTS.value,
        "queries": _QUERIES.value,
        "seed": _SEED.value,
        "jit_compile": _JIT_COMPILE.value,
    }
    fields = {field.name for field in dataclasses.fields(attack)}
    return dataclasses.replace(
        attack, **{name: asked[name] for name in fields & asked.keys()}
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
    test: datasets.Split,
    curves: dict[str, evaluation.AccuracyCurve],
) -> list[sanity_checks.Check]:
    checks = []
    if {"fgsm", "pgd"} <= curves.keys():
        checks.append(
            sanity_checks.pgd_at_least_as_strong(curves["pgd"], curves["fgsm"])
        )
    gradient = [attack for attack in suite.attacks if attack.uses_gradient]
    in_box = [curves[a.name] for a in gradient if a.norm == "linf"]
    if "square" in curves and in_box:
        checks.append(
            sanity_checks.square_never_strongest(curves["square"], in_box)
        )
    few = test.take(slice(_FEW))
    gray = _as_asked(attacks.PGD())
    turned = outcomes.curve(gray, model, few, [_GRAY], "PGD, gray")
    checks.append(sanity_checks.falls_to_chance(turned, _NUM_CLASSES))
    # The DLR loss is constant, whatever the model, where the answer is wrong
    # and the true class not even second.
    smooth = [curves[a.name] for a in gradient if a.loss != "dlr"]
    if smooth:
        checks.append(
            sanity_checks.few_zero_gradients(
                max(smooth, key=lambda curve: curve.zero_gradient_share or 0.0)
            )
        )
    if memory is not None:
        checks.append(
            sanity_checks.same_gradient(
                memory, _exported(model), few.pixels, few.labels
            )
        )
    finer = _finer(memory)
    if finer is not None:
        fgsm, epsilons = attacks.FGSM(), suite.epsilons["linf"]
        before = curves.get("fgsm") or outcomes.curve(
            fgsm, memory, test, epsilons, "FGSM"
        )
        after = outcomes.curve(
            fgsm, finer, test, epsilons, "FGSM, finer solver"
        )
        checks.append(sanity_checks.finer_solver_agrees(before, after))
    return checks


def _certified(
    memory: keras.Model | None, test: datasets.Split, suite: attack_suite.Suite
) -> CertifiedCurve | None:
    """What is proven at the budgets in the 2-norm, if there are any."""
    in_ball = any(attack.norm == "l2" for attack in suite.attacks)
    if memory is None or not in_ball:
        return None
    try:
        return certified_accuracy(
            memory, test.pixels, test.labels, suite.epsilons["l2"]
        )
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


def _draw_margins(model: Any, test: datasets.Split, path: Path) -> None:
    images, labels = test.pixels, test.labels
    fgsm = attacks.FGSM()(model, images, labels, _SHOWN_EPSILONS)
    seen = {"clean": images} | {
        f"FGSM, ε = {epsilon:g}": adversarial
        for epsilon, adversarial in zip(
            _SHOWN_EPSILONS, fgsm.adversarial, strict=True
        )
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
