"""An experiment's users, arm by arm, and the effect of any metric on all of them or on a part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.core.errors import ConfigError
from simulators.ab.design import GUARDRAILS, METRICS, Design, MetricSpec
from simulators.ab.facts import Facts
from simulators.ab.statistics import Effect, adjusted, compare, log_rank_p
from simulators.ab.users import UserMetrics


@dataclass(frozen=True, eq=False)
class Comparison:
    """What every arm's users did; ``user_metrics`` has one entry an arm, in the order of the arms.

    Attributes:
        design: the question.
        user_metrics: the users of each arm.
        seconds: how long the simulation took.
        facts: what guardrails and segments are made from.
        n_users: users of the catalogue: user ``uid`` has the features of ``uid % n_users``.
    """

    design: Design
    user_metrics: Mapping[str, UserMetrics]
    seconds: float = 0.0
    facts: Facts = Facts()
    n_users: int = 1

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms."""
        return tuple(self.user_metrics)

    @property
    def baseline(self) -> str:
        """Name of the arm that the others are compared with."""
        return self.design.baseline or self.arms[0]

    @property
    def treated(self) -> tuple[str, ...]:
        """The other arms."""
        return tuple(arm for arm in self.arms if arm != self.baseline)

    def effect(self, metric: str, arm: str) -> Effect:
        """Difference of a metric between ``arm`` and the baseline.

        **Errors**: :class:`ConfigError` for an unknown arm or metric, or one without a value in either arm.
        """
        known = {m.name: m for m in (*METRICS, *GUARDRAILS)}
        if metric not in known:
            raise ConfigError(f"unknown metric {metric!r}", where="metric", mend=f"choose from: {', '.join(known)}")
        if arm not in self.user_metrics:
            raise ConfigError(f"unknown arm {arm!r}", where="arm", mend=f"choose from: {', '.join(self.arms)}")
        found = self.effect_of(known[metric], arm)
        if found is None:
            raise ConfigError(
                f"{metric} has no value in this experiment", where="metric", mend="the world has no such signal, or nothing happened"
            )
        return found

    def effect_of(self, metric: MetricSpec, arm: str, segment: tuple[str, int] | None = None) -> Effect | None:
        """The effect of any metric, on the users of a segment (its name and code) where given; ``None`` without a value or users."""
        ratios = []
        for name in (arm, self.baseline):
            found = self.user_metrics[name]
            ratio = found.ratio(metric)
            if ratio is None:
                return None
            if segment is not None:
                mine = self.codes(name, segment[0]) == segment[1]
                ratio = (ratio[0][mine], ratio[1][mine])
                if mine.sum() < 2 or not ratio[1].sum() > 0:
                    return None
            ratios.append(ratio)
        return compare(ratios[0], ratios[1], self.design.level, same_users=self.design.paired)

    def codes(self, arm: str, segment: str) -> NDArray[np.int64]:
        """Each user's position in a segment's names, ``(n,)``."""
        return self.facts.segments[segment].codes[self.user_metrics[arm].uid % self.n_users]

    def log_rank_p(self, arm: str) -> float:
        """p-value that ``arm`` and the baseline bring users back for the first time at the same rate."""
        days = self.design.days
        return log_rank_p(*self.user_metrics[arm].first_returns(days), *self.user_metrics[self.baseline].first_returns(days))

    def row(self, metric: MetricSpec, arm: str, effect: Effect) -> dict[str, Any]:
        """What every table says of an effect."""
        return {
            "scenario": self.design.eta_scenario,
            "metric": metric.name,
            "unit": metric.unit,
            "arm": arm,
            "baseline": self.baseline,
            "mean": effect.mean,
            "baseline_mean": effect.baseline_mean,
            "effect": effect.effect,
            "lower": effect.lower,
            "upper": effect.upper,
            "level": effect.level,
            "p_value": effect.p_value,
            "relative_effect": effect.relative,
            "higher_is_better": metric.higher_is_better,
        }

    def judged(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows with ``p_adjusted`` (Holm over all of them) and ``verdict``."""
        corrected = adjusted([row["p_value"] for row in rows], "holm")
        for row, p in zip(rows, corrected, strict=True):
            row |= {"p_adjusted": float(p), "verdict": verdict(row["effect"], row["higher_is_better"], p < 1.0 - self.design.level)}
        return rows


def verdict(effect: float, higher_is_better: bool, shown: bool) -> str:
    """What an effect says: ``better``, ``worse``, or ``no difference shown``."""
    if not shown:
        return "no difference shown"
    return "better" if (effect > 0) == higher_is_better else "worse"
