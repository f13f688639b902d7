"""The tables of a run, made from an experiment's users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from simulators.ab.breakdown import cuped_rows, exposure_rows, guardrail_rows, segment_rows
from simulators.ab.comparison import Comparison, verdict
from simulators.ab.design import METRICS
from simulators.ab.sequential import by_day_rows, sequential_rows
from simulators.ab.statistics import adjusted, mean_interval, return_curve, sample_ratio_p, share_interval

_KINDS: tuple[tuple[str, pa.DataType], ...] = (
    (
        "scenario metric unit arm baseline verdict arms eta_scenario covariate segment group provider members",
        pa.string(),
    ),
    ("users days seed day user_steps pre_days simulators", pa.int64()),
)
_TYPES: dict[str, pa.DataType] = {name: kind for names, kind in _KINDS for name in names.split()}
_TYPES |= dict.fromkeys(("paired", "higher_is_better"), pa.bool_())
_EFFECT = "scenario metric unit arm baseline mean baseline_mean effect lower upper level p_value relative_effect"


def _schema(order: str) -> pa.Schema:
    """Columns in their order; what is no string, whole number or flag is a double."""
    return pa.schema([(name, _TYPES.get(name, pa.float64())) for name in order.split()])


SCHEMAS: dict[str, pa.Schema] = {
    "ab_metrics": _schema(f"{_EFFECT} users higher_is_better verdict"),
    "ab_daily": _schema("scenario arm metric day value lower upper"),
    "ab_retention": _schema("scenario arm day returned_share lower upper log_rank_p"),
    "ab_design": _schema("users days paired seed arms baseline eta_scenario eta sample_ratio_p user_steps seconds pre_days"),
    "ab_sequential": _schema(
        "scenario metric unit arm baseline day mean baseline_mean effect fixed_lower fixed_upper fixed_p_value lower upper p_value level "
        "information_ratio higher_is_better verdict"
    ),
    "ab_by_day": _schema("scenario metric arm day effect lower upper"),
    "ab_trend": _schema("scenario metric arm slope lower upper level p_value mean_effect verdict"),
    "ab_cuped": _schema(
        f"{_EFFECT} higher_is_better plain_lower plain_upper covariate predicted_reduction variance_reduction p_adjusted verdict"
    ),
    "ab_segments": _schema(f"{_EFFECT} higher_is_better segment group users heterogeneity_p p_adjusted verdict"),
    "ab_guardrails": _schema(f"{_EFFECT} higher_is_better p_adjusted verdict"),
    "ab_exposure": _schema(f"{_EFFECT} provider segment group p_adjusted"),
}
"""Columns of each table, as ``docs/artifacts.md`` has them."""


@dataclass(frozen=True, eq=False)
class ExperimentResult(Comparison):
    """An experiment's outcome."""

    def tables(self) -> dict[str, pa.Table]:
        """The tables of :data:`SCHEMAS` by name; some have no rows, such as segments without :class:`simulators.ab.facts.Facts`."""
        daily, trends = by_day_rows(self)
        rows = {
            "ab_metrics": self._metrics(),
            "ab_daily": self._daily(),
            "ab_retention": self._retention(),
            "ab_design": [self._design()],
            "ab_sequential": sequential_rows(self),
            "ab_by_day": daily,
            "ab_trend": trends,
            "ab_cuped": cuped_rows(self),
            "ab_segments": segment_rows(self),
            "ab_guardrails": guardrail_rows(self),
            "ab_exposure": exposure_rows(self),
        }
        return {name: pa.Table.from_pylist(rows[name], schema=schema) for name, schema in SCHEMAS.items()}

    def _metrics(self) -> list[dict[str, Any]]:
        """One row a metric and arm; metrics without a value in the baseline or in an arm have none there."""
        found = [(m, arm, e) for m in METRICS for arm in self.arms if (e := self.effect_of(m, arm)) is not None]
        # the baseline against itself is no test
        tests = [k for k, (_, arm, _) in enumerate(found) if arm != self.baseline]
        shown = np.zeros(len(found), dtype=bool)
        shown[tests] = adjusted([found[k][2].p_value for k in tests], "holm") < 1.0 - self.design.level
        rows = []
        for (metric, arm, effect), significant in zip(found, shown, strict=True):
            row = self.row(metric, arm, effect) | {
                "users": self.user_metrics[arm].users,
                "verdict": verdict(effect.effect, metric.higher_is_better, bool(significant)),
            }
            if arm == self.baseline:
                row |= {"effect": 0.0, "lower": 0.0, "upper": 0.0, "p_value": 1.0, "relative_effect": 0.0}
            rows.append(row)
        return rows

    def _daily(self) -> list[dict[str, Any]]:
        level, rows = self.design.level, []
        for arm, found in self.user_metrics.items():
            active = found.active().sum(axis=0)
            low, high = share_interval(active, found.users, level)
            series: dict[str, tuple[Any, Any, Any]] = {
                "daily_active_share": (active / found.users, low, high),
                "requests_per_user": mean_interval(found.daily["requests"], level),
                "daily_active_users": (active, low * found.users, high * found.users),
            }
            if "watch_seconds" in found.daily:
                series["watch_seconds_per_user"] = mean_interval(found.daily["watch_seconds"], level)
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
            p = None if arm == self.baseline else self.log_rank_p(arm)
            for day, share, lower, upper in zip(curve.day, curve.returned_share, curve.lower, curve.upper, strict=True):
                bounds = {"lower": float(lower), "upper": float(upper), "log_rank_p": p}
                rows.append({"arm": arm, "day": int(day), "returned_share": float(share), **bounds})
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
            "pre_days": self.design.pre_days,
        }
