"""Branch and bound on the signs of D: closes the gap around δ(A)."""

import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from stable_node_tf.stability.certificate import (
    minimize_certificate,
    proven_bound,
)

_BATCH = 256
_EIGENVECTORS = 3


class _Nodes(NamedTuple):
    """Boxes of D still open: slope bounds, certificates and upper bounds."""

    lower_slope: np.ndarray
    upper_slope: np.ndarray
    certificate: np.ndarray
    bound: np.ndarray

    def take(self, rows: np.ndarray) -> "_Nodes":
        return _Nodes(*(field[rows] for field in self))


def close_gap(
    matrix: np.ndarray,
    alpha: float,
    vector: np.ndarray,
    certificate: np.ndarray,
    tolerance: float,
    time_limit: float,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Splits the box of D until upper and lower bound of δ(A) meet.

    Each node fixes some D_ii at alpha or 1; its upper bound is the best
    certificate for what is left free, its lower bound the worst D for its top
    eigenvectors. Nodes are opened best first, in batches.

    `vector` and `certificate` are the best ones known for A, of norm about 1.
    It stops at an absolute gap of `tolerance`, or after `time_limit` seconds
    with the interval proven so far.

    Returns:
      The upper bound, true in floating point as that of `certified_log_norm`
      is, the best vector x and its slopes D.
    """
    size = len(matrix)
    deadline = time.monotonic() + time_limit

    def worst_case(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """xᵀ D(x) A x and the diagonal of D(x), for each row x."""
        terms = vectors * (vectors @ matrix.T)
        slopes = np.where(terms > 0, 1.0, alpha)
        return np.sum(slopes * terms, axis=-1), slopes

    best = vector / np.linalg.norm(vector)
    lower = worst_case(best[None])[0][0]
    closed = -np.inf
    nodes = _Nodes(
        np.full((1, size), alpha),
        np.ones((1, size)),
        certificate[None],
        np.full(1, np.inf),
    )
    while len(nodes.bound):
        order = np.argsort(-nodes.bound)
        batch, waiting = nodes.take(order[:_BATCH]), nodes.take(order[_BATCH:])
        rows = np.broadcast_to(matrix, (len(batch.bound), size, size))
        slopes = batch.lower_slope, batch.upper_slope
        t = batch.certificate
        try:
            t = minimize_certificate(rows, t, *slopes, 1e-5).numpy()
        except tf.errors.InvalidArgumentError:
            pass  # singular to working precision: rounding hides a better t
        bound, relaxed = proven_bound(rows, t, *slopes)
        vectors = np.linalg.eigh(relaxed)[1][:, :, -_EIGENVECTORS:]
        batch = batch._replace(
            certificate=t, bound=np.minimum(bound, batch.bound)
        )

        candidates = vectors.transpose(0, 2, 1).reshape(-1, size)
        values, _ = worst_case(candidates)
        if values.max() > lower:
            lower, best = values.max(), candidates[values.argmax()]

        is_open = batch.bound > lower + tolerance
        closed = max(closed, batch.bound[~is_open].max(initial=-np.inf))
        closed = min(closed, lower + tolerance)
        batch, vectors = batch.take(is_open), vectors[is_open]
        is_open = waiting.bound > lower + tolerance
        if not is_open.all():
            closed = lower + tolerance
        waiting = waiting.take(is_open)
        stop = time.monotonic() > deadline
        opened = [batch] if stop else _children(matrix, batch, vectors)
        parts = zip(*opened, waiting, strict=True)
        nodes = _Nodes(*(np.concatenate(fields) for fields in parts))
        if stop:
            break
    upper = max(nodes.bound.max(initial=lower), closed)
    return float(upper), best, worst_case(best)[1]


def _children(
    matrix: np.ndarray, nodes: _Nodes, vectors: np.ndarray
) -> list[_Nodes]:
    """Splits every node at the entry where its relaxation is loosest.

    That is where (r/2) (t_i x_i² + y_i² / t_i) exceeds r |x_i y_i| most.
    """
    radius = (nodes.upper_slope - nodes.lower_slope) / 2
    images = matrix @ vectors
    t = nodes.certificate
    relaxed = t * (vectors**2).sum(-1) + (images**2).sum(-1) / t
    tight = 2 * np.abs((vectors * images).sum(-1))
    score = np.where(radius > 0, radius * (relaxed - tight) + 1e-12, -1.0)
    rows = np.arange(len(score))
    index = score.argmax(-1)
    low, high = nodes.upper_slope.copy(), nodes.lower_slope.copy()
    low[rows, index] = nodes.lower_slope[rows, index]
    high[rows, index] = nodes.upper_slope[rows, index]
    return [nodes._replace(upper_slope=low), nodes._replace(lower_slope=high)]
