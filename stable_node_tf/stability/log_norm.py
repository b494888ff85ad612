"""The worst-case logarithmic norm δ(A), with a proof from both sides."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from stable_node_tf.checks import (
    check_alpha,
    check_certificate,
    check_count,
    check_matrix,
    check_norm,
    check_not_negative,
    check_positive,
)
from stable_node_tf.stability.branch_and_bound import close_gap
from stable_node_tf.stability.certificate import (
    best_certificate,
    certificate_matrix,
    proven_bound,
)
from stable_node_tf.stability.inf_log_norm import (
    attained_inf_log_norm,
    inf_euler_log_norm,
    inf_log_norm,
)
from stable_node_tf.stability.rounding import relative_rounding
from stable_node_tf.stability.witness_search import maximize_witness

# Of h|A|: its square is still a number.
_LARGEST_STEP = 1e100
# Exponent that leaves room for sums of entries above and small ones below.
_TOP = 990


class Witness(NamedTuple):
    """Proof that δ is not smaller: xᵀ D A x is attained.

    In the ∞-norm it is x_i (DAx)_i, with i one of those where |x_i| is largest.

    Attributes:
      diagonal: the diagonal of D, entries alpha or 1, float64, shape (d,).
      vector: the unit vector x, float64, shape (d,).
    """

    diagonal: np.ndarray
    vector: np.ndarray


class WorstCaseLogNorm(NamedTuple):
    """An interval that holds δ(A), and the proofs of its two ends.

    Attributes:
      lower: largest value proven to be attained.
      upper: smallest value proven never to be exceeded.
      witness: the proof of `lower`, see `attained_log_norm`.
      certificate: t > 0, float64, shape (d,), a proof of δ(A) <= `upper` or,
        after branch and bound tightened `upper`, of a slightly larger bound;
        see `certified_log_norm`. Ones for the ∞-norm, where δ is a closed form
        that needs no such proof.
    """

    lower: float
    upper: float
    witness: Witness
    certificate: np.ndarray


def attained_log_norm(
    matrix: ArrayLike,
    alpha: float,
    witness: Witness,
    norm: str | float = "2",
) -> float:
    """The value of δ(A) that a witness proves to be attained.

    xᵀ D A x / xᵀx for D in [alpha, 1], less a bound on the rounding errors of
    its own evaluation: a true lower bound of δ(A).

    Args:
      matrix: A, of shape (d, d).
      alpha: smallest slope, in (0, 1].
      witness: D and x; x need not have norm 1.
      norm: as for `worst_case_log_norm`.

    Raises:
      ValueError: if the shapes differ, D leaves [alpha, 1] or x is zero, or the
        norm is another one.

    >>> w = Witness(np.ones(2), np.array([1.0, 1.0]))
    >>> round(attained_log_norm([[0.0, 2.0], [0.0, 0.0]], 0.5, w), 9)
    1.0
    """
    matrix = check_matrix(matrix)
    alpha = check_alpha(alpha)
    size = len(matrix)
    diagonal, vector = (np.asarray(v, np.float64) for v in witness)
    if diagonal.shape != (size,) or vector.shape != (size,):
        raise ValueError(
            f"`witness` must hold two vectors of shape ({size},). Received: "
            f"shapes {diagonal.shape} and {vector.shape}"
        )
    if not np.all((diagonal >= alpha) & (diagonal <= 1.0)):
        raise ValueError(
            f"`witness.diagonal` must lie in [{alpha}, 1]. "
            f"Received: entries in [{diagonal.min()}, {diagonal.max()}]"
        )
    if not (np.all(np.isfinite(vector)) and np.any(vector)):
        raise ValueError(
            "`witness.vector` must be finite and not zero. "
            f"Received: vector={vector}"
        )
    if check_norm(norm) == "inf":
        return attained_inf_log_norm(matrix, diagonal, vector)
    # Nothing but the small entries of a matrix with very large ones is rounded.
    matrix, exponent = _normalized(matrix, _TOP)
    vector, _ = _normalized(vector)
    square = vector @ vector
    value = diagonal @ (vector * (matrix @ vector)) / square
    magnitude = diagonal @ np.abs(vector * (np.abs(matrix) @ np.abs(vector)))
    value -= relative_rounding(3 * size + 5) * magnitude / square
    # What underflows is multiplied by numbers of at most 1, and divided by a
    # square of at least 1/4.
    value -= 8 * (size + 2) ** 2 * np.finfo(np.float64).smallest_subnormal
    return float(np.nextafter(_ldexp(value, exponent), -np.inf))


def certified_log_norm(
    matrix: ArrayLike,
    alpha: float,
    certificate: ArrayLike,
    step: float = 0.0,
) -> float:
    """The bound on δ(A), or on δ_h(A), that a certificate t > 0 proves.

    λmax(m·sym(A) + (r/2)(T + Aᵀ T⁻¹ A)) with m = (1+alpha)/2, r = (1-alpha)/2,
    plus a bound on the rounding errors of its own evaluation: a true upper
    bound of δ(A) in exact arithmetic. With a step h > 0 it is one of

        δ_h(A) = max (|I + hDA|₂² - 1) / (2h),   alpha <= D_ii <= 1,

    which is what a step of explicit Euler does to distances: they grow by at
    most √(1 + 2hδ_h). δ <= δ_h, and δ_h -> δ as h -> 0.

    The eigenvalue is verified by a Cholesky factorization (Rump, Verification
    of positive definiteness, BIT 2006). It is infinite where the certificate is
    so small that its terms overflow.

    Args:
      matrix: A, of shape (d, d).
      alpha: smallest slope, in (0, 1].
      certificate: t, of shape (d,).
      step: h >= 0; 0 for the flow.

    Raises:
      ValueError: if an entry of t is not positive and finite, or h negative.

    >>> round(certified_log_norm([[0.0, 2.0], [0.0, 0.0]], 1.0, [1, 1]), 9)
    1.0
    """
    alpha = check_alpha(alpha)
    A, exponent = _normalized(check_matrix(matrix))
    t = _ldexp(check_certificate(certificate, len(A)), -exponent)
    h = float(_ldexp(check_not_negative(step, "step"), exponent))
    bound, _ = proven_bound(A, t, alpha, 1.0, h)
    return float(np.nextafter(_ldexp(bound, exponent), np.inf))


def worst_case_log_norm(
    matrix: ArrayLike,
    alpha: float,
    *,
    norm: str | float = "2",
    exact: bool = False,
    tolerance: float = 1e-7,
    time_limit: float = 60.0,
    starts: int = 256,
    seed: int = 0,
) -> WorstCaseLogNorm:
    """Brackets δ(A) = max μ2(DA) over diagonal D with alpha <= D_ii <= 1.

    The flow of u' = σ(Au + b) on [0, T] with slopes of σ in [alpha, 1] has
    Lipschitz constant at most exp(δ(A) T) in the 2-norm (De Marinis et al.,
    arXiv 2501.10740). Maximizing over D is combinatorial: the lower end is the
    best of a search from many starts, the upper end the minimum of a convex
    relaxation; both are proven, floating-point errors included. Everything is
    computed in float64.

    With norm="inf", μ∞ takes the place of μ2, and distances are largest
    differences of entries. δ is then max_i max(g_i, alpha g_i) with g_i = a_ii
    + Σ_(j≠i) |a_ij| (Davydov, Proskurnikov, Bullo, arXiv 2110.08298): the ends
    meet up to one rounding, and the arguments of searches change nothing.

    Args:
      matrix: A, of shape (d, d).
      alpha: smallest slope of the activation, in (0, 1].
      norm: "2" or "inf"; NumPy's 2 and numpy.inf will do.
      exact: also runs branch and bound until the ends meet to 1e-9 relative to
        the norm of A (seconds for d <= 16), or `time_limit` is over.
      tolerance: how far `upper` may be from the minimum of the relaxation,
        relative to |A|₂; positive.
      time_limit: seconds given to branch and bound.
      starts: how many random starts the search behind `lower` makes; up to 48
        others are always made.
      seed: seeds the random starts, not negative; equal arguments give equal
        results.

    Raises:
      ValueError: if the matrix is not square and finite, alpha is not in
        (0, 1], or another argument is out of its range.
      TypeError: if an argument is not numeric.

    >>> bracket = worst_case_log_norm([[0.0, 2.0], [0.0, 0.0]], alpha=0.5)
    >>> bool(bracket.lower <= 1.0 <= bracket.upper)
    True
    >>> worst_case_log_norm([[0.0, 2.0], [0.0, 0.0]], 0.5, norm="inf").upper
    2.0
    """
    norm = check_norm(norm)
    matrix = check_matrix(matrix)
    alpha = check_alpha(alpha)
    tolerance = check_positive(tolerance, "tolerance")
    starts = check_count(starts, "starts", 0)
    seed = check_count(seed, "seed", 0)
    size = len(matrix)
    if norm == "inf":
        lower, upper, *proof = inf_log_norm(matrix, alpha)
        return WorstCaseLogNorm(lower, upper, Witness(*proof), np.ones(size))
    if not matrix.any():
        witness = Witness(np.ones(size), np.eye(size)[0])
        return WorstCaseLogNorm(0.0, 0.0, witness, np.full(size, 1e-300))
    A, exponent = _normalized(matrix)
    t = best_certificate(A, alpha, tolerance).numpy()
    certificate = _positive_ldexp(t, exponent)
    upper = certified_log_norm(matrix, alpha, certificate)

    # Top eigenvectors of M(t) and of sym(A), and singular vectors of A.
    relaxed = certificate_matrix(A, t, alpha, 1.0)
    first = [
        np.linalg.eigh(relaxed)[1].T[::-1][:16],
        np.linalg.eigh(A + A.T)[1].T[::-1][:16],
        np.linalg.svd(A)[2][:16],
        np.random.default_rng(seed).standard_normal((starts, size)),
    ]
    # Large skew-symmetric matrices take more rounds.
    rounds = 8 if size <= 64 else 24
    guesses = np.concatenate(first)
    vector = maximize_witness(A, guesses, alpha, rounds, seed)
    diagonal = np.where(vector * (A @ vector) > 0, 1.0, alpha)
    if exact and alpha < 1.0:
        largest = spectral_norm(A)
        closed, vector, diagonal = close_gap(
            A / largest, alpha, vector, t / largest, 1e-9, time_limit
        )
        # The rounding of A / |A|₂.
        closed = closed * largest + largest * relative_rounding(8 * size)
        closed = np.nextafter(_ldexp(closed, exponent), np.inf)
        upper = min(upper, float(closed))
    witness = Witness(diagonal, vector)
    lower = attained_log_norm(matrix, alpha, witness)
    return WorstCaseLogNorm(lower, upper, witness, certificate)


def euler_log_norm(
    matrix: ArrayLike,
    alpha: float,
    step: float,
    tolerance: float = 1e-7,
    norm: str | float = "2",
) -> tuple[float, np.ndarray]:
    """Bounds δ_h(A), the logarithmic norm of a step of explicit Euler.

    The step maps differences by I + hDA, alpha <= D_ii <= 1, and

        δ_h(A) = max_D (|I + hDA|₂² - 1) / (2h),

    so that one step has the Lipschitz constant √(1 + 2hδ_h). The bound is the
    optimum of a semidefinite program, that of Fazlyab et al. (LipSDP, arXiv
    1906.04893) for this step, in a form in which δ appears for h = 0.

    With norm="inf" it is δ_h(A) = max_D (|I + hDA|∞ - 1) / h, the larger one of
    δ(A) and max_i (Σ_(j≠i) |a_ij| - a_ii) - 2/h, and one step has the constant
    1 + hδ_h.

    Args:
      matrix: A, of shape (d, d).
      alpha: smallest slope, in (0, 1].
      step: h >= 0.
      tolerance: how far the bound may be from that optimum, relative to
        |A|₂ max(1, h|A|₂); positive.
      norm: as for `worst_case_log_norm`.

    Returns:
      The proven bound and its certificate, see `certified_log_norm`; ones for
      the ∞-norm.

    Raises:
      ValueError: if the matrix is not square and finite, alpha is not in
        (0, 1], h is negative, h|A|₂ is above 1e100, the tolerance is not
        positive, or the norm is another one.

    >>> bound, _ = euler_log_norm([[-2.0]], alpha=0.5, step=1.0)
    >>> 0.0 <= bound < 1e-6
    True
    """
    matrix = check_matrix(matrix)
    alpha = check_alpha(alpha)
    step = check_not_negative(step, "step")
    tolerance = check_positive(tolerance, "tolerance")
    if check_norm(norm) == "inf":
        return inf_euler_log_norm(matrix, alpha, step)[1], np.ones(len(matrix))
    A, exponent = _normalized(matrix)
    largest = spectral_norm(A)
    h = float(_ldexp(step, exponent))
    # The powers of two of its factors may be far apart.
    reach = h * largest
    if reach > _LARGEST_STEP:
        raise ValueError(
            "`step` times the 2-norm of `matrix` must be at most "
            f"{_LARGEST_STEP:g}. Received: step={step} and a matrix of norm "
            f"{spectral_norm(matrix):g}"
        )
    t = np.full(len(A), largest or 1e-300)
    if largest > 0.0 and alpha < 1.0:
        # The best multiple of the identity. Where h|A| is near 2 the optimum
        # is far above |A|, and Newton's method slow; where h|A| is large it is
        # near 1/h.
        multiples = 2.0 ** np.arange(-np.ceil(np.log2(max(reach, 1.0))), 9.0)
        starts = np.outer(multiples, t)
        relaxed = certificate_matrix(A[None], starts, alpha, 1.0, h)
        multiple = multiples[np.argmin(np.linalg.eigvalsh(relaxed)[:, -1])]
        t = best_certificate(A, alpha, tolerance, h, multiple).numpy()
    certificate = _positive_ldexp(t, exponent)
    return certified_log_norm(matrix, alpha, certificate, step), certificate


def spectral_norm(matrix: np.ndarray) -> float:
    """|A|₂, without overflow in between."""
    largest = np.abs(matrix).max()
    return float(np.linalg.norm(matrix / (largest or 1.0), 2) * largest)


def _ldexp(number: np.ndarray | float, exponent: int) -> np.ndarray:
    """A number times 2^exponent, infinite where that is too large."""
    with np.errstate(over="ignore"):
        return np.ldexp(number, exponent)


def _positive_ldexp(certificate: np.ndarray, exponent: int) -> np.ndarray:
    """The certificate times 2^exponent, kept positive and finite."""
    limits = np.finfo(np.float64)
    scaled = _ldexp(certificate, exponent)
    return np.clip(scaled, limits.smallest_subnormal, limits.max)


def _normalized(array: np.ndarray, top: int = 0) -> tuple[np.ndarray, int]:
    """The array times a power of two, its maximum in [½, 1) times 2^top."""
    exponent = int(np.frexp(np.abs(array).max())[1]) - top
    return _ldexp(array, -exponent), exponent
