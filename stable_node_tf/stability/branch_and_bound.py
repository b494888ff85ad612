"""Branch and bound on the signs of D: closes the gap around δ(A)."""

import time
from typing import NamedTuple

import numpy as np

from stable_node_tf.stability.certificate_bound import bound_above
from stable_node_tf.stability.certificate_search import minimize_certificate

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


def _join(*parts: _Nodes) -> _Nodes:
    return _Nodes(
        *(np.concatenate(fields) for fields in zip(*parts, strict=True))
    )


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
    eigenvector. Nodes are opened best first, in batches.

    Args:
      matrix: A, float64, of shape (d, d), of norm about 1.
      alpha: smallest slope.
      vector: the best witness vector known, of shape (d,).
      certificate: the best certificate known, of shape (d,).
      tolerance: absolute gap at which to stop.
      time_limit: seconds after which to stop with the interval proven so far.

    Returns:
      The upper bound, true in floating point as that of `certified_log_norm`
      is, the best vector x and its slopes D.
    """
    size = len(matrix)
    deadline = time.monotonic() + time_limit

    def slopes_of(vectors):
        return np.where(vectors * (vectors @ matrix.T) > 0, 1.0, alpha)

    def attained(vectors):
        images = vectors @ matrix.T
        return np.sum(slopes_of(vectors) * vectors * images, axis=-1)

    def evaluate(nodes):
        """Proven bounds, and the eigenvectors of the largest eigenvalues."""
        rows = np.broadcast_to(matrix, (len(nodes.bound), size, size))
        proven, bounds = bound_above(
            rows, nodes.certificate, nodes.lower_slope, nodes.upper_slope
        )
        return proven, np.linalg.eigh(bounds)[1][:, :, -_EIGENVECTORS:]

    best = vector / np.linalg.norm(vector)
    lower = attained(best[None])[0]
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
        t = minimize_certificate(
            np.broadcast_to(matrix, (len(batch.bound), size, size)),
            batch.certificate,
            batch.lower_slope,
            batch.upper_slope,
            1e-5,
        ).numpy()
        batch = batch._replace(certificate=t)
        bound, vectors = evaluate(batch)
        batch = batch._replace(bound=np.minimum(bound, batch.bound))

        candidates = vectors.transpose(0, 2, 1).reshape(-1, size)
        values = attained(candidates)
        if values.max() > lower:
            lower, best = values.max(), candidates[values.argmax()]

        open_rows = batch.bound > lower + tolerance
        closed = max(closed, batch.bound[~open_rows].max(initial=-np.inf))
        closed = min(closed, lower + tolerance)
        batch, vectors = batch.take(open_rows), vectors[open_rows]
        waiting_open = waiting.bound > lower + tolerance
        if not waiting_open.all():
            closed = lower + tolerance
        waiting = waiting.take(waiting_open)
        if time.monotonic() > deadline:
            nodes = _join(batch, waiting)
            break
        nodes = _join(*_children(matrix, batch, vectors), waiting)
    upper = max(nodes.bound.max(initial=lower), closed)
    return float(upper), best, slopes_of(best)


def _children(matrix, nodes, vectors):
    """Splits every node at the entry where its relaxation is loosest."""
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
    return (
        nodes._replace(upper_slope=low),
        nodes._replace(lower_slope=high),
    )
