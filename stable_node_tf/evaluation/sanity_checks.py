"""Can the figures of an attack be believed? Checks of the checks.

Each function compares measurements and answers with a `Check`. They follow
what Athalye, Carlini, Wagner (2018), arXiv 1802.00420, section 3.1, and
Carlini et al. (2019), arXiv 1902.06705, ask of an evaluation. Curves that are
compared must be of the same images and budgets, or ValueError is raised.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from stable_node_tf.attacks import Classifier
from stable_node_tf.attacks.batch import ask
from stable_node_tf.certification.certifier import CertifiedCurve
from stable_node_tf.evaluation.accuracy import AccuracyCurve


class Check(NamedTuple):
    """The outcome of one check.

    Attributes:
        name: what is claimed, in words.
        passed: whether the measurements bear it out.
        measured: the figures that decided, by name.
    """

    name: str
    passed: bool
    measured: dict[str, float]


def pgd_at_least_as_strong(pgd: AccuracyCurve, fgsm: AccuracyCurve) -> Check:
    """Checks that many steps leave no more accuracy than one, at any budget.

    Example:
        >>> def curve(*accuracies):
        ...     budgets = np.arange(len(accuracies)) / 10
        ...     return AccuracyCurve(budgets, np.array(accuracies), 1.0, 0.0, 4)
        >>> check = pgd_at_least_as_strong(curve(1.0, 0.25), curve(1.0, 0.5))
        >>> check.passed, check.measured
        (True, {'largest_excess_points': 0.0, 'at_epsilon': 0.0})
    """
    return _no_excess("PGD is at least as strong as FGSM", pgd, fgsm)


def square_never_strongest(
    square: AccuracyCurve, gradient_attacks: Sequence[AccuracyCurve]
) -> Check:
    """Checks that an attack without gradients beats those with them nowhere.

    If it does, the gradients do not point where the network is weak.

    Args:
        square: accuracy under Square.
        gradient_attacks: accuracies under attacks with gradients, in the same
            norm; at least one.
    """
    strongest = _strongest(gradient_attacks, "gradient_attacks")
    return _no_excess("Square is never the strongest", strongest, square)


def certified_at_most_attacked(
    certified: CertifiedCurve, attacks: Sequence[AccuracyCurve]
) -> Check:
    """Checks that no attack gets below what is proven, at any radius.

    If one does, either the proof or its implementation is wrong.

    Args:
        certified: certified accuracy in the 2-norm.
        attacks: accuracies under attacks in the 2-norm, with the radii as
            budgets; at least one.

    Example:
        >>> radii = np.array([0.0, 0.5])
        >>> proven = CertifiedCurve(radii, np.array([1.0, 0.5]), 1.0, "", 4)
        >>> left = AccuracyCurve(radii, np.array([1.0, 0.75]), 1.0, 0.0, 4)
        >>> certified_at_most_attacked(proven, [left]).passed
        True
    """
    strongest = _strongest(attacks, "attacks")
    claimed = strongest._replace(
        epsilons=certified.radii,
        accuracies=certified.accuracies,
        num_images=certified.num_images,
    )
    return _no_excess(
        "No attack gets below certified accuracy", claimed, strongest
    )


def falls_to_chance(curve: AccuracyCurve, num_classes: int) -> Check:
    """Checks that the largest budget leaves no more accuracy than guessing.

    In the l-infinity norm half of the pixel range is enough to turn every
    image into the same gray, so that accuracy under an attack that works is
    at most chance, 1 / num_classes.

    Example:
        >>> curve = AccuracyCurve(
        ...     np.array([0.0, 0.5]), np.array([1.0, 0.25]), 1.0, 0.0, 4
        ... )
        >>> falls_to_chance(curve, 10).passed, falls_to_chance(curve, 4).passed
        (False, True)
    """
    last = np.argmax(curve.epsilons)
    measured = {
        "accuracy": float(curve.accuracies[last]),
        "chance": 1.0 / num_classes,
        "epsilon": float(curve.epsilons[last]),
    }
    passed = measured["accuracy"] <= measured["chance"]
    return Check("Accuracy falls to chance or below", passed, measured)


def few_zero_gradients(curve: AccuracyCurve, limit: float = 0.01) -> Check:
    """Checks that almost every image has a gradient to follow.

    Args:
        curve: accuracy under an attack that uses gradients.
        limit: largest share of images with a gradient of exactly zero.
    """
    share = curve.zero_gradient_share
    if share is None:
        raise ValueError(
            "curve must be of an attack that uses gradients. "
            "Received: zero_gradient_share=None"
        )
    return Check(
        "Hardly any gradient is exactly zero",
        share <= limit,
        {"share": share, "limit": limit},
    )


def same_gradient(
    model: Classifier,
    twin: Classifier,
    images: Any,
    labels: Any,
    *,
    limit: float = 1e-3,
    batch_size: int = 500,
) -> Check:
    """Checks that two models have the same gradient, but for rounding.

    Meant for a model in memory and the same model exported and reloaded.

    Args:
        model: maps images to logits, see `stable_node_tf.attacks.Attack`.
        twin: what should be the same model.
        images: array (n, ...) of floats in [0, 1], n >= 1.
        labels: integer array (n,) with the true classes.
        limit: largest distance of the two gradients of an image in the
            2-norm, relative to the longer one, that rounding excuses.
        batch_size: images per call of the models.

    Example:
        >>> weights = np.float32([[-1.0, 1.0], [2.0, 0.5]])
        >>> check = same_gradient(
        ...     lambda x: x @ weights, lambda x: 1.1 * x @ weights,
        ...     [[0.5, 0.5]], [1],
        ... )
        >>> check.passed, round(check.measured["largest_relative_distance"], 2)
        (False, 0.09)
    """
    worst, differing, pixels = 0.0, 0, 0
    asked = [
        ask(each, images, labels, batch_size=batch_size, loss="cross_entropy")
        for each in (model, twin)
    ]
    for batches in zip(*asked, strict=True):
        mine, theirs = (
            batch.gradient.reshape(len(batch.labels), -1).astype(np.float64)
            for batch in batches
        )
        lengths = np.linalg.norm([mine, theirs], axis=2).max(axis=0)
        distances = np.linalg.norm(mine - theirs, axis=1)
        relative = distances / np.maximum(lengths, 1e-300)
        worst = max(worst, float(relative.max()))
        differing += int(np.sum(np.sign(mine) != np.sign(theirs)))
        pixels += mine.size
    return Check(
        "Exported and in-memory gradients are equal",
        worst <= limit,
        {
            "largest_relative_distance": worst,
            "share_of_differing_signs": differing / pixels,
            "limit": limit,
        },
    )


def finer_solver_agrees(
    curve: AccuracyCurve, finer: AccuracyCurve, limit_points: float = 0.3
) -> Check:
    """Checks that no figure depends on the discretization of the ODE.

    A network on a coarse fixed grid may well fail: then its figures are those
    of the discretized network and not of the differential equation.

    Args:
        curve: accuracy under an attack.
        finer: the same for `stable_node_tf.models.with_finer_solver`.
        limit_points: largest difference of two accuracies, in percentage
            points, the clean ones included.

    Example:
        >>> curve = AccuracyCurve(np.array([0.1]), np.array([0.5]), 1.0, 0.0, 4)
        >>> better = curve._replace(accuracies=np.array([0.625]))
        >>> finer_solver_agrees(curve, better).measured
        {'largest_change_points': 12.5, 'limit_points': 0.3}
    """
    _check_alike(curve, finer)
    changes = np.append(
        curve.accuracies - finer.accuracies,
        curve.clean_accuracy - finer.clean_accuracy,
    )
    largest = 100 * float(np.abs(changes).max())
    return Check(
        "A finer solver moves no figure",
        round(largest, 9) <= limit_points,
        {"largest_change_points": largest, "limit_points": limit_points},
    )


def _no_excess(
    name: str, stronger: AccuracyCurve, weaker: AccuracyCurve
) -> Check:
    _check_alike(stronger, weaker)
    excess = stronger.accuracies - weaker.accuracies
    worst = np.argmax(excess)
    return Check(
        name,
        bool(excess[worst] <= 0),
        {
            "largest_excess_points": 100 * float(excess[worst]),
            "at_epsilon": float(stronger.epsilons[worst]),
        },
    )


def _strongest(curves: Sequence[AccuracyCurve], name: str) -> AccuracyCurve:
    """The least accuracy that any of the attacks leaves, at each budget."""
    if not curves:
        raise ValueError(f"{name} must not be empty. Received: no attacks")
    _check_alike(*curves)
    return curves[0]._replace(
        accuracies=np.min([curve.accuracies for curve in curves], axis=0)
    )


def _check_alike(*curves: AccuracyCurve) -> None:
    kinds = {(tuple(c.epsilons.tolist()), c.num_images) for c in curves}
    if len(kinds) > 1:
        raise ValueError(
            "curves must have the same budgets and the same number of images. "
            f"Received: {', '.join(f'{e} for {n} images' for e, n in kinds)}"
        )
