"""Projection onto {δ <= δ̄} itself, by cutting planes with an exact oracle."""

import itertools
import time
from typing import NamedTuple

import numpy as np

from stable_node_tf.stability.log_norm import worst_case_log_norm
from stable_node_tf.stability.projection.certified_projection import (
    Array,
    Pair,
    Problem,
)
from stable_node_tf.stability.rounding import UNIT_ROUNDOFF

_ENUMERATED = 14
_ENUMERATED_ALWAYS = 8
_BATCH = 4096
_STARTS = 64
_MANY_STARTS = 4096
_ROUNDS_KEPT = 8

# xᵀ D B x, the x and the diagonals of the D, in rows.
_Witnesses = tuple[Array, Array, Array]


class ExactProjection(NamedTuple):
    """Where the cutting planes ended.

    Attributes:
      matrix: the projection onto the cuts so far, an outer approximation.
      upper: proven upper bound of δ(matrix); infinite where time ran out.
      vectors: the x_k of the cuts, weighted, in columns.
      slopes: the diagonals of their D_k, in columns.
    """

    matrix: Array
    upper: float
    vectors: Array
    slopes: Array


def nonnegative_quadratic(gram: Array, linear: Array, start: Array) -> Array:
    """Maximizes linearᵀc - ½ cᵀ gram c over c >= 0, by an active-set method.

    After Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23,
    from a warm start.
    """
    ridge = 1e-14 * np.trace(gram) / len(gram)
    gram = gram + ridge * np.eye(len(gram))
    level = 1e-13 * max(np.abs(linear).max(), ridge)
    c = start.copy()
    passive = c > 0
    for _ in range(10 * len(c)):
        while passive.any():
            rows = np.flatnonzero(passive)
            target = np.linalg.solve(gram[np.ix_(rows, rows)], linear[rows])
            if target.min() > 0:
                c[rows] = target
                break
            falling = target <= 0
            ratios = c[rows[falling]] / (c[rows] - target)[falling]
            c[rows] += ratios.min() * (target - c[rows])
            leaving = rows[falling][ratios <= ratios.min()]
            c[leaving] = 0.0
            passive[leaving] = False
        slope = linear - gram @ c
        slope[passive] = -np.inf
        entering = slope.argmax()
        if slope[entering] <= level:
            break
        passive[entering] = True
    return c


def _top_eigenpairs(slopes: Array, B: Array) -> Pair:
    """Of sym(DB), for D in the rows of `slopes`."""
    scaled = slopes[:, :, None] * B
    values, vectors = np.linalg.eigh((scaled + scaled.transpose(0, 2, 1)) / 2)
    return values[:, -1], vectors[:, :, -1]


def _climb(B: Array, vectors: Array, alpha: float) -> _Witnesses:
    """Alternates D(x) and the top eigenvector x of sym(DB), row by row."""
    last = None
    for _ in range(12):
        slopes = np.where(vectors * (vectors @ B.T) > 0, 1.0, alpha)
        slopes = np.unique(slopes, axis=0)
        if last is not None and np.array_equal(slopes, last):
            break
        values, vectors = _top_eigenpairs(slopes, B)
        last = slopes
    return values, vectors, slopes


def _oracle(B: Array, alpha: float, seconds: float) -> tuple[float, _Witnesses]:
    """A proven upper bound of δ(B), infinite where time ran out; witnesses."""
    size = len(B)
    if size > _ENUMERATED:
        bracket = worst_case_log_norm(B, alpha, exact=True, time_limit=seconds)
        slopes = bracket.witness.diagonal[None]
        return bracket.upper, (*_top_eigenpairs(slopes, B), slopes)
    vertices = itertools.product((alpha, 1.0), repeat=size)
    best = []
    deadline = time.monotonic() + seconds
    while batch := list(itertools.islice(vertices, _BATCH)):
        slopes = np.array(batch)
        values, vectors = _top_eigenpairs(slopes, B)
        order = np.argsort(-values)[:_STARTS]
        best.append((values[order], vectors[order], slopes[order]))
        if time.monotonic() > deadline:
            return np.inf, best[-1]
    values, vectors, slopes = map(np.concatenate, zip(*best, strict=True))
    allowance = 100 * size * UNIT_ROUNDOFF * np.linalg.norm(B)
    return float(values.max() + allowance), (values, vectors, slopes)


def project_exact(
    problem: Problem,
    vectors: Array,
    slopes: Array,
    tolerance: float,
    time_limit: float,
) -> ExactProjection:
    """Projects onto {B : δ(B) <= δ̄} from outside.

    Every unit x and vertex D of [α, 1]^d give a half-space ⟨D x xᵀ, B⟩ <= δ̄;
    the projection onto finitely many is B = A - Σ c_k D_k x_k x_kᵀ with c >= 0
    from a small quadratic program. New cuts are local maxima of
    (D, x) -> xᵀDBx over δ̄, then, when no search finds any, those that an exact
    oracle finds: all vertices up to d = 14, branch and bound above.

    The first x_k and the diagonals of their D_k are the columns of `vectors`,
    not normalized, and `slopes`. It ends when δ(B) - δ̄ <= tolerance, or after
    `time_limit` seconds.
    """
    matrix, bound, alpha = problem
    deadline = time.monotonic() + time_limit
    size = len(matrix)
    generator = np.random.default_rng(0)
    lengths = np.linalg.norm(vectors, axis=0)
    kept = lengths > 1e-6 * lengths.max()
    X, S = (vectors[:, kept] / lengths[kept]).T, slopes[:, kept].T
    c = lengths[kept] ** 2
    if not kept.any():
        X, S, c = np.eye(size), np.ones((size, size)), np.zeros(size)
    searches = (_STARTS, _MANY_STARTS) if size > _ENUMERATED_ALWAYS else ()
    idle = np.zeros(len(c), int)
    upper = np.inf
    while True:
        # The projection onto the cuts: B = A - Σ c_k D_k x_k x_kᵀ.
        gram = ((X * S) @ (X * S).T) * (X @ X.T)
        linear = np.sum(S * X * (X @ matrix.T), axis=1) - bound
        gram = (gram + gram.T) / 2
        c = nonnegative_quadratic(gram, linear, c)
        B = matrix - (c[:, None] * S * X).T @ X
        if time.monotonic() > deadline:
            break
        idle = np.where(c > 0, 0, idle + 1)

        for count in searches:
            active = X[c > 0] if c.any() else X
            shaken = np.resize(active, (count, size))
            noise = generator.normal(size=shaken.shape) / np.sqrt(size)
            starts = np.concatenate([active, shaken + noise])
            values, vectors, slopes = _climb(B, starts, alpha)
            if values.max() > bound + tolerance / 2:
                break
        else:
            upper, (values, vectors, slopes) = _oracle(
                B, alpha, deadline - time.monotonic()
            )
            if upper <= bound + tolerance or values.max() <= bound:
                break
        new = np.flatnonzero(values > bound + tolerance / 4)
        upper = np.inf
        keep = idle < _ROUNDS_KEPT
        X = np.concatenate([X[keep], vectors[new]])
        S = np.concatenate([S[keep], slopes[new]])
        c = np.concatenate([c[keep], np.zeros(len(new))])
        idle = np.concatenate([idle[keep], np.zeros(len(new), int)])
    active = c > 0
    return ExactProjection(
        B, upper, (np.sqrt(c[active])[:, None] * X[active]).T, S[active].T
    )
