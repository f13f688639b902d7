"""Statistics of A/B experiments on per-user numbers: effects with intervals, survival, multiple metrics, planning. NumPy only.

**Notation**: a metric is a ratio of sums over users, ``R = sum_u N_u / sum_u D_u`` (for a mean a user, ``D_u = 1``). Its linearised
values ``v_u = R + (N_u - R D_u) / mean(D)`` have mean ``R`` and, by the delta method, the variance of ``R`` is ``var(v) / n``. So a
ratio metric is compared like a mean, with users as the independent units however many sessions or items each has.

**Source**: Deng, Knoblich and Lu, "Applying the delta method in metric analytics", KDD 2018; Welch, Biometrika 1947; Deng, Xu,
Kohavi and Walker, "Improving the sensitivity of online controlled experiments by utilizing pre-experiment data" (CUPED), WSDM 2013.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.power import TTestIndPower, TTestPower
from statsmodels.stats.proportion import proportion_confint

from recrl.core.errors import ConfigError, DataError

Float64 = NDArray[np.float64]
Correction = Literal["holm", "benjamini_hochberg"]


@dataclass(frozen=True)
class Effect:
    """A treatment's difference from its baseline.

    ``lower`` and ``upper`` bound ``effect`` at ``level``; ``p_value`` is two-sided.
    """

    mean: float
    baseline_mean: float
    effect: float
    lower: float
    upper: float
    level: float
    p_value: float
    standard_error: float

    @property
    def relative(self) -> float | None:
        """Effect as a share of the baseline's mean; ``None`` where that is 0."""
        return self.effect / self.baseline_mean if self.baseline_mean else None


@dataclass(frozen=True, eq=False)
class Cuped:
    """Outcomes with the part that a covariate predicts taken out.

    **Shapes**: ``treatment`` (n,), ``baseline`` (m,). ``variance_reduction`` is the squared pooled correlation.
    """

    treatment: Float64
    baseline: Float64
    theta: float
    variance_reduction: float


@dataclass(frozen=True, eq=False)
class ReturnCurve:
    """Share of users who have returned by each day.

    **Shapes**: all ``(days,)``; ``day`` counts from 1.
    """

    day: NDArray[np.int64]
    returned_share: Float64
    lower: Float64
    upper: Float64


def values(array: ArrayLike, name: str, *, least: int = 2) -> Float64:
    """``array`` as ``(n,)`` finite float64.

    **Errors**: :class:`DataError` for another shape, NaN, infinity or fewer than ``least`` users.
    """
    found = np.asarray(array, dtype=np.float64)
    if found.ndim != 1:
        raise DataError(f"{name} has shape {found.shape}, expected (users,)", where=name, mend="give one number a user")
    if found.size < least:
        raise DataError(f"{name} holds {found.size} users", where=name, mend=f"at least {least} are needed")
    if not bool(np.isfinite(found).all()):
        user = int(np.argmin(np.isfinite(found)))
        raise DataError(f"{name} is {found[user]} for user {user}", where=f"{name}[{user}]", mend="leave such users out before comparing")
    return found


def linearised(numerator: ArrayLike, denominator: ArrayLike) -> Float64:
    """Per-user values whose mean is ``sum(numerator) / sum(denominator)`` and whose variance gives its delta-method error.

    **Shapes**: ``(n,)``, ``(n,)`` -> ``(n,)``.

    **Errors**: :class:`DataError` where the denominators sum to nothing.
    """
    top, bottom = values(numerator, "numerator"), values(denominator, "denominator")
    if top.shape != bottom.shape:
        raise DataError(f"{top.size} numerators for {bottom.size} denominators", where="denominator", mend="give both for each user")
    if bool(np.all(bottom == bottom[0])) and bottom[0] > 0:
        # a plain mean keeps its exact values
        return top / bottom[0]
    total = bottom.sum()
    if not total > 0:
        raise DataError("the denominators sum to nothing: the ratio is undefined", where="denominator", mend="leave the metric out")
    ratio = top.sum() / total
    out: Float64 = ratio + (top - ratio * bottom) * (bottom.size / total)
    return out


