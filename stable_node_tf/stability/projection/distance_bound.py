"""A lower bound on the distance to the matrices with δ <= δ̄.

Every x and diagonal D in [α, 1] gives the half-space ⟨D x xᵀ, B⟩ <= δ̄ xᵀx,
which holds all B with δ(B) <= δ̄. With G = Σ D_k x_k x_kᵀ the sum of several
says ⟨G, B⟩ <= δ̄ Σ |x_k|², so no such B is nearer to A than

    (⟨G, A⟩ - δ̄ Σ |x_k|²) / |G|

(docs/theory.md, "The nearest stable matrix").
"""

import numpy as np

from stable_node_tf.stability.projection.certified_projection import (
    Array,
    Pair,
    Problem,
)
from stable_node_tf.stability.rounding import relative_rounding

_STEPS = 8
_TIE = 1e-3
_STEP_SIZES = np.geomspace(1e-3, 1e1, 128)


def distance_lower_bound(
    problem: Problem, vectors: Array, slopes: Array
) -> float:
    """The distance that cuts prove, less an allowance for rounding; >= 0.

    x_k and the diagonals of D_k, entries in [α, 1], are the columns of two
    matrices of shape (d, p).

    >>> one = np.eye(1)
    >>> round(distance_lower_bound(Problem(one, 0.5, 0.1), one, one), 9)
    0.5
    """
    matrix, bound, _ = problem
    G = (slopes * vectors) @ vectors.T
    norm = np.linalg.norm(G)
    if not (np.isfinite(norm) and norm > 1e-150):
        return 0.0
    squares = np.sum(vectors**2)
    gain = np.sum(G * matrix) - bound * squares
    # The rounding of the numerator and of |G|.
    cross = np.linalg.norm(np.abs(vectors) @ np.abs(vectors).T)
    magnitude = cross * np.linalg.norm(matrix) + abs(bound) * squares
    error = relative_rounding(2 * (matrix.size + vectors.size) + 50) * magnitude
    norm *= 1 + relative_rounding(matrix.size + 4)
    norm += relative_rounding(vectors.shape[1] + 2) * cross
    return max(0.0, float((gain - error) / norm * (1 - 1e-13)))


def improve_cuts(
    problem: Problem,
    near: Array,
    multiplier: Array,
    count: int,
    rounds: int,
) -> Pair:
    """Vectors x_k whose cuts prove a large distance, and their D_k.

    Maximizes ⟨G, A⟩ - ½|G|² - δ̄ Σ |x_k|² over all vectors at once (a low-rank
    factorization of the dual problem, after Burer and Monteiro, 2003):
    nonlinear conjugate gradients with the D_k held fixed, along which the
    objective is a quartic, then new D_k from B = A - G.

    B, `near` the projection of A, chooses the first D_k; where it leaves a
    slope undecided, A decides. The first x_k, `count` >= d of them, are a
    random rotation of the square root of the certified projection's multiplier.
    Each round takes 8 gradients.
    """
    matrix, _, alpha = problem
    generator = np.random.default_rng(0)
    rotation = np.linalg.qr(generator.normal(size=(count, len(matrix))))[0]
    eigenvalues, eigenvectors = np.linalg.eigh(multiplier)
    root = eigenvectors * np.sqrt(np.maximum(eigenvalues, 0.0))
    V = root @ rotation.T
    best = 0.0, V, np.ones_like(V)
    for _ in range(rounds):
        terms = V * (near @ V)
        ties = np.abs(terms) <= _TIE * np.abs(V) * np.linalg.norm(V, axis=0)
        terms = np.where(ties, V * (matrix @ V), terms)
        slopes = np.where(terms > 0, 1.0, alpha)
        V, near = _ascend(problem, V, slopes)
        value = distance_lower_bound(problem, V, slopes)
        best = max(best, (value, V, slopes), key=lambda cuts: cuts[0])
    return best[1:]


def _ascend(problem: Problem, V: Array, slopes: Array) -> Pair:
    """Conjugate gradients (Polak and Ribière, restarted) for fixed D_k."""
    matrix, bound, _ = problem
    H = slopes * V
    B = matrix - H @ V.T
    last, square, direction = np.zeros_like(V), np.inf, np.zeros_like(V)
    for _ in range(_STEPS):
        gradient = slopes * (B @ V) + B.T @ H - 2 * bound * V
        weight = np.sum(gradient * (gradient - last)) / square
        direction = gradient + max(weight, 0.0) * direction
        last, square = gradient, max(np.vdot(gradient, gradient), 1e-300)
        # G moves by sG₁ + s²G₂, the objective by c₁s + c₂s² + c₃s³ + c₄s⁴.
        moved = slopes * direction
        G1 = moved @ V.T + H @ direction.T
        G2 = moved @ direction.T
        c1 = np.vdot(G1, B) - 2 * bound * np.vdot(V, direction)
        c2 = np.vdot(G2, B) - np.vdot(G1, G1) / 2
        c2 -= bound * np.vdot(direction, direction)
        c3, c4 = -np.vdot(G1, G2), -np.vdot(G2, G2) / 2
        if not (c1 > 0.0 and c4 < 0.0):
            break
        s = np.cbrt(-c1 / c4) * _STEP_SIZES
        values = s * (c1 + s * (c2 + s * (c3 + s * c4)))
        step = s[values.argmax()] if values.max() > 0.0 else 0.0
        V = V + step * direction
        H = H + step * moved
        B = B - step * G1 - step**2 * G2
    return V, B
