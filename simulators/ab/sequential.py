"""Looking every day: effects of the sums so far, with intervals and p-values that hold however often one looks.

Every user is there from day 0 and its sums grow; after day ``d`` the arms differ by ``effect_d``, a ratio of sums. Written as a
sum over users, ``S_d = D_d effect_d`` with ``D_d`` the mean denominator (1 for a mean a user), it has variance ``V_d``.

**The boundary** (normal mixture). For a Brownian path ``S`` with clock ``V`` the likelihood ratio, averaged over drifts drawn from
``N(0, 1 / rho)``, is a martingale of mean 1, so that by Ville's inequality

    P(some d: |S_d - E S_d| >= sqrt((V_d + rho) log((V_d + rho) / (rho alpha^2)))) <= alpha,
    p_d = min over days up to d of min(1, sqrt((V + rho) / rho) exp(-S^2 / (2 (V + rho)))).

``rho`` changes where the boundary is tight, not whether it holds. It is set from the variance of the first day, so that no look
depends on days to come: tightest where the variance will be after ``days`` days if it grows like ``d^1.5``, between independent days
(``d``) and users who do the same every day (``d^2``).

**Assumptions**: enough users for normal sums, and paths that are at least Brownian: ``Cov(S_i, S_j) >= V_i`` for days ``i < j``, which is
to say that what a user does later does not go against what it did before. Users who differ from each other, the usual
case, make it larger; then looks agree more than Brownian ones, and by Slepian's inequality each side of the boundary is crossed
more rarely still. ``information_ratio`` is the smallest ``Cov(S_i, S_j) / V_i``: at 1 and more the assumption holds.

**Source**: Robbins 1970; Johari, Koomen, Pekelis and Walsh, "Peeking at A/B tests", KDD 2017; Howard, Ramdas, McAuliffe and Sekhon,
"Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 2021 (choice of ``rho``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import lambertw
from scipy.stats import norm

from simulators.ab.comparison import Comparison, verdict
from simulators.ab.design import DAILY_METRICS, MetricSpec
from simulators.ab.statistics import adjusted
from simulators.ab.users import UserMetrics

Float64 = NDArray[np.float64]
_ROWS = 8192
_GROWTH = 1.5


@dataclass(frozen=True, eq=False)
class DailyEffects:
    """Effects day by day, of the sums so far or of each day alone.

    **Shapes**: ``mean``, ``baseline_mean``, ``effect``, ``denominator`` (days,); ``covariance`` (days, days) of the effects.
    """

    mean: Float64
    baseline_mean: Float64
    effect: Float64
    covariance: Float64
    denominator: Float64

    @property
    def error(self) -> Float64:
        """Standard error of each effect, (days,)."""
        return np.sqrt(np.diag(self.covariance))


@dataclass(frozen=True, eq=False)
class ConfidenceSequence:
    """Intervals and p-values that hold at all looks together.

    **Shapes**: all (looks,).
    """

    lower: Float64
    upper: Float64
    p_value: Float64
    information_ratio: Float64


def daily_effects(
    treatment: UserMetrics, baseline: UserMetrics, metric: MetricSpec, *, same_users: bool, cumulative: bool = True
) -> DailyEffects | None:
    """The effect of a metric after each day, or of each day alone; ``None`` without a value in either arm."""
    arms = [_Days.of(arm, metric, cumulative) for arm in (treatment, baseline)]
    first, second = arms
    if first is None or second is None:
        return None
    sums = [arm.sums() for arm in (first, second)]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = [np.where(bottom > 0, top / bottom, 0.0) for top, bottom in sums]
    means = [bottom / arm.users for (_, bottom), arm in zip(sums, (first, second), strict=True)]
    days = len(ratios[0])
    # centred linearised values: their mean is 0, so that products add up to covariances
    products = [np.zeros((days, days)) for _ in range(1 if same_users else 2)]
    for low in range(0, max(first.users, second.users), _ROWS):
        rows = slice(low, low + _ROWS)
        parts = [arm.linearised(rows, r, m) for arm, r, m in zip((first, second), ratios, means, strict=True)]
        for product, part in zip(products, [parts[0] - parts[1]] if same_users else parts, strict=True):
            product += part.T @ part
    covariance = sum((p / (arm.users * (arm.users - 1)) for p, arm in zip(products, (first, second), strict=False)), np.zeros((days, days)))
    weight = treatment.users + baseline.users
    denominator = (means[0] * treatment.users + means[1] * baseline.users) / weight
    return DailyEffects(ratios[0], ratios[1], ratios[0] - ratios[1], covariance, denominator)


def confidence_sequence(found: DailyEffects, level: float = 0.95) -> ConfidenceSequence:
    """The always-valid intervals and p-values of effects of sums so far.

    A look before which nothing could differ (no variance) has an interval of no width around an effect of 0.
    """
    alpha = 1.0 - level
    scale = found.denominator
    covariance = found.covariance * np.outer(scale, scale)
    clock, s = np.diag(covariance).copy(), found.effect * scale
    rho = mixture_variance(clock, alpha)
    reach = np.sqrt((clock + rho) * np.log((clock + rho) / (rho * alpha**2)))
    with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
        half = np.where(clock > 0, reach / np.where(scale > 0, scale, 1.0), 0.0)
        p = np.minimum(1.0, np.sqrt((clock + rho) / rho) * np.exp(-(s**2) / (2.0 * (clock + rho))))
        p = np.where(clock > 0, p, np.where(s == 0, 1.0, 0.0))
        # entry (i, j): Cov(S_i, S_j) / V_i for i < j
        ratio = np.where((clock > 0)[:, None] & np.triu(np.ones_like(covariance, dtype=bool), 1), covariance / clock[:, None], np.inf)
    least = np.minimum.accumulate(ratio.min(axis=0))
    least = np.where(np.isfinite(least), least, 1.0)
    return ConfidenceSequence(found.effect - half, found.effect + half, np.minimum.accumulate(p), least)


def mixture_variance(clock: Float64, alpha: float) -> float:
    """``rho`` from the variances of all looks, of which the first positive one alone is used: ``(looks,)`` -> a number."""
    seen = np.flatnonzero(clock > 0)
    if not seen.size:
        return 1.0
    end = clock[seen[0]] * (clock.size / (seen[0] + 1.0)) ** _GROWTH
    return float(end / tightest(alpha))


def tightest(alpha: float) -> float:
    """``V / rho`` at which the boundary, in standard errors, is lowest: 8.2 at ``alpha = 0.05``, with 3.04 standard errors."""
    return float(-lambertw(-(alpha**2) / np.e, -1).real - 1.0)


def looking_costs(level: float = 0.95, target_power: float = 0.8) -> float:
    """How many times the users of one planned look the same power takes with always-valid intervals, read on the last day.

    The boundary is at its lowest there (:func:`tightest`); both are in standard errors, whose square goes with the users.
    """
    alpha, v = 1.0 - level, tightest(1.0 - level)
    bound = float(np.sqrt((1.0 + 1.0 / v) * np.log((1.0 + v) / alpha**2)))
    reach = float(norm.ppf(target_power))
    return ((bound + reach) / (float(norm.ppf(0.5 + level / 2)) + reach)) ** 2


def sequential_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Rows of ``ab_sequential``: each metric, arm and day; verdicts allow for all metrics and arms of a look."""
    design = comparison.design
    rows: list[dict[str, Any]] = []
    z = float(norm.ppf(0.5 + design.level / 2))
    base = comparison.user_metrics[comparison.baseline]
    for metric in DAILY_METRICS:
        for arm in comparison.treated:
            found = daily_effects(comparison.user_metrics[arm], base, metric, same_users=design.paired)
            if found is None:
                continue
            sequence = confidence_sequence(found, design.level)
            rows += [
                {
                    "scenario": design.eta_scenario,
                    "metric": metric.name,
                    "unit": metric.unit,
                    "arm": arm,
                    "baseline": comparison.baseline,
                    "day": day,
                    "mean": float(found.mean[day]),
                    "baseline_mean": float(found.baseline_mean[day]),
                    "effect": float(found.effect[day]),
                    "fixed_lower": float(found.effect[day] - z * found.error[day]),
                    "fixed_upper": float(found.effect[day] + z * found.error[day]),
                    "fixed_p_value": normal_p(float(found.effect[day]), float(found.error[day])),
                    "lower": float(sequence.lower[day]),
                    "upper": float(sequence.upper[day]),
                    "p_value": float(sequence.p_value[day]),
                    "level": design.level,
                    "information_ratio": float(sequence.information_ratio[day]),
                    "higher_is_better": metric.higher_is_better,
                }
                for day in range(design.days)
            ]
    for day in range(design.days):
        look = [row for row in rows if row["day"] == day]
        for row, p in zip(look, adjusted([row["p_value"] for row in look]), strict=True):
            row["verdict"] = verdict(row["effect"], row["higher_is_better"], p < 1.0 - design.level)
    return rows


