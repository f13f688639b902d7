"""Bounds that hold for every sample size, for means of independent values with known support.

Here a value is a user's: ``y_g = R + G psi_g`` (:func:`offline_eval.contributions.plain_influence`), whose mean is the estimate.
Where every denominator is 1 and users have equally many rows, ``y_g`` is the mean of the user's contributions and the bounds are
exact. A self-normalised estimate or unequal users make them hold to first order only; support that was read off the data, too.

**Source**: Hoeffding, JASA 1963; Maurer and Pontil, COLT 2009, theorem 4 (empirical Bernstein); Anderson, 1969, with the constant of
Massart, Annals of Probability 1990; their use for policies: Thomas, Theocharous and Ghavamzadeh, AAAI 2015.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recrl.core.errors import ConfigError, DataError

Float64 = NDArray[np.float64]
Support = tuple[float, float]


def hoeffding(values: Float64, support: Support, failure: float) -> float:
    """How far the mean may lie on one side but for a chance ``failure``: ``(b - a) sqrt(ln(1 / failure) / 2n)``."""
    low, high = support
    return (high - low) * float(np.sqrt(np.log(1.0 / failure) / (2 * values.size)))


def bernstein(values: Float64, support: Support, failure: float) -> float:
    """The same with the sample variance ``V``: ``sqrt(2 V ln(2 / failure) / n) + 7 (b - a) ln(2 / failure) / (3 (n - 1))``."""
    if values.size < 2:
        return float("inf")
    low, high = support
    log = float(np.log(2.0 / failure))
    return float(np.sqrt(2 * values.var(ddof=1) * log / values.size)) + 7 * (high - low) * log / (3 * (values.size - 1))


def anderson(values: Float64, low: float, failure: float) -> float:
    """Lower bound of the mean of values that cannot be under ``low``, however large they may be.

    ``low + sum_i (z_i+1 - z_i) max(0, 1 - i / n - sqrt(ln(1 / failure) / 2n))`` over ordered values ``z`` with ``z_0 = low``: the
    mean under the largest distribution function that the sample allows.

    **Errors**: :class:`ConfigError` for a chance above one half, where the constant does not hold.
    """
    if failure > 0.5:
        raise ConfigError(f"level is {1 - failure:g}; Anderson's bound needs at least 0.5", where="lower_bound.level", mend="0.95 is usual")
    ordered = np.concatenate([[low], np.sort(values)])
    slack = float(np.sqrt(np.log(1.0 / failure) / (2 * values.size)))
    above = np.maximum(0.0, 1.0 - np.arange(values.size) / values.size - slack)
    return low + float(np.diff(ordered) @ above)


def checked_support(values: Float64, support: Support | None) -> Support:
    """The support given, or the smallest and largest value seen.

    **Errors**: :class:`DataError` for a value outside the support given.
    """
    seen = float(values.min()), float(values.max())
    if support is None:
        return seen
    slack = 1e-9 * (abs(seen[0]) + abs(seen[1]))
    if not support[0] - slack <= seen[0] <= seen[1] <= support[1] + slack:
        raise DataError(
            f"users' values span [{seen[0]:g}, {seen[1]:g}], beyond the support [{support[0]:g}, {support[1]:g}]",
            where="support",
            mend="give what a user's value can be at most: for clipped_ips, the cap times the largest reward",
        )
    return support
