"""Accuracy under attack, and how far neighboring trajectories drift apart."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from stable_node_tf import attacks
from stable_node_tf.attacks import losses
from stable_node_tf.attacks.batch import ask


class AccuracyCurve(NamedTuple):
    """Accuracy against attack budget, over n images.

    Attributes:
        epsilons: the budgets, float64, shape (E,).
        accuracies: share of images still classified correctly under attack,
            float64 in [0, 1], shape (E,).
        clean_accuracy: the same without any attack.
        zero_gradient_share: share of images whose loss gradient is exactly
            zero in every pixel. Such images cannot be attacked by gradients;
            more than a few per cent means that gradients are masked and the
            curve says little. None for an attack without gradients.
        num_images: n.
    """

    epsilons: np.ndarray
    accuracies: np.ndarray
    clean_accuracy: float
    zero_gradient_share: float | None
    num_images: int

    @classmethod
    def of(cls, result: attacks.AttackResult) -> "AccuracyCurve":
        """The curve that an attack has traced."""
        stuck = result.zero_gradient
        return cls(
            result.epsilons,
            result.accuracies,
            float(np.mean(result.clean_predictions == result.labels)),
            None if stuck is None else float(stuck.mean()),
            len(result.labels),
        )


def accuracy_curve(
    model: attacks.Classifier,
    images: Any,
    labels: Any,
    attack: attacks.Attack,
    epsilons: float | Sequence[float],
    **options: Any,
) -> AccuracyCurve:
    """Computes accuracy under an attack.

    The attacked images are dropped batch by batch, so memory does not grow
    with the number of images or budgets beyond one batch.

    Args:
        model: maps images to logits, see `stable_node_tf.attacks.Attack`, as
            for all arguments.
        images: array (n, ...) of floats, or a data set.
        labels: integer array (n,), or None with a data set.
        attack: for example `attacks.PGD()`.
        epsilons: budgets in the attack's norm.
        **options: bounds, targets and batch_size.

    Returns:
        An `AccuracyCurve` in the order of `epsilons`.

    Example:
        >>> weights = tf.constant([[-1.0, 1.0]])
        >>> curve = accuracy_curve(
        ...     lambda x: (x - 0.5) @ weights,
        ...     [[0.6], [0.9]], [1, 1], attacks.FGSM(), [0.0, 0.2, 0.5],
        ... )
        >>> curve.accuracies.tolist(), curve.clean_accuracy
        ([1.0, 0.5, 0.0], 1.0)
    """
    batches = attack.batches(model, images, labels, epsilons, **options)
    return AccuracyCurve.of(
        attacks.collect(batch.without_images() for batch in batches)
    )


def margins(
    model: attacks.Classifier,
    images: Any,
    labels: Any,
    batch_size: int = 500,
) -> np.ndarray:
    """Computes by how much the true class leads: logit minus largest rival.

    Negative where the answer is wrong. Arguments and errors are those of
    `stable_node_tf.attacks.Attack`; the model need not be differentiable.

    Returns:
        The margins, float64, shape (n,).

    Example:
        >>> weights = tf.constant([[-1.0, 1.0]])
        >>> margins(lambda x: x @ weights, [[0.25], [0.5]], [1, 0]).tolist()
        [0.5, -1.0]
    """
    return np.concatenate(
        [
            -losses.cw(batch.logits.astype(np.float64), batch.labels).numpy()
            for batch in ask(model, images, labels, batch_size=batch_size)
        ]
    )


def separation(
    solve: Callable[[Any, Any], Any],
    state: Any,
    perturbation: Any,
    times: Any,
) -> np.ndarray:
    """Computes how far neighboring trajectories drift apart.

    With u the trajectory from `state` and v the one from
    `state + perturbation`, the ratio

        ||u(t) - v(t)||_2 / ||u(0) - v(0)||_2

    is at most exp(delta t) for the exact flow of u' = sigma(A u + b), where
    delta is the worst-case logarithmic norm of A. A discretized flow obeys
    its own bound. Both trajectories are solved in one batch, so that an
    adaptive solver takes the same steps for both.

    Args:
        solve: maps a tensor of states (batch, d) and a float64 array of
            times (k,) to the trajectory (k, batch, d), for example
            `StableODELayer.trajectory`.
        state: start states, floats, shape (batch, d).
        perturbation: what is added to them, same shape, no row zero.
        times: increasing times >= 0, floats, shape (k,).

    Returns:
        The ratios, float64, shape (k, batch).

    Example:
        >>> def decay(state, times):
        ...     return np.exp(-times)[:, None, None] * state
        >>> ratio = separation(decay, [[1.0, 2.0]], [[0.5, 0.0]], [0.0, 1.0])
        >>> ratio.round(4).ravel().tolist()
        [1.0, 0.3679]
    """
    u = tf.convert_to_tensor(state)
    offset = tf.convert_to_tensor(perturbation, u.dtype)
    grid = np.asarray(times, np.float64)
    if u.shape.rank != 2 or u.shape != offset.shape or not u.shape[0]:
        raise ValueError(
            "state and perturbation must have one shape (batch, d), "
            f"batch >= 1. Received: state {tuple(u.shape)}, "
            f"perturbation {tuple(offset.shape)}"
        )
    increasing = grid.ndim == 1 and grid.size > 0 and np.all(np.diff(grid) > 0)
    if not increasing or not np.isfinite(grid).all() or grid[0] < 0:
        raise ValueError(
            "times must be a non-empty list of finite, increasing numbers "
            f">= 0. Received: times={times!r}"
        )
    v = u + offset
    start = _distance(u.numpy(), v.numpy())
    if not np.all(start > 0):
        raise ValueError(
            "perturbation must move every state. Received: a perturbation "
            f"that leaves {np.sum(~(start > 0))} of {len(start)} states in "
            f"place in {u.dtype.name} arithmetic"
        )
    both = np.asarray(solve(tf.concat([u, v], axis=0), grid))
    expected = (len(grid), 2 * len(start), u.shape[1])
    if both.shape != expected:
        raise ValueError(
            f"solve must return a trajectory of shape {expected}. "
            f"Received: {both.shape}"
        )
    end = _distance(both[:, : len(start)], both[:, len(start) :])
    if not np.isfinite(end).all():
        raise ValueError(
            "solve must return finite states. Received: NaN or infinity"
        )
    return np.asarray(end / start)


def _distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    difference = u.astype(np.float64) - v.astype(np.float64)
    return np.asarray(np.linalg.norm(difference, axis=-1))