def welch(treatment: ArrayLike, baseline: ArrayLike, level: float = 0.95) -> Effect:
    """Difference of means of two independent groups of users with unequal variances (Welch's t test).

    **Shapes**: ``(n,)``, ``(m,)`` of any two sizes.
    """
    a, b = values(treatment, "treatment"), values(baseline, "baseline")
    _check_level(level)
    error = float(np.sqrt(a.var(ddof=1) / a.size + b.var(ddof=1) / b.size))
    if error == 0.0:
        return _certain(a, b, level)
    result = stats.ttest_ind(a, b, equal_var=False)
    bounds = result.confidence_interval(level)
    return _effect(a, b, (bounds.low, bounds.high), level, result.pvalue, error)


def paired(treatment: ArrayLike, baseline: ArrayLike, level: float = 0.95) -> Effect:
    """Mean difference of the same users under both arms (common random numbers): Student's t on each user's difference.

    **Shapes**: both ``(n,)``, in the same order of users.
    """
    a, b = values(treatment, "treatment"), values(baseline, "baseline")
    _check_level(level)
    if a.shape != b.shape:
        raise DataError(
            f"{a.size} treated users against {b.size}", where="treatment", mend="pairs need the same users in both arms; else use welch"
        )
    error = float((a - b).std(ddof=1) / np.sqrt(a.size))
    if error == 0.0:
        return _certain(a, b, level)
    result = stats.ttest_1samp(a - b, 0.0)
    bounds = result.confidence_interval(level)
    return _effect(a, b, (bounds.low, bounds.high), level, result.pvalue, error)


def compare(
    treatment: tuple[ArrayLike, ArrayLike], baseline: tuple[ArrayLike, ArrayLike], level: float = 0.95, *, same_users: bool = False
) -> Effect:
    """Difference of a ratio metric between two arms, clustered by user.

    Args:
        treatment: numerator and denominator of each user of the treatment.
        baseline: the same of the baseline.
        level: nominal coverage of the interval.
        same_users: whether both arms hold the same users in the same order (paired), or different ones (Welch).
    """
    test = paired if same_users else welch
    return test(linearised(*treatment), linearised(*baseline), level)


def cuped(treatment: ArrayLike, baseline: ArrayLike, treatment_covariate: ArrayLike, baseline_covariate: ArrayLike) -> Cuped:
    """Take out of each outcome what a covariate from before the experiment predicts: ``y - theta (x - mean x)``.

    ``theta = cov(y, x) / var(x)``, pooled within arms, so that an effect does not leak into it. The difference of means stays unbiased
    since ``x`` has the same expectation in both arms; its variance shrinks by the factor ``1 - correlation^2``.

    **Assumptions / when it fails**: ``x`` must not depend on the arm (measured before, or a fixed property of the user).
    """
    y = [values(treatment, "treatment"), values(baseline, "baseline")]
    x = [values(treatment_covariate, "treatment_covariate"), values(baseline_covariate, "baseline_covariate")]
    for outcome, covariate, name in zip(y, x, ("treatment", "baseline"), strict=True):
        if outcome.shape != covariate.shape:
            raise DataError(f"{covariate.size} covariates for {outcome.size} users", where=f"{name}_covariate", mend="give one a user")
    inner_y = np.concatenate([part - part.mean() for part in y])
    inner_x = np.concatenate([part - part.mean() for part in x])
    spread_x, spread_y = float(inner_x @ inner_x), float(inner_y @ inner_y)
    shared = float(inner_x @ inner_y)
    theta = shared / spread_x if spread_x > 0 else 0.0
    reduction = shared**2 / (spread_x * spread_y) if spread_x > 0 and spread_y > 0 else 0.0
    centre = np.concatenate(x).mean()
    return Cuped(y[0] - theta * (x[0] - centre), y[1] - theta * (x[1] - centre), theta, reduction)


