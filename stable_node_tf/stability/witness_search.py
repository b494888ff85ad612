"""The best witness: maximizes the lower bound of δ from many starts.

f(x) = max_D xᵀ D A x over the unit sphere is climbed by the generalized power
method (Journée et al., 2010), x <- (∇f(x) / 2 + cx) / |∇f(x) / 2 + cx|, from
all starts in two matrix products a step. Single climbs reach the best value
known in a few per cent of the starts at d = 64. So later rounds restart from
the best vectors so far, shaken by noise (iterated local search), until several
of them have found nothing better. The matrices are so small that NumPy takes a
fifth of the time of TensorFlow's operations here.
"""

import numpy as np

Array = np.ndarray

_ELITE = 16
_SHAKEN = 48
_LARGEST_NUMBER_OF_STEPS = 96
# Rows that have converged are taken out after so many steps each.
_STEPS_BETWEEN_CHECKS = 8
# Rounds without a better value, after which the search ends.
_PATIENCE = 4
# A gain of a climb or of a round, relative to |A|₂, that does not count.
_SMALL_GAIN = 1e-6


def maximize_witness(
    matrix: Array, starts: Array, alpha: float, rounds: int, seed: int
) -> Array:
    """Returns the best x found, of norm 1.

    It is polished by alternating D(x) and the top eigenvector of sym(DA).
    `starts` is of shape (k, d), no row zero; `seed` seeds the noise, and equal
    arguments give equal results.
    """
    size = len(matrix)
    norm = float(np.linalg.norm(matrix, 2))
    ends = np.linalg.eigvalsh(matrix + matrix.T)[[0, -1]] / 2
    # The top of the spectrum of sym(DA) + cI must be the larger end.
    shift = max(0.25 * norm, 0.1 * norm - ends.mean())
    noise = np.random.default_rng(seed)
    pool = _unit(starts)
    best, values = _climb(pool, matrix, alpha, shift, norm)
    best = np.concatenate([best, pool])
    values = np.concatenate([values, _values(pool, matrix, alpha)])
    best, values = _fittest(best, values)
    futile = 0
    for _ in range(rounds):
        shaken = best[np.arange(_SHAKEN) % len(best)]
        shaken = shaken + 0.7 / np.sqrt(size) * noise.standard_normal(
            shaken.shape
        )
        found, reached = _climb(_unit(shaken), matrix, alpha, shift, norm)
        last = values[0]
        best, values = _fittest(
            np.concatenate([best, found]), np.concatenate([values, reached])
        )
        better = values[0] > last + _SMALL_GAIN * norm
        futile = 0 if better else futile + 1
        if futile == _PATIENCE:
            break
    return _polish(best[0], matrix, alpha)


def _climb(
    vectors: Array, matrix: Array, alpha: float, shift: float, norm: float
) -> tuple[Array, Array]:
    """Where climbs from the rows end, and the values of f there."""
    transposed = np.ascontiguousarray(matrix.T)
    ends, values = np.empty_like(vectors), np.empty(len(vectors))
    climbing = np.arange(len(vectors))
    last = np.full(len(vectors), -np.inf)
    for step in range(_LARGEST_NUMBER_OF_STEPS + 1):
        images = vectors @ transposed
        slopes = np.where(vectors * images > 0.0, 1.0, alpha)
        weighted = slopes * vectors
        if step % _STEPS_BETWEEN_CHECKS == 0:
            reached = np.einsum("ij,ij->i", weighted, images)
            going = np.abs(reached - last) > _SMALL_GAIN * norm
            ends[climbing], values[climbing] = vectors, reached
            climbing, last = climbing[going], reached[going]
            if not len(climbing):
                break
            vectors, images = vectors[going], images[going]
            slopes, weighted = slopes[going], weighted[going]
        moved = (slopes * images + weighted @ matrix) / 2 + shift * vectors
        lengths = np.linalg.norm(moved, axis=1, keepdims=True)
        vectors = np.where(lengths > 0.0, moved, vectors)
        vectors /= np.where(lengths > 0.0, lengths, 1.0)
    return ends, values


def _polish(vector: Array, matrix: Array, alpha: float) -> Array:
    last = _values(vector[None], matrix, alpha)[0]
    for _ in range(20):
        slopes = np.where(vector * (matrix @ vector) > 0.0, 1.0, alpha)
        scaled = slopes[:, None] * matrix
        eigenvalues, eigenvectors = np.linalg.eigh((scaled + scaled.T) / 2)
        if eigenvalues[-1] <= last:
            break
        vector, last = eigenvectors[:, -1], eigenvalues[-1]
    return vector


def _values(vectors: Array, matrix: Array, alpha: float) -> Array:
    products = vectors * (vectors @ matrix.T)
    return np.maximum(products, alpha * products).sum(axis=1)


def _fittest(vectors: Array, values: Array) -> tuple[Array, Array]:
    kept = np.argsort(-values, kind="stable")[:_ELITE]
    return vectors[kept], values[kept]


def _unit(vectors: Array) -> Array:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
