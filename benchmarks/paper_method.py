"""The two-level method of arXiv 2501.10740, as something to compare with.

De Marinis, Guglielmi, Sicilia and Tudisco look for the smallest Δ = εE,
‖E‖_F = 1, with max_D μ2(D(A + Δ)) <= δ̄ in two nested iterations: for a fixed
size ε, a gradient flow of E on the unit sphere lowers the eigenvalues that
exceed δ̄; around it, Newton's method with bisection looks for the ε at which
none is left. This is our own implementation of that idea, in NumPy. Where the
description leaves a choice we took the faster one: D is driven to a vertex by
alternating steps, which end where its gradient flow ends; and the functional
counts all eigenvalues above δ̄, not only the first.

Its D is a local maximizer, so that the δ̄ it reports is not proven, and E
settles at a local minimum: the size is an upper estimate of nothing but itself.
"""

from typing import NamedTuple

import numpy as np


class TwoLevelResult(NamedTuple):
    """A + εE, its ‖Δ‖_F = ε, and the eigendecompositions it took."""

    matrix: np.ndarray
    distance: float
    eigendecompositions: int


class _Flow:
    """The inner level: E on the unit sphere at fixed ε."""

    def __init__(self, matrix, delta_bar, alpha):
        self.matrix, self.delta_bar, self.alpha = matrix, delta_bar, alpha
        self.eigendecompositions = 0
        self.generator = np.random.default_rng(0)
        self.last = np.ones(len(matrix))

    def _eigenpairs(self, slopes, B):
        self.eigendecompositions += 1
        scaled = slopes[:, None] * B
        return np.linalg.eigh((scaled + scaled.T) / 2)

    def _worst_slopes(self, B, start):
        """Alternates the top eigenvector x and D(x) until D stays."""
        slopes = start
        for _ in range(30):
            values, vectors = self._eigenpairs(slopes, B)
            x = vectors[:, -1]
            following = np.where(x * (B @ x) > 0, 1.0, self.alpha)
            if np.array_equal(following, slopes):
                break
            slopes = following
        return values, vectors, slopes

    def _functional(self, B, start):
        """½ Σ (λ_i - δ̄)₊² at the worst D found, and its gradient in B."""
        values, vectors, slopes = self._worst_slopes(B, start)
        excess = np.maximum(values - self.delta_bar, 0.0)
        gradient = slopes[:, None] * ((vectors * excess) @ vectors.T)
        return 0.5 * excess @ excess, gradient, slopes

    def worst_start(self, B):
        """The D of the best of several ascents."""
        vertices = self.generator.choice([self.alpha, 1.0], (8, len(B)))
        starts = np.ones(len(B)), self.last, *vertices
        ends = [self._worst_slopes(B, start) for start in starts]
        return max(ends, key=lambda end: end[0][-1])[2]

    def run(self, E, size, tolerance, max_steps):
        """Explicit Euler on E' = -G + ⟨G, E⟩E with an adaptive step."""
        step, stalled = 1.0, True
        for count in range(max_steps):
            if stalled or count % 10 == 0:
                B = self.matrix + size * E
                start = self.worst_start(B)
                if count and stalled and np.array_equal(start, self.last):
                    break
                value, G, self.last = self._functional(B, start)
                step = max(step, 1e-3)
            if value <= tolerance**2:
                stalled = True
                continue
            direction = -G / np.linalg.norm(G)
            direction -= np.sum(direction * E) * E
            trial = E + step * direction
            trial /= np.linalg.norm(trial)
            new_value, new_G, slopes = self._functional(
                self.matrix + size * trial, self.last
            )
            stalled = step < 1e-6 or np.linalg.norm(direction) < 1e-4
            if new_value >= value:
                step /= 2
                continue
            stalled |= value - new_value < 1e-6 * value
            E, value, G, self.last = trial, new_value, new_G, slopes
            step *= 1.3
        B = self.matrix + size * E
        value, G, self.last = self._functional(B, self.worst_start(B))
        return E, value, G


def two_level(
    matrix, delta_bar, alpha, *, tolerance=1e-4, max_steps=200, max_outer=20
) -> TwoLevelResult:
    """Runs both levels.

    Args:
      matrix: A, float64, of shape (d, d).
      delta_bar: δ̄.
      alpha: smallest slope.
      tolerance: relative, on ε and on δ.
      max_steps: of the inner flow, for one ε.
      max_outer: values of ε tried.

    Returns:
      A `TwoLevelResult`; δ of its matrix exceeds δ̄ by the tolerance times the
      norm of A where the flow saw everything, by more where it did not.
    """
    flow = _Flow(matrix, delta_bar, alpha)
    threshold = tolerance * np.linalg.norm(matrix, 2)
    slopes = flow.worst_start(matrix)
    value, G, _ = flow._functional(matrix, slopes)
    if value <= threshold**2:
        return TwoLevelResult(matrix, 0.0, flow.eigendecompositions)
    E = -G / np.linalg.norm(G)
    low, high = 0.0, np.inf
    best_E = E
    # √(2φ) has a simple zero where φ has a double one; dφ/dε = ⟨G, E⟩.
    size = 2 * value / np.linalg.norm(G)
    for _ in range(max_outer):
        E, value, G = flow.run(E, size, threshold, max_steps)
        if value <= threshold**2:
            high, best_E = size, E
        else:
            low = size
        if high - low <= tolerance * high and np.isfinite(high):
            break
        slope = np.sum(G * E)
        newton = size - 2 * value / slope if slope < 0 else 2 * size
        if value > threshold**2 and low < newton < high:
            size = newton + 0.5 * tolerance * newton
        elif np.isfinite(high):
            size = (low + high) / 2
        else:
            size *= 2
    if not np.isfinite(high):
        high, best_E = size, E
    return TwoLevelResult(
        matrix + high * best_E, high, flow.eigendecompositions
    )