def sample_ratio_p(counts: Sequence[int], shares: Sequence[float] | None = None) -> float:
    """Chi-square p-value that users fell into the arms in the planned ``shares`` (equal ones by default).

    A value below 0.001 says that the assignment is broken and no effect can be read.
    """
    observed = np.asarray(counts, dtype=np.float64)
    if observed.size < 2 or observed.sum() <= 0:
        raise DataError(f"arm sizes {list(counts)} cannot be compared", where="counts", mend="give the users of at least two arms")
    planned = np.full(observed.size, 1.0 / observed.size) if shares is None else np.asarray(shares, dtype=np.float64)
    if planned.shape != observed.shape or not bool(np.all(planned > 0)):
        raise ConfigError(f"shares {shares} do not fit {observed.size} arms", where="shares", mend="give one positive share an arm")
    return float(stats.chisquare(observed, planned / planned.sum() * observed.sum()).pvalue)


def share_interval(successes: ArrayLike, users: int, level: float = 0.95) -> tuple[Float64, Float64]:
    """Wilson interval of a share of users: ``successes`` (...) -> lower, upper (...)."""
    _check_level(level)
    share = np.asarray(successes, dtype=np.float64) / users
    lower, upper = proportion_confint(share * users, users, alpha=1.0 - level, method="wilson")
    # at shares of 0 and 1 rounding may put an end on the wrong side
    return np.minimum(lower, share), np.maximum(upper, share)


def mean_interval(per_user: NDArray[np.floating[Any]], level: float = 0.95) -> tuple[Float64, Float64, Float64]:
    """Mean over users with its Student interval: ``(users, ...)`` -> mean, lower, upper ``(...)``, computed in double precision."""
    _check_level(level)
    users = per_user.shape[0]
    mean = per_user.mean(axis=0, dtype=np.float64)
    # column by column: a large population's days are never copied as a whole
    spread = np.stack([column.astype(np.float64).std(ddof=1) for column in per_user.reshape(users, -1).T]).reshape(mean.shape)
    reach = stats.t.ppf(0.5 + level / 2, users - 1) * spread / np.sqrt(users)
    return mean, mean - reach, mean + reach


def return_curve(days: ArrayLike, returned: ArrayLike, horizon: int, level: float = 0.95) -> ReturnCurve:
    """Kaplan-Meier share of users returned by day ``1..horizon``, with Greenwood's error on the log-log scale.

    Args:
        days: (n,) day of the return, or of the last look at a user who has not returned.
        returned: (n,) bool.
        horizon: last day shown.
        level: nominal coverage at each day.

    **Assumptions**: a user lost from view would have returned like the others.
    """
    _check_level(level)
    sample = _censored(days, returned)
    survival = stats.ecdf(sample).sf
    with warnings.catch_warnings():
        # log-log bounds do not exist while nobody, or once everybody, has returned: the point itself stands there
        warnings.simplefilter("ignore", RuntimeWarning)
        bounds = survival.confidence_interval(level, method="log-log")
    shown = np.arange(1, horizon + 1)
    remaining = survival.evaluate(shown)
    low, high = (np.where(np.isnan(found := bound.evaluate(shown)), remaining, found) for bound in (bounds.low, bounds.high))
    return ReturnCurve(shown, 1.0 - remaining, 1.0 - high, 1.0 - low)


def log_rank_p(days: ArrayLike, returned: ArrayLike, baseline_days: ArrayLike, baseline_returned: ArrayLike) -> float:
    """Log-rank p-value that two arms return at the same rate on every day. With paired users it errs to the safe side."""
    a, b = _censored(days, returned), _censored(baseline_days, baseline_returned)
    if not (np.any(np.asarray(returned)) or np.any(np.asarray(baseline_returned))):
        return 1.0
    p = float(stats.logrank(a, b).pvalue)
    return 1.0 if np.isnan(p) else p


