"""Confidence intervals and lower bounds, with users as the independent units.

| method | interval | use |
|---|---|---|
| ``auto`` | ``skew_t`` under :data:`SMALL` users, ``delta`` from there on | the default |
| ``delta`` | delete-one-user error (CR3), quantiles of Student's t with ``G - 1`` degrees | many users |
| ``skew_t`` | the same, corrected for the skewness of users' influences | few users, rare rewards |
| ``student_t`` | plain delta error ``sqrt(G / (G - 1) sum psi_g^2)``, Student's t | comparing with others |
| ``bootstrap``, ``poisson_bootstrap`` | percentiles over resampled users | sums of shards; curves |
| ``hoeffding``, ``bernstein`` | hold for every number of users, given the support of a user's value | guarantees |

``skew_t`` inverts Hall's cubic: with ``a = sum psi^3 / (sum psi^2)^1.5`` and ``H(x) = 3 / a ((1 + a (x - a / 6))^(1/3) - 1)`` the ends are
``R - se H(t_1-alpha/2)`` and ``R - se H(t_alpha/2)``. With 100 users and a reward of one in fifty it lifts coverage from 83 to 96 %; with
many thousands it changes nothing (``docs/off_policy.md``).

**Assumptions / when it fails**: users are independent. An interval is for the expectation of the estimate: it does not show the bias of a
cap, of a model, or of wrong propensities.

**Source**: Hall, "On the removal of skewness by transformation", JRSS B 1992; see also :mod:`offline_eval.contributions`,
:mod:`offline_eval.bootstrap` and :mod:`offline_eval.bounds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import stats

from offline_eval import bounds
from offline_eval.bootstrap import bootstrap_sums, percentile, poisson_sums, replicate_values
from offline_eval.bounds import Support
from offline_eval.contributions import ClusterSums, as_sums, influence, plain_influence, standard_error, value
from recrl.core.contracts import Contributions
from recrl.core.errors import ConfigError

Method = Literal["auto", "delta", "skew_t", "student_t", "bootstrap", "poisson_bootstrap", "hoeffding", "bernstein"]
BoundMethod = Literal[Method, "anderson"]

SMALL = 5_000
"""Under so many users ``auto`` corrects for skewness."""


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval.

    ``method`` is the one that was used, never ``auto``. ``standard_error`` is infinite, and the interval unbounded, where a single
    user carries the whole estimate.
    """

    value: float
    lower: float
    upper: float
    level: float
    method: str
    clusters: int
    standard_error: float


def interval(
    contributions: Contributions | ClusterSums,
    level: float = 0.95,
    method: Method = "auto",
    *,
    replicates: int = 1000,
    seed: int = 0,
    support: Support | None = None,
) -> Interval:
    """Value and two-sided confidence interval.

    Args:
        contributions: rows, or the sums of :func:`offline_eval.contributions.cluster_sums`.
        level: nominal coverage, between 0 and 1.
        method: see the table above.
        replicates: resamples of a bootstrap.
        seed: seed of a bootstrap's draws.
        support: smallest and largest possible value of a user, for ``hoeffding`` and ``bernstein``; without it those of the log stand in,
            and the guarantee is gone.

    **Errors**: :class:`ConfigError` for a level outside (0, 1), an unknown method or fewer than 2 replicates;
    :class:`DataError` where the value is undefined, or users lie outside the support.
    """
    _check(level, method, get_args(Method))
    sums = as_sums(contributions)
    estimate, chosen = value(sums), _chosen(method, sums.count)
    tail = (1.0 - level) / 2
    if chosen in ("bootstrap", "poisson_bootstrap") and sums.count > 1:
        values = _replicates(sums, chosen, replicates, seed)
        error = float(np.std(values, ddof=1)) if bool(np.isfinite(values).all()) else float("inf")
        lower, upper = percentile(values, tail, -np.inf), percentile(values, 1.0 - tail, np.inf)
    else:
        error = _error(sums, chosen)
        down, up = _reach(sums, chosen, error, tail, support)
        lower, upper = estimate - down, estimate + up
    return Interval(estimate, lower, upper, level, chosen, sums.count, error)


