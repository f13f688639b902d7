"""What an A/B experiment found: per-user numbers of every arm, and the tables of a run made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recrl.core.errors import ConfigError
from simulators.ab.design import METRICS, Design, MetricSpec
from simulators.ab.statistics import Effect, adjusted, compare, log_rank_p, mean_interval, return_curve, sample_ratio_p, share_interval

Float64 = NDArray[np.float64]


def _schema(strings: str, integers: str, doubles: str) -> dict[str, pa.DataType]:
    kinds = ((strings, pa.string()), (integers, pa.int64()), (doubles, pa.float64()))
    return {name: kind for names, kind in kinds for name in names.split()}


def _ordered(order: str, types: dict[str, pa.DataType]) -> pa.Schema:
    return pa.schema([(name, types.get(name, pa.bool_())) for name in order.split()])


_TYPES = _schema(
    "scenario metric unit arm baseline verdict arms eta_scenario",
    "users days seed day user_steps",
    "mean baseline_mean effect lower upper level p_value relative_effect value returned_share eta sample_ratio_p seconds",
)
SCHEMAS: dict[str, pa.Schema] = {
    "ab_metrics": _ordered(
        "scenario metric unit arm baseline mean baseline_mean effect lower upper level p_value relative_effect users higher_is_better "
        "verdict",
        _TYPES,
    ),
    "ab_daily": _ordered("scenario arm metric day value lower upper", _TYPES),
    "ab_retention": _ordered("scenario arm day returned_share lower upper", _TYPES),
    "ab_design": _ordered("users days paired seed arms baseline eta_scenario eta sample_ratio_p user_steps seconds", _TYPES),
}
"""Columns of each table, as ``docs/artifacts.md`` has them."""


@dataclass(frozen=True, eq=False)
class UserMetrics:
    """Sums of one arm over each of its users.

    **Shapes**: ``uid`` (n,) simulated user; every one of ``columns`` (n,); ``daily_requests`` and ``daily_watch_seconds`` (n, days)
    float32, the latter ``None`` where the world has no watch time. Columns: ``requests``, ``sessions``, ``shown``, ``watch_seconds``,
    the seven behaviours, ``returns`` (sessions that a return follows), ``gap_days`` (their sum), ``churned``, ``active_days``,
    ``first_return_day`` (gap after the first session, 0 for none), ``returned_next_day``.
    """

    uid: NDArray[np.int64]
    columns: Mapping[str, Float64]
    daily_requests: NDArray[np.float32]
    daily_watch_seconds: NDArray[np.float32] | None = None

    @property
    def users(self) -> int:
        """Number of users."""
        return int(self.uid.size)

    def ratio(self, metric: MetricSpec) -> tuple[Float64, Float64] | None:
        """Numerator and denominator of a metric for each user; ``None`` where the arm has no value for it."""
        if metric.numerator not in self.columns:
            return None
        denominator = np.ones(self.users) if metric.denominator == "users" else self.columns[metric.denominator]
        return (self.columns[metric.numerator], denominator) if denominator.sum() > 0 else None

    def first_returns(self, days: int) -> tuple[Float64, NDArray[np.bool_]]:
        """Day of the first return and whether it was seen within ``days`` days; both ``(n,)``."""
        gap, last = self.columns["first_return_day"], days - 1
        seen = (gap > 0) & (gap <= last)
        return np.where(seen, gap, float(last)), seen


@dataclass(frozen=True, eq=False)
class ExperimentResult:
    """An experiment's outcome; ``user_metrics`` has one entry an arm, in the order of the arms."""

    design: Design
    user_metrics: Mapping[str, UserMetrics]
    seconds: float

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms."""
        return tuple(self.user_metrics)

    @property
    def baseline(self) -> str:
        """Name of the arm that the others are compared with."""
        return self.design.baseline or self.arms[0]

    def effect(self, metric: str, arm: str) -> Effect:
        """Difference of a metric between ``arm`` and the baseline.

        **Errors**: :class:`ConfigError` for an unknown arm or metric, or one without a value in either arm.
        """
        spec = next((m for m in METRICS if m.name == metric), None)
        if spec is None:
            raise ConfigError(f"unknown metric {metric!r}", where="metric", mend=f"choose from: {', '.join(m.name for m in METRICS)}")
        if arm not in self.user_metrics:
            raise ConfigError(f"unknown arm {arm!r}", where="arm", mend=f"choose from: {', '.join(self.arms)}")
        found = self._effect(spec, arm)
        if found is None:
            raise ConfigError(
                f"{metric} has no value in this experiment", where="metric", mend="the world has no such signal, or nothing happened"
            )
        return found

    def _effect(self, metric: MetricSpec, arm: str) -> Effect | None:
        treated, base = (self.user_metrics[name].ratio(metric) for name in (arm, self.baseline))
        if treated is None or base is None:
            return None
        return compare(treated, base, self.design.level, same_users=self.design.paired)

    def log_rank_p(self, arm: str) -> float:
        """p-value that ``arm`` and the baseline bring users back for the first time at the same rate."""
        days = self.design.days
        return log_rank_p(*self.user_metrics[arm].first_returns(days), *self.user_metrics[self.baseline].first_returns(days))

    def tables(self) -> dict[str, pa.Table]:
        """The tables ``ab_metrics``, ``ab_daily``, ``ab_retention`` and ``ab_design`` by name."""
        rows = {"ab_metrics": self._metrics(), "ab_daily": self._daily(), "ab_retention": self._retention(), "ab_design": [self._design()]}
        return {name: pa.Table.from_pylist(rows[name], schema=schema) for name, schema in SCHEMAS.items()}

    def _metrics(self) -> list[dict[str, Any]]:
        """One row a metric and arm; metrics without a value in the baseline or in an arm have none there."""
        found = [(m, arm, e) for m in METRICS for arm in self.arms if (e := self._effect(m, arm)) is not None]
        # the baseline against itself is no test
        tests = [k for k, (_, arm, _) in enumerate(found) if arm != self.baseline]
        shown = np.zeros(len(found), dtype=bool)
        shown[tests] = adjusted([found[k][2].p_value for k in tests], "holm") < 1.0 - self.design.level
        return [self._metric(m, arm, effect, bool(s)) for (m, arm, effect), s in zip(found, shown, strict=True)]

    def _metric(self, metric: MetricSpec, arm: str, effect: Effect, shown: bool) -> dict[str, Any]:
        better = (effect.effect > 0) == metric.higher_is_better
        return {
            "scenario": self.design.eta_scenario,
            "metric": metric.name,
            "unit": metric.unit,
            "arm": arm,
            "baseline": self.baseline,
            "mean": effect.mean,
            "baseline_mean": effect.baseline_mean,
            "effect": effect.effect if arm != self.baseline else 0.0,
            "lower": effect.lower if arm != self.baseline else 0.0,
            "upper": effect.upper if arm != self.baseline else 0.0,
            "level": effect.level,
            "p_value": effect.p_value if arm != self.baseline else 1.0,
            "relative_effect": effect.relative if arm != self.baseline else 0.0,
            "users": self.user_metrics[arm].users,
            "higher_is_better": metric.higher_is_better,
            "verdict": "no difference shown" if not shown else "better" if better else "worse",
        }

    def _daily(self) -> list[dict[str, Any]]:
        level, rows = self.design.level, []
        for arm, found in self.user_metrics.items():
            active = (found.daily_requests > 0).sum(axis=0)
            series: dict[str, tuple[Any, Any, Any]] = {
                "daily_active_share": (active / found.users, *share_interval(active, found.users, level)),
                "requests_per_user": mean_interval(found.daily_requests.astype(np.float64), level),
            }
            if found.daily_watch_seconds is not None:
                series["watch_seconds_per_user"] = mean_interval(found.daily_watch_seconds.astype(np.float64), level)
            for metric, columns in series.items():
                for day, (value, lower, upper) in enumerate(zip(*columns, strict=True)):
                    rows.append(
                        {"arm": arm, "metric": metric, "day": day, "value": float(value), "lower": float(lower), "upper": float(upper)}
                    )
        return [{"scenario": self.design.eta_scenario, **row} for row in rows]

    def _retention(self) -> list[dict[str, Any]]:
        horizon, rows = self.design.days - 1, []
        if horizon < 1:
            return []
        for arm, found in self.user_metrics.items():
            curve = return_curve(*found.first_returns(self.design.days), horizon, self.design.level)
            for day, share, lower, upper in zip(curve.day, curve.returned_share, curve.lower, curve.upper, strict=True):
                rows.append({"arm": arm, "day": int(day), "returned_share": float(share), "lower": float(lower), "upper": float(upper)})
        return [{"scenario": self.design.eta_scenario, **row} for row in rows]

    def _design(self) -> dict[str, Any]:
        counts = [found.users for found in self.user_metrics.values()]
        return {
            "users": self.design.users,
            "days": self.design.days,
            "paired": self.design.paired,
            "seed": self.design.seed,
            "arms": ",".join(self.arms),
            "baseline": self.baseline,
            "eta_scenario": self.design.eta_scenario,
            "eta": self.design.eta,
            "sample_ratio_p": None if self.design.paired else sample_ratio_p(counts),
            "user_steps": int(sum(found.columns["requests"].sum() for found in self.user_metrics.values())),
            "seconds": self.seconds,
        }
