"""What the stability constraint buys: a model with it against one without.

The two are alike in all but the constraint on A. A difference of accuracies
comes with its standard error: of one run, paired by image, because both models
see the same images; of several, over the seeds.
"""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# A free, A constrained; by what encoder and read-out are.
PAIRS = {
    "free": ("ordinary", "stable_ode"),
    "bounded": ("bounded_ends", "stable_network"),
}
ATTACKS = {"fgsm": "FGSM", "pgd": "PGD-100"}
QUOTED = 0.1  # the budget that sentences are about
_LEVEL = 0.05

# The difference that the constraint makes to one accuracy: "ends", "attack",
# "epsilon" (0 is no attack), and what `over_images` and `over_seeds` return.
Effect = Mapping[str, Any]


def require_scipy() -> None:
    """Raises ModuleNotFoundError, saying what to do, without SciPy."""
    if importlib.util.find_spec("scipy") is None:
        raise ModuleNotFoundError(
            "Standard errors need SciPy: pip install stable_node_tf[compare]"
        )


def over_images(without: Any, constrained: Any) -> dict[str, Any]:
    """Returns the effect in one run; p is that of McNemar's exact test.

    Args:
        without: for each image whether the model whose A is free is right,
            bool, of shape (n,), n >= 2.
        constrained: likewise for the model whose A is constrained.

    Example:
        >>> effect = over_images([True] * 2 + [False] * 8, [True] * 10)
        >>> effect["difference"], round(effect["standard_error"], 4)
        (0.8, 0.1333)
        >>> effect["p_value"]
        0.0078125
    """
    require_scipy()
    from scipy import stats

    before, after = np.asarray(without), np.asarray(constrained)
    gained, lost = int(np.sum(after & ~before)), int(np.sum(before & ~after))
    apart = gained + lost
    # McNemar: images that both or neither get right say nothing.
    p = float(stats.binomtest(gained, apart).pvalue) if apart else 1.0
    return _effect(before, after, "images") | {"p_value": p}


def over_seeds(
    without: Sequence[float], constrained: Sequence[float]
) -> dict[str, Any]:
    """Returns the effect over seeds; p is that of the paired t-test.

    Args:
        without: accuracies of the models whose A is free, in [0, 1], a seed
            each, at least two.
        constrained: likewise of those whose A is constrained.

    Example:
        >>> effect = over_seeds([0.06, 0.05, 0.07], [0.45, 0.46, 0.44])
        >>> round(effect["difference"], 4), round(effect["standard_error"], 4)
        (0.39, 0.0115)
    """
    require_scipy()
    from scipy import stats

    effect = _effect(np.asarray(without), np.asarray(constrained), "seeds")
    difference, error = effect["difference"], effect["standard_error"]
    if error > 0.0:
        t = abs(difference) / error
        effect["p_value"] = float(2 * stats.t.sf(t, len(without) - 1))
    else:
        effect["p_value"] = float(difference == 0.0)
    return effect


def _effect(before: np.ndarray, after: np.ndarray, over: str) -> dict[str, Any]:
    from scipy import stats

    differences = after.astype(float) - before.astype(float)
    return {
        "without": float(before.mean()),
        "constrained": float(after.mean()),
        "difference": float(differences.mean()),
        "standard_error": float(stats.sem(differences)),
        "p_value": math.nan,
        "count": len(before),
        "over": over,
    }


def of_run(right: Mapping[str, Mapping[str, Any]]) -> list[Effect]:
    """Returns all effects in one run.

    Args:
        right: for every model, by its name, the result of every attack, by its
            name.
    """
    return [
        {"ends": ends, "attack": attack, "epsilon": float(epsilon)}
        | over_images(before, after)
        for ends, (free, constrained) in PAIRS.items()
        for attack in ATTACKS
        for epsilon, before, after in zip(
            right[free][attack].epsilons,
            right[free][attack].right,
            right[constrained][attack].right,
            strict=True,
        )
    ]


def of_seeds(
    curves: Sequence[Mapping[str, Mapping[str, Mapping[float, float]]]],
) -> list[Effect]:
    """Returns all effects over several seeds.

    Args:
        curves: for every seed the accuracy by budget, of every attack, of every
            model. Budgets that not all have, and pairs of which a model is
            missing, are left out.
    """
    effects: list[Effect] = []
    for ends, (free, constrained) in PAIRS.items():
        for attack in ATTACKS:
            pairs = [
                [models.get(name, {}).get(attack, {}) for models in curves]
                for name in (free, constrained)
            ]
            shared = set.intersection(*(set(c) for cs in pairs for c in cs))
            effects += [
                {"ends": ends, "attack": attack, "epsilon": epsilon}
                | over_seeds(*([c[epsilon] for c in cs] for cs in pairs))
                for epsilon in sorted(shared)
            ]
    return effects


def sentences(effects: Sequence[Effect], dataset: str) -> list[str]:
    """Returns what the constraint does under PGD, to be quoted.

    Args:
        effects: those of one run, or over several seeds.
        dataset: what the data set is called.

    Returns:
        A sentence for each kind of ends, the bounded ones first.
    """
    found = {(e["ends"], e["attack"], e["epsilon"]): e for e in effects}
    said = []
    for ends, start in (
        ("bounded", "with the same bounded ends"),
        ("free", "with free ends"),
    ):
        attacked = found.get((ends, "pgd", QUOTED))
        clean = found.get((ends, "fgsm", 0.0))
        if attacked and clean:
            said.append(_sentence(attacked, clean, f"On {dataset}, {start}"))
    return said


def points(effect: Effect) -> str:
    """Returns a difference and its standard error, in percentage points."""
    difference = round(100 * effect["difference"], 1) + 0.0  # no minus zero
    return f"{difference:+.1f} ± {100 * effect['standard_error']:.1f}"


def _sentence(attacked: Effect, clean: Effect, start: str) -> str:
    without, constrained, clean_without, clean_constrained = (
        f"{100 * effect[key]:.1f} %"
        for effect in (attacked, clean)
        for key in ("without", "constrained")
    )
    what = f"{ATTACKS[attacked['attack']]} accuracy at ε = {QUOTED:g}"
    paired = "paired " if attacked["over"] == "images" else ""
    of = (
        f"{points(attacked)} points; standard error {paired}over "
        f"{attacked['count']} {attacked['over']}"
    )
    cost = f"Clean accuracy is {clean_without} and {clean_constrained}."
    if attacked["p_value"] < _LEVEL:
        return (
            f"{start}, the stability constraint alone takes {what} from "
            f"{without} to {constrained} ({of}). {cost}"
        )
    return (
        f"{start}, {what} is {without} without the stability constraint and "
        f"{constrained} with it: no significant difference ({of}). {cost}"
    )