def lower_bound(
    contributions: Contributions | ClusterSums,
    level: float = 0.95,
    method: BoundMethod = "auto",
    *,
    replicates: int = 1000,
    seed: int = 0,
    support: Support | None = None,
) -> float:
    """What the value exceeds with confidence ``level``: the number to compare with the logging policy before a policy is let out.

    ``anderson`` is a further method: a guarantee that needs the lower end of the support alone (0 for weights times rewards that are never
    negative), so heavy weights without any bound are no obstacle.

    >>> import numpy as np
    >>> from recrl.core.contracts import Contributions
    >>> x = Contributions(np.arange(50.0)[None] % 5, np.ones((1, 50)), np.arange(50), np.ones(50))
    >>> [round(lower_bound(x, method=m, support=(0.0, 4.0)), 2) for m in ("student_t", "bernstein", "hoeffding", "anderson")]
    [1.66, 0.75, 1.31, 1.31]

    **Errors**: as :func:`interval`.
    """
    _check(level, method, (*get_args(Method), "anderson"))
    sums = as_sums(contributions)
    estimate, chosen = value(sums), _chosen(method, sums.count)
    if chosen == "anderson":
        values = user_values(sums)
        return bounds.anderson(values, bounds.checked_support(values, support and (support[0], np.inf))[0], 1.0 - level)
    if chosen in ("bootstrap", "poisson_bootstrap") and sums.count > 1:
        return percentile(_replicates(sums, chosen, replicates, seed), 1.0 - level, -np.inf)
    return estimate - _reach(sums, chosen, _error(sums, chosen), 1.0 - level, support)[0]


def user_values(sums: ClusterSums) -> bounds.Float64:
    """``y_g = R + G psi_g`` of each user, (G,): numbers whose mean is the value."""
    values: bounds.Float64 = value(sums) + sums.count * plain_influence(sums)
    return values


def _chosen(method: str, users: int) -> str:
    if method != "auto":
        return method
    return "skew_t" if users < SMALL else "delta"


def _error(sums: ClusterSums, method: str) -> float:
    if method != "student_t" or sums.count < 2:
        return standard_error(sums)
    return float(np.sqrt(sums.count / (sums.count - 1) * np.sum(plain_influence(sums) ** 2)))


def _reach(sums: ClusterSums, method: str, error: float, tail: float, support: Support | None) -> tuple[float, float]:
    """How far down and up an interval reaches that fails with chance ``tail`` on each side."""
    if method in ("hoeffding", "bernstein"):
        values = user_values(sums)
        rule = bounds.hoeffding if method == "hoeffding" else bounds.bernstein
        reach = rule(values, bounds.checked_support(values, support), tail)
        return reach, reach
    if not np.isfinite(error):
        return float("inf"), float("inf")
    quantile = float(stats.t.ppf(1.0 - tail, sums.count - 1))
    skew = _skewness(sums) if method == "skew_t" else 0.0
    return error * _unskewed(quantile, skew), -error * _unskewed(-quantile, skew)


def _skewness(sums: ClusterSums) -> float:
    """Skewness of users' influences over the root of their number."""
    moved = influence(sums)
    moved = moved - moved.mean()
    square = float(np.sum(moved**2))
    return float(np.sum(moved**3)) / square**1.5 if square > 0 else 0.0


def _unskewed(x: float, skew: float) -> float:
    """Hall's cubic, inverted."""
    return x if abs(skew) < 1e-6 else 3.0 / skew * (float(np.cbrt(1.0 + skew * (x - skew / 6.0))) - 1.0)


def _replicates(sums: ClusterSums, method: str, replicates: int, seed: int) -> bounds.Float64:
    draw = bootstrap_sums if method == "bootstrap" else poisson_sums
    return replicate_values(*draw(sums, replicates, seed))


def _check(level: float, method: str, known: tuple[str, ...]) -> None:
    if not 0.0 < level < 1.0:
        raise ConfigError(f"level is {level}; a confidence level lies between 0 and 1", where="interval.level", mend="0.95 is usual")
    if method not in known:
        raise ConfigError(f"unknown interval method {method!r}", where="interval.method", mend=f"choose one of: {', '.join(known)}")
