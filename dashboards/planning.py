"""Planning an A/B test: power, detectable effect and users needed of a t test, in closed form.

The numbers of ``recrl power``, from SciPy's special functions alone, so that a slider moves them at once.

**Notation**: arms of ``n`` users, difference of means ``effect``, standard deviation ``deviation`` of a user's value (``paired``: of a
user's difference). The test statistic has a noncentral t distribution with noncentrality ``effect / deviation * sqrt(n / 2)``
(paired: ``sqrt(n)``) and ``2 n - 2`` (``n - 1``) degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from scipy.special import lambertw, nctdtr, ndtr, ndtri, stdtrit

from recrl.core.errors import ConfigError

_MOST_USERS = 1e12
_NORMAL_FROM = 1e5
"""Degrees of freedom beyond which t is normal to six digits."""
_CERTAIN = 15.0


def power(effect: float, deviation: float, users: float, level: float = 0.95, *, paired: bool = False) -> float:
    """Probability to show a true difference of means ``effect`` with ``users`` in each arm."""
    size, freedom = abs(effect) / deviation, users - 1 if paired else 2 * users - 2
    shift = size * math.sqrt(users if paired else users / 2)
    if freedom > _NORMAL_FROM:
        bound = float(ndtri(0.5 + level / 2))
        return float(ndtr(shift - bound) + ndtr(-shift - bound))
    bound = float(stdtrit(freedom, 0.5 + level / 2))
    if shift > _CERTAIN + bound and freedom > _CERTAIN:
        # beyond what the series of the noncentral t can sum
        return 1.0
    tails = [float(nctdtr(freedom, shift, end)) for end in (bound, -bound)]
    return 1.0 - tails[0] + (tails[1] if math.isfinite(tails[1]) else 0.0)


def users_needed(effect: float, deviation: float, level: float = 0.95, target: float = 0.8, *, paired: bool = False) -> int:
    """Users in each arm that show ``effect`` with probability ``target``.

    **Errors**: :class:`ConfigError` where no number of users below a trillion does.
    """
    found = _least(lambda users: power(effect, deviation, users, level, paired=paired), target, 2.0, _MOST_USERS)
    if found is None:
        raise ConfigError("no number of users shows so small an effect", where="effect", mend="ask for a larger effect")
    return math.ceil(found)


def detectable_effect(deviation: float, users: float, level: float = 0.95, target: float = 0.8, *, paired: bool = False) -> float:
    """Smallest difference of means that ``users`` in each arm show with probability ``target``."""
    # what a normal statistic would show, and room for few degrees of freedom
    near = (float(ndtri(0.5 + level / 2)) + max(float(ndtri(target)), 0.0)) / math.sqrt(users if paired else users / 2)
    found = _least(lambda size: power(size, 1.0, users, level, paired=paired), target, near / 100, near * 30)
    return math.nan if found is None else found * deviation


def looking_costs(level: float = 0.95, target: float = 0.8) -> float:
    """How many times the users of one planned look the same power takes when one looks every day (normal mixture, last day)."""
    alpha = 1.0 - level
    v = float(-lambertw(-(alpha**2) / math.e, -1).real - 1.0)
    bound = math.sqrt((1.0 + 1.0 / v) * math.log((1.0 + v) / alpha**2))
    reach = float(ndtri(target))
    return float(((bound + reach) / (float(ndtri(0.5 + level / 2)) + reach)) ** 2)


def pilot_deviation(row: Mapping[str, Any], baseline_users: int, paired: bool) -> float:
    """Standard deviation that the interval of a row of ``ab_metrics`` implies; NaN where it says nothing."""
    users = row["users"]
    freedom = users - 1 if paired else users + baseline_users - 2
    if freedom < 1 or baseline_users < 1:
        return math.nan
    error = (row["upper"] - row["lower"]) / 2 / float(stdtrit(freedom, 0.5 + row["level"] / 2))
    return float(error / math.sqrt(1 / users if paired else 1 / users + 1 / baseline_users))


def _least(grows: Callable[[float], float], target: float, low: float, high: float) -> float | None:
    """Where a growing function reaches ``target``, by bisection on the logarithm."""
    if grows(low) >= target:
        return low
    if grows(high) < target:
        return None
    for _ in range(48):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if grows(middle) >= target else (middle, high)
    return high