def adjusted(p_values: ArrayLike, correction: Correction = "holm") -> Float64:
    """p-values corrected for their number: ``holm`` bounds the chance of any false claim, ``benjamini_hochberg`` the false share."""
    if correction not in get_args(Correction):
        raise ConfigError(
            f"unknown correction {correction!r}", where="correction", mend=f"choose one of: {', '.join(get_args(Correction))}"
        )
    given = values(p_values, "p_values", least=0)
    if correction == "benjamini_hochberg" or given.size == 0:
        return np.asarray(stats.false_discovery_control(given), dtype=np.float64) if given.size else given
    order = np.argsort(given, kind="stable")
    out = np.empty_like(given)
    # the k-th smallest is one of as many as are left, and no smaller than those before it
    out[order] = np.minimum(np.maximum.accumulate(given[order] * np.arange(given.size, 0, -1)), 1.0)
    return out


def power(effect: float, deviation: float, users: int, level: float = 0.95, *, same_users: bool = False) -> float:
    """Probability to show a true difference of means ``effect``.

    Args:
        effect: true difference of means.
        deviation: standard deviation of a user's value, or with ``same_users`` of a user's difference.
        users: users in each arm.
        level: confidence level of the two-sided test.
        same_users: paired arms.
    """
    return float(_planner(same_users).power(_size(effect, deviation), users, alpha=1.0 - level))


def minimum_detectable_effect(
    deviation: float, users: int, level: float = 0.95, target_power: float = 0.8, *, same_users: bool = False
) -> float:
    """Smallest difference of means that is shown with probability ``target_power``; arguments as in :func:`power`."""
    sizes = {"nobs" if same_users else "nobs1": users}
    found = _planner(same_users).solve_power(effect_size=None, alpha=1.0 - level, power=target_power, **sizes)
    return float(np.squeeze(found)) * _positive(deviation, "deviation")


def users_needed(effect: float, deviation: float, level: float = 0.95, target_power: float = 0.8, *, same_users: bool = False) -> int:
    """Users in each arm to show ``effect`` with probability ``target_power``; arguments as in :func:`power`."""
    found = _planner(same_users).solve_power(effect_size=_size(effect, deviation), alpha=1.0 - level, power=target_power)
    return int(np.ceil(float(np.squeeze(found))))


def _planner(same_users: bool) -> TTestPower | TTestIndPower:
    return TTestPower() if same_users else TTestIndPower()


def _size(effect: float, deviation: float) -> float:
    return _positive(abs(effect), "effect") / _positive(deviation, "deviation")


def _positive(value: float, name: str) -> float:
    if not 0.0 < value < np.inf:
        raise ConfigError(f"{name} is {value}", where=name, mend="give a positive number")
    return value


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ConfigError(f"level is {level}; a confidence level lies between 0 and 1", where="level", mend="0.95 is usual")


def _censored(days: ArrayLike, returned: ArrayLike) -> stats.CensoredData:
    time, event = values(days, "days", least=1), np.asarray(returned, dtype=bool)
    if time.shape != event.shape:
        raise DataError(f"{event.size} outcomes for {time.size} users", where="returned", mend="give both for each user")
    return stats.CensoredData.right_censored(time, ~event)


def _certain(treatment: Float64, baseline: Float64, level: float) -> Effect:
    """Without any variance the difference is exact."""
    effect = float(treatment.mean() - baseline.mean()) if not np.array_equal(treatment, baseline) else 0.0
    return Effect(float(treatment.mean()), float(baseline.mean()), effect, effect, effect, level, 1.0 if effect == 0 else 0.0, 0.0)


def _effect(a: Float64, b: Float64, bounds: tuple[float, float], level: float, p_value: float, error: float) -> Effect:
    mean, baseline_mean = float(a.mean()), float(b.mean())
    return Effect(mean, baseline_mean, mean - baseline_mean, float(bounds[0]), float(bounds[1]), level, float(p_value), error)
