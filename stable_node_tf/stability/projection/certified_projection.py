"""Projection onto the certified set: a semidefinite program by ADMM.

In NumPy, whose LAPACK eigendecomposition and small arrays made a projection
three times faster at d = 40 and 64 than the same loop of TensorFlow operations.
docs/theory.md, "The nearest stable matrix".
"""

from typing import NamedTuple

import numpy as np

Array = np.ndarray
Pair = tuple[Array, Array]

_NEGLIGIBLE = 1e-2
_MEMORY = 20
_WEIGHT = 0.5
_RELAXATION = 1.6
_FIRST_CERTIFICATES = (0.1, 0.16, 0.25, 0.4, 0.63, 1.0)


class Problem(NamedTuple):
    """To project A, float64, of norm about 1, onto the matrices with δ <= δ̄."""

    matrix: Array
    bound: float
    alpha: float


class CertifiedProjection(NamedTuple):
    """A pair (B, t) with δ_t(B) <= δ̄, and what bounds its distance.

    `multiplier` is X ⪰ 0 of the corner of the matrix inequality. The bound, for
    all certified matrices, is not corrected for rounding. `steps` counts
    eigendecompositions.
    """

    matrix: Array
    certificate: Array
    multiplier: Array
    distance_lower_bound: float
    steps: int


class _MatrixInequality:
    """M(B, t) and the steps of ADMM that depend on it; see below."""

    def __init__(self, problem: Problem) -> None:
        self.matrix, self.bound, alpha = problem
        self.middle, self.radius = (1 + alpha) / 2, (1 - alpha) / 2
        self.beta = _WEIGHT * np.sqrt(self.radius / 2)
        self.tau = _WEIGHT**2
        self.symmetric = (self.matrix + self.matrix.T) / 2
        self.skew = self.matrix - self.symmetric
        self.size = len(self.matrix)

    def lift(self, B: Array, t: Array) -> Array:
        """M(B, t), of shape (2d, 2d)."""
        d = self.size
        M = np.zeros((2 * d, 2 * d))
        M[:d, :d] = (-self.middle / 2) * (B + B.T)
        M[d:, :d] = self.beta * B
        M[:d, d:] = M[d:, :d].T
        diagonal = M.reshape(-1)[:: 2 * d + 1]
        diagonal[:d] += self.bound - self.radius / 2 * t
        diagonal[d:] = self.tau * t
        return M

    def nearest(self, E: Array, rho: float) -> Pair:
        """Argmin over (B, t) of ½|B - A|² + ½ρ|M(B, t) - E|²."""
        d, m, r = self.size, self.middle, self.radius
        corner, low = E[:d, :d], E[d:, :d]
        low_symmetric = (low + low.T) / 2
        right = self.symmetric - rho * (m * corner)
        right += (2 * rho * self.beta) * low_symmetric
        weight = 1 + rho * (m**2 + 2 * self.beta**2)
        skew = self.skew + (2 * rho * self.beta) * (low - low_symmetric)
        B = right / weight + skew / (1 + 2 * rho * self.beta**2)
        # b_ii and t_i are coupled: two by two systems, by Cramer's rule.
        diagonal = E.reshape(-1)[:: 2 * d + 1]
        first = np.diag(right) + rho * m * self.bound
        second = r / 2 * (self.bound - diagonal[:d]) + self.tau * diagonal[d:]
        cross, square = m * r / 2, r**2 / 4 + self.tau**2
        determinant = weight * square - rho * cross**2
        np.fill_diagonal(
            B, (square * first - rho * cross * second) / determinant
        )
        return B, (weight * second - cross * first) / determinant

    def lower_bound(self, Y: Array) -> float:
        """The distance that a multiplier proves, made feasible."""
        d, r = self.size, self.radius
        X, P = Y[:d, :d], Y[d:, :d]
        # Rows of P are scaled until W_ii <= (r/2) X_ii; G = mX - √(2r) P.
        diagonal = np.maximum(Y.reshape(-1)[:: 2 * d + 1], 0.0)
        allowed, used = r / 2 * diagonal[:d], self.tau * diagonal[d:]
        rows = np.sqrt(allowed / np.maximum(np.maximum(used, allowed), 1e-300))
        G = self.middle * X
        G -= (_WEIGHT * np.sqrt(2 * r)) * rows[:, None] * P
        gain = np.vdot(G, self.matrix) - self.bound * np.trace(X)
        return gain / max(np.linalg.norm(G), 1e-300)

    def start(self) -> Pair:
        """Slack and multiplier of the best B among T = tI.

        There the certified set is a ball, |B + (m/r) tI|₂ <= R, and the nearest
        B clips singular values; its multiplier lives on the null space of
        M(B, t).
        """
        matrix, bound, m, r = self.matrix, self.bound, self.middle, self.radius
        alpha = m - r
        eye = np.eye(self.size)
        gram, twice = matrix.T @ matrix, matrix + matrix.T

        def ball(t):
            return m / r * t, np.sqrt(t * (2 * bound / r + alpha / r**2 * t))

        def distance(t: float) -> float:
            shift, limit = ball(t)
            squares = np.linalg.eigvalsh(gram + shift * twice) + shift**2
            values = np.sqrt(np.maximum(squares, 0.0))
            return float(np.linalg.norm(np.maximum(values - limit, 0.0)))

        norm = max(float(np.linalg.norm(matrix, 2)), abs(bound), 1e-140)
        smallest = max(0.0, -2 * bound * r / alpha)
        t = min(
            (smallest + norm * c for c in _FIRST_CERTIFICATES), key=distance
        )
        shift, limit = ball(t)
        left, values, right = np.linalg.svd(matrix + shift * eye)
        B = (left * np.minimum(values, limit)) @ right - shift * eye
        null = np.vstack([right.T, -self.beta / self.tau / t * B @ right.T])
        null *= np.sqrt(np.maximum(values - limit, 0.0) * (t / (r * limit)))
        return self.lift(B, np.full(len(B), t)), null @ null.T


