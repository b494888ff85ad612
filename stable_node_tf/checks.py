"""Checks of the arguments shared by the functions of this folder."""

import math
import numbers

import numpy as np
from numpy.typing import ArrayLike

# Norms of such matrices, and sums of a few, do not overflow.
LARGEST_ENTRY = 1e302


def check_matrix(matrix: ArrayLike, name: str = "matrix") -> np.ndarray:
    """Returns `matrix` as a finite, square, float64 array of shape (d, d).

    Args:
      matrix: real array-like of shape (d, d), d >= 1.
      name: how the error messages call it.

    Raises:
      ValueError: if it is not square, is empty, or holds NaN, infinity or a
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
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
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
    """Returns `value` as a finite Python float.

    Raises:
      TypeError: if it is not a real number.
      ValueError: if it is NaN or infinite.

    >>> check_number(np.float32(0.5), "delta_bar")
    0.5
    """
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
    """Returns `value` as a float that is finite and positive.

    Raises:
      TypeError: if it is not a real number.
      ValueError: if it is not finite, or not positive.

    >>> check_positive(2, "max_norm")
    2.0
    """
    number = check_number(value, name)
    if number <= 0.0:
        raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
    return number


def check_not_negative(value: float, name: str) -> float:
    """Returns `value` as a float that is finite and not negative.

    Raises:
      TypeError: if it is not a real number.
      ValueError: if it is not finite, or negative.

    >>> check_not_negative(0, "step")
    0.0
    """
    number = check_number(value, name)
    if number < 0.0:
        raise ValueError(
            f"`{name}` must not be negative. Received: {name}={value}"
        )
    return number


def check_count(value: int, name: str, smallest: int = 1) -> int:
    """Returns `value` as a Python integer that is at least `smallest`.

    Raises:
      TypeError: if it is not an integer.
      ValueError: if it is too small.

    >>> check_count(np.int64(3), "num_steps")
    3
    """
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
    """Returns the lower slope bound `alpha` as a float in (0, 1].

    Raises:
      TypeError: if it is not a real number.
      ValueError: if it lies outside (0, 1].

    >>> check_alpha(1)
    1.0
    """
    alpha = check_number(alpha, "alpha")
    if not 0.0 < alpha <= 1.0:
        raise ValueError(
            "`alpha`, the smallest slope of the activation, must lie in "
            f"(0, 1]. Received: alpha={alpha}"
        )
    return alpha


def check_certificate(certificate: ArrayLike, size: int) -> np.ndarray:
    """Returns `certificate` as a positive float64 array of shape (size,).

    Raises:
      ValueError: if the shape differs or an entry is not finite and positive.

    >>> check_certificate([1.0, 2.0], 2)
    array([1., 2.])
    """
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
