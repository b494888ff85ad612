"""Checks of arguments that many functions share."""

import math
import numbers
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# Norms of such matrices, and sums of a few, do not overflow.
LARGEST_ENTRY = 1e302


def check_matrix(
    matrix: ArrayLike, name: str = "matrix", square: bool = True
) -> np.ndarray:
    """Returns `matrix` as a finite float64 array of shape (d, d), or (m, n).

    Raises:
      ValueError: if it has another shape, is empty, or holds NaN, infinity or a
        number above 1e302.
      TypeError: if it is not real and numeric.

    >>> check_matrix([[1, 2], [3, 4]]).dtype
    dtype('float64')
    """
    array = np.asarray(matrix)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"`{name}` must be a real numeric array. "
            f"Received: {name} of dtype {array.dtype}"
        )
    array = array.astype(np.float64)
    wrong = array.ndim != 2 or not array.size
    if wrong or (square and array.shape[0] != array.shape[1]):
        raise ValueError(
            f"`{name}` must be square, of shape (d, d) with d >= 1. "
            f"Received: {name} of shape {array.shape}"
        )
    if not np.all(np.isfinite(array)):
        raise ValueError(
            f"`{name}` must be finite. Received: {name} with "
            f"{np.count_nonzero(~np.isfinite(array))} NaN or infinite entries"
        )
    largest = np.abs(array).max()
    if largest > LARGEST_ENTRY:
        raise ValueError(
            f"`{name}` must not hold numbers above {LARGEST_ENTRY:g} in "
            f"absolute value. Received: {name} with {largest:g}"
        )
    return array


def check_number(value: float, name: str) -> float:
    """Returns `value` as a finite Python float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be a real number. Received: {name}={value!r}"
        )
    try:
        number = float(value)
    except OverflowError:  # of an integer too large for any float
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"`{name}` must be finite. Received: {name}={number}")
    return number


def check_positive(value: float, name: str) -> float:
    """Returns `value` as a float that is finite and positive."""
    number = check_number(value, name)
    if number <= 0.0:
        raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
    return number


def check_not_negative(value: float, name: str) -> float:
    """Returns `value` as a float that is finite and not negative."""
    number = check_number(value, name)
    if number < 0.0:
        raise ValueError(
            f"`{name}` must not be negative. Received: {name}={value}"
        )
    return number


def check_count(value: int, name: str, smallest: int = 1) -> int:
    """Returns `value` as a Python integer that is at least `smallest`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"`{name}` must be an integer. Received: {name}={value!r}"
        )
    if value < smallest:
        raise ValueError(
            f"`{name}` must be at least {smallest}. Received: {name}={value}"
        )
    return int(value)


def check_alpha(alpha: float) -> float:
    """Returns the lower slope bound `alpha` as a float in (0, 1]."""
    alpha = check_number(alpha, "alpha")
    if not 0.0 < alpha <= 1.0:
        raise ValueError(
            "`alpha`, the smallest slope of the activation, must lie in "
            f"(0, 1]. Received: alpha={alpha}"
        )
    return alpha


def check_certificate(certificate: ArrayLike, size: int) -> np.ndarray:
    """Returns `certificate` as a positive float64 array of shape (size,)."""
    array = np.asarray(certificate, dtype=np.float64)
    if array.shape != (size,):
        raise ValueError(
            f"`certificate` must have shape ({size},). "
            f"Received: certificate of shape {array.shape}"
        )
    if not np.all(np.isfinite(array) & (array > 0.0)):
        raise ValueError(
            "`certificate` must be finite and positive in every entry. "
            f"Received: certificate={array}"
        )
    return array


def check_norm(norm: str | float) -> str:
    """Returns "2" or "inf", the name of a vector norm as NumPy writes it.

    >>> check_norm("inf"), check_norm(np.inf), check_norm(2)
    ('inf', 'inf', '2')
    """
    if str(norm) not in ("2", "inf"):
        raise ValueError(
            f"`norm` must be '2' or 'inf'. Received: norm={norm!r}"
        )
    return str(norm)


def increasing_ends(ends: Any, kind: Any = float) -> tuple[float, float] | None:
    """Two numbers as a type has them; None unless finite and increasing.

    >>> increasing_ends((0, 1)), increasing_ends((1, 0)), increasing_ends("ab")
    ((0.0, 1.0), None, None)
    """
    try:
        low, high = (float(kind(end)) for end in ends)
    except (OverflowError, TypeError, ValueError):
        return None
    return (low, high) if -np.inf < low < high < np.inf else None