def by_day_rows(comparison: Comparison) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of ``ab_by_day``, each day's own effect, and of ``ab_trend``, whether effects grow or fade from day to day.

    The trend is the least-squares slope of the daily effects; its error follows from their covariance, clustered by user.
    """
    design = comparison.design
    daily: list[dict[str, Any]] = []
    trends: list[dict[str, Any]] = []
    z = float(norm.ppf(0.5 + design.level / 2))
    base = comparison.user_metrics[comparison.baseline]
    for metric in DAILY_METRICS:
        for arm in comparison.treated:
            found = daily_effects(comparison.user_metrics[arm], base, metric, same_users=design.paired, cumulative=False)
            if found is None:
                continue
            key: dict[str, Any] = {"scenario": design.eta_scenario, "metric": metric.name, "arm": arm}
            for day, (effect, error) in enumerate(zip(found.effect, found.error, strict=True)):
                bounds = {"lower": float(effect - z * error), "upper": float(effect + z * error)}
                daily.append({**key, "day": day, "effect": float(effect), **bounds})
            trend = slope(found)
            if trend is not None:
                value, error = trend
                trends.append(
                    {
                        **key,
                        "slope": value,
                        "lower": value - z * error,
                        "upper": value + z * error,
                        "level": design.level,
                        "p_value": normal_p(value, error),
                        "mean_effect": float(found.effect[1:].mean()),
                    }
                )
    for row, p in zip(trends, adjusted([row["p_value"] for row in trends]), strict=True):
        grows = (row["slope"] > 0) == (row["mean_effect"] > 0)
        row["verdict"] = "no trend shown" if p >= 1.0 - design.level else "grows" if grows else "fades"
    return daily, trends


def slope(found: DailyEffects) -> tuple[float, float] | None:
    """Least-squares slope of daily effects from day 1 on (day 0 is every user's first), with its standard error; ``None`` before day 3."""
    days = np.arange(1, found.effect.size, dtype=np.float64)
    if days.size < 3:
        return None
    weight = np.r_[0.0, (days - days.mean()) / ((days - days.mean()) ** 2).sum()]
    return float(weight @ found.effect), float(np.sqrt(max(0.0, weight @ found.covariance @ weight)))


def normal_p(effect: float, error: float) -> float:
    """Two-sided p-value of an effect with a normal standard error."""
    if error > 0:
        return float(2.0 * norm.sf(abs(effect) / error))
    return 1.0 if effect == 0 else 0.0


@dataclass(frozen=True, eq=False)
class _Days:
    """Daily numerators and denominators of one arm, (users, days), looked at some users at a time; ``None`` counts users."""

    top: NDArray[Any]
    bottom: NDArray[Any] | None
    active: bool
    cumulative: bool

    @classmethod
    def of(cls, arm: UserMetrics, metric: MetricSpec, cumulative: bool) -> _Days | None:
        """Each column is read once; ``None`` where the arm lacks one."""
        active = metric.numerator == "active"
        names = ["requests" if active else metric.numerator, *([] if metric.denominator == "users" else [metric.denominator])]
        if any(name not in arm.daily for name in names):
            return None
        columns = [arm.daily[name] for name in names]
        return cls(columns[0], columns[1] if len(columns) > 1 else None, active, cumulative)

    @property
    def users(self) -> int:
        return len(self.top)

    def piece(self, rows: slice) -> tuple[Float64, Float64]:
        """Some users' values on each day, or until it."""
        top = (self.top[rows] > 0 if self.active else self.top[rows]).astype(np.float64)
        bottom = np.ones_like(top) if self.bottom is None else self.bottom[rows].astype(np.float64)
        if not self.cumulative:
            return top, bottom
        return top.cumsum(axis=1), bottom if self.bottom is None else bottom.cumsum(axis=1)

    def sums(self) -> tuple[Float64, Float64]:
        """Sums over users, (days,) each."""
        pieces = [[part.sum(axis=0) for part in self.piece(slice(low, low + _ROWS))] for low in range(0, self.users, _ROWS)]
        top, bottom = np.sum(pieces, axis=0)
        return top, bottom

    def linearised(self, rows: slice, ratio: Float64, mean: Float64) -> Float64:
        """Some users' shares in the ratio, centred."""
        top, bottom = self.piece(rows)
        return np.asarray((top - ratio * bottom) / np.where(mean > 0, mean, np.inf))