class _AndersonAcceleration:
    """Extrapolates a fixed-point iteration (Walker and Ni, 2011)."""

    def __init__(self, width: int) -> None:
        self.changes = np.zeros((_MEMORY, width))
        self.leaps = np.zeros((_MEMORY, width))
        self.gram = np.zeros((_MEMORY, _MEMORY))
        self.clear()

    def clear(self) -> None:
        self.count = 0
        self.last: Pair | None = None

    def next(self, point: Array, change: Array) -> Array:
        """The next point, from this one and its plain step."""
        if self.last is not None:
            row = self.count % _MEMORY
            self.count += 1
            kept = min(self.count, _MEMORY)
            np.subtract(change, self.last[1], out=self.changes[row])
            np.subtract(point, self.last[0], out=self.leaps[row])
            self.leaps[row] += self.changes[row]
            products = self.changes[:kept] @ self.changes[row]
            self.gram[row, :kept] = self.gram[:kept, row] = products
        self.last = point, change
        if not self.count:
            return point + change
        kept = min(self.count, _MEMORY)
        # Least squares for weights of the last changes, by normal equations.
        scale = 1 / np.sqrt(np.maximum(np.diag(self.gram)[:kept], 1e-300))
        gram = self.gram[:kept, :kept] * np.outer(scale, scale)
        np.fill_diagonal(gram, 1 + 1e-10)
        right = scale * (self.changes[:kept] @ change)
        weights = scale * np.linalg.solve(gram, right)
        return point + change - weights @ self.leaps[:kept]


def _split(symmetric: Array) -> Pair:
    """The nearest positive semidefinite matrix, and the rest."""
    eigenvalues, vectors = np.linalg.eigh(symmetric)
    negative = np.searchsorted(eigenvalues, 0.0)
    if 2 * negative < len(symmetric):
        part = vectors[:, :negative]
        rest = (part * eigenvalues[:negative]) @ part.T
        return symmetric - rest, rest
    part = vectors[:, negative:]
    positive = (part * eigenvalues[negative:]) @ part.T
    return positive, symmetric - positive


def _penalty(Y: Array, Z: Array) -> float:
    ratio = float(np.linalg.norm(Y)) / max(float(np.linalg.norm(Z)), 1e-140)
    return 2 * max(ratio, ratio ** (2 / 3), 1e-200)


