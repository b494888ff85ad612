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
import tempfile
from pathlib import Path
from typing import Any

import keras
import rich
import tensorflow as tf

from stable_node_tf import attacks, evaluation, operation_errors
from stable_node_tf.certification.certifier import (
    CertifiedCurve,
    certified_accuracy,
)
from stable_node_tf.evaluation import sanity_checks
from stable_node_tf.files import write_json
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
)
from trainers.data import datasets
from trainers.measurement import (
    EPSILONS,
    certified_points,
    load_keras,
    load_model,
)
from trainers.recipe import DatasetChoice
from trainers.settings import setting

_GRAY = 0.5  # a budget that turns every image into the same one
_FEW = 1000
_SHOWN_EPSILONS = (0.05, 0.1)


@dataclasses.dataclass(frozen=True)
class Options(command_line.DataOptions, DatasetChoice):
    """Which model is attacked, and how."""

    model: str = setting(
        dataclasses.MISSING,
        "A .keras file or the directory of a SavedModel.",
    )
    keras_model: str | None = setting(
        None, "The .keras file of the model that --model is an export of."
    )
    attacks: tuple[str, ...] = setting(
        ("fgsm",),
        f"Any of {', '.join(attacks.registered())}; or all.",
    )
    epsilons: tuple[float, ...] = setting(
        EPSILONS,
        "Budgets in the l-infinity norm, pixels ranging from 0 to 1.",
        least=0,
    )
    epsilons_l2: tuple[float, ...] = setting(
        (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0),
        "Budgets in the 2-norm of a whole image.",
        least=0,
    )
    pgd_steps: int = setting(100, "Steps of a run of PGD.", least=1)
    restarts: int = setting(
        1, "Runs of PGD and Square from new random numbers.", least=1
    )
    queries: int = setting(1000, "Queries of Square.", least=1)
    num_images: int | None = setting(
        None, "The first so many test images; all by default.", least=1
    )
    seed: int = setting(0, "Seeds the attacks' random numbers.", least=0)
    jit_compile: bool = setting(True, "Compile iterated attacks with XLA.")
    output: str | None = setting(None, "Directory to write to.")


@command_line.program
def main(options: Options) -> None:
    """Evaluates the model that the flags name."""
    try:
        evaluate(options)
    except tf.errors.OpError as error:
        raise RuntimeError(
            f"{operation_errors.reason(error)} "
            "(XLA? --nojit_compile does without.)"
        ) from error


def evaluate(options: Options) -> None:
    """Attacks, checks, prints and writes."""
    suite = _suite(options)
    output = Path(options.output) if options.output else None
    if output is not None:
        drawing.require_matplotlib()
        output.mkdir(parents=True, exist_ok=True)
    model = load_model(options.model)
    memory = _in_memory(model, options.keras_model)
    test = datasets.load(options.dataset, data_dir=options.data_dir).test
    test = test.take(slice(options.num_images))

    path = output / "evaluation.json" if output else None
    record = attack_suite.open_record(
        path,
        model.path if isinstance(model, ExportedModel) else Path(options.model),
        options.dataset,
        test,
    )
    record["num_classes"] = test.num_classes
    curves = attack_suite.run(suite, model, test, record, path)
    proven = _certified(memory, test, suite)
    if proven is not None:
        record["certified"] = certified_points(proven)
    rich.print(attack_report.heading(record))
    for layout in attack_report.tables(record, list(curves)):
        rich.print(layout)
    checks = _checks(options, model, memory, test, curves)
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
    if output is not None and path is not None:
        write_json(record, path)
        attack_report.write_csv(record, output / "evaluation.csv")
        attack_pictures.plot_attacks(record, output / "attacks.png")
        _draw_margins(model, test, options.dataset, output / "margins.png")
        print(f"Written to {output}: evaluation.json, evaluation.csv,")
        print("attacks.png, margins.png")


def _suite(options: Options) -> attack_suite.Suite:
    """Returns the attacks that were asked for, with their budgets."""
    known = attacks.registered()
    if not {*options.attacks} <= {*known, "all"}:
        raise ValueError(
            f"`attacks` must be any of {', '.join(known)}, or all. Received: "
            f"attacks={','.join(options.attacks)}"
        )
    chosen = [
        _as_asked(attack, options)
        for name, attack in known.items()
        if name in options.attacks or "all" in options.attacks
    ]
    budgets = {"linf": options.epsilons, "l2": options.epsilons_l2}
    return attack_suite.Suite(chosen, budgets)


def _as_asked(attack: attacks.Attack, options: Options) -> attacks.Attack:
    """Returns the attack, trying as hard as the options say."""
    asked = dataclasses.asdict(options) | {"steps": options.pgd_steps}
    fields = {field.name for field in dataclasses.fields(attack)}
    return dataclasses.replace(
        attack, **{name: asked[name] for name in fields & asked.keys()}
    )


def _in_memory(model: Any, path: str | None) -> keras.Model | None:
    """The model as Keras has it, or None where only an export is at hand."""
    if isinstance(model, keras.Model):
        return model
    if path:
        return load_keras(path)
    beside = model.path.parent / "model.keras"
    return load_keras(beside) if beside.is_file() else None


def _checks(
    options: Options,
    model: Any,
    memory: keras.Model | None,
    test: datasets.Split,
    curves: dict[str, evaluation.AccuracyCurve],
) -> list[sanity_checks.Check]:
    suite = _suite(options)
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
    gray = _as_asked(attacks.PGD(), options)
    turned = outcomes.curve(gray, model, few, [_GRAY], "PGD, gray")
    checks.append(sanity_checks.falls_to_chance(turned, test.num_classes))
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


def _draw_margins(
    model: Any, test: datasets.Split, dataset: str, path: Path
) -> None:
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
    attack_pictures.plot_margins(path, margins, dataset)


def _exported(model: Any) -> ExportedModel:
    if isinstance(model, ExportedModel):
        return model
    with tempfile.TemporaryDirectory() as directory:
        save_classifier(model, directory)
        return load_classifier(directory)


if __name__ == "__main__":
    main()