def _clip_to_certified(problem: Problem, B: Array, t: Array) -> Pair:
    """The nearest (B, t) with δ_t(B) <= δ̄ in the coordinates of t.

    For fixed t the set is a spectral-norm ball,
    |T^(-1/2) (B + (m/r) T) Q^(-1/2)|₂ <= 1 with Q = (2δ̄/r) I + (α/r²) T,
    and clipping singular values leads into it.
    """
    _, bound, alpha = problem
    middle, radius = (1 + alpha) / 2, (1 - alpha) / 2
    smallest = max(0.0, -2 * bound * radius / alpha)
    floor = 1e-10 * (np.abs(t).max() + smallest) + 1e-140
    t = np.maximum(t, smallest + floor)
    q = 2 * bound / radius + alpha / radius**2 * t
    weight = np.sqrt(t[:, None] * q[None, :])
    center = np.diag(middle / radius * t)
    U, values, Vt = np.linalg.svd((B + center) / weight)
    return weight * ((U * np.minimum(values, 1.0)) @ Vt) - center, t


def project_certified(
    problem: Problem, tolerance: float, max_iterations: int
) -> CertifiedProjection:
    """Nearest B with δ_T(B) <= δ̄ for some T = diag(t), to a tolerance.

    Minimizes ½|B - A|² over (B, t) subject to the linear matrix inequality

        M(B, t) = [ δ̄I - m·sym(B) - (r/2) T    c√(r/2) Bᵀ ]
                  [ c√(r/2) B                   c² T       ]  ⪰ 0,

    m = (1 + α)/2, r = (1 - α)/2, whose Schur complement says δ_T(B) <= δ̄; the
    weight c does not change the set and helps the iteration. ADMM with
    over-relaxation as a fixed-point iteration in one matrix W, whose positive
    part is the slack Z and whose negative part, times -ρ, the multiplier Y; the
    (B, t)-step is in closed form. One eigendecomposition of size 2d a step.
    What makes it fast is Anderson acceleration with a safeguard and the
    penalty ρ = 2|Y|/|Z| (after Lorenz and Tran-Dinh, 2019), raised to
    2(|Y|/|Z|)^(2/3) where |Y| < |Z|, which nearly feasible A ask for.

    Every Y ⪰ 0 with W_ii <= (r/2) X_ii, for Y = [[X, Pᵀ], [P, W]] before
    weighting, bounds the distance from below: with G = mX - √(2r) P, no
    certified B is nearer than (⟨G, A⟩ - δ̄ tr X) / |G|. Rows of P are scaled
    to make Y feasible, so that the bound holds at every step.

    The iteration ends when the gap between |B - A| and the lower bound is at
    most the tolerance times |B - A| + 0.01, or at the cap on its steps.

    >>> problem = Problem(np.diag([1.0, -1.0]), 0.5, 0.5)
    >>> result = project_certified(problem, 1e-6, 100)
    >>> bool(abs(result.distance_lower_bound - 0.5) < 1e-5)
    True
    """
    matrix = problem.matrix
    inequality = _MatrixInequality(problem)
    Z, Y = inequality.start()
    rho = _penalty(Y, Z)
    W = Z - Y / rho
    acceleration = _AndersonAcceleration(W.size)
    trusted, fallback = float("inf"), W
    for step in range(1, max_iterations + 1):
        Z, U = _split(W)
        if step > 1 and step & (step - 1) == 0:
            factor = np.clip(_penalty(rho * U, Z) / rho, 1e-3, 1e3)
            if abs(np.log(factor)) > 0.3:
                rho, U = rho * factor, U / factor
                W = Z + U
                trusted = float("inf")
                acceleration.clear()
        B, t = inequality.nearest(Z - U, rho)
        violation = inequality.lift(B, t) - Z
        residual = float(np.linalg.norm(violation))
        # To first order, what the violation still hides of the distance.
        hidden = rho * np.linalg.norm(U) * residual
        reach = np.linalg.norm(B - matrix) + _NEGLIGIBLE
        last = step == max_iterations
        if last or hidden <= 4 * tolerance * reach**2:
            lower = inequality.lower_bound(-rho * U)
            feasible, raised = _clip_to_certified(problem, B, t)
            distance = np.linalg.norm(feasible - matrix)
            if last or distance - lower <= tolerance * (distance + _NEGLIGIBLE):
                break
        if residual > 2 * trusted:
            W, trusted = fallback, float("inf")
            acceleration.clear()
            continue
        change = _RELAXATION * violation
        fallback = W + change
        W = acceleration.next(W.ravel(), change.ravel()).reshape(W.shape)
        trusted = residual if acceleration.count else float("inf")
    X = -rho * U[: len(B), : len(B)]
    return CertifiedProjection(feasible, raised, X, lower, step)
