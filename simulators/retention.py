"""When a user comes back: a discrete-time hazard for each day after a session."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recrl.core.errors import ConfigError
from simulators.config import ETA_STRONG, ETA_WEAK, Scenario
from simulators.published import RETURN_HAZARDS


@dataclass(frozen=True)
class RetentionLaw:
    """Probability of returning ``k`` days after a session, given not before.

    ``logit h_k = day_logits[k] + group_effects[g] + eta_s * (c - baseline) + eta_m * (m - memory_mean) + delta_dow[weekday of day k]`` for
    ``k = 1..K``; ``c`` is the running satisfaction after the session and ``m`` the memory of log gaps,
    ``m <- memory_decay * m + (1 - memory_decay) * log(gap)``.
    A user who is not back by day ``K`` has churned for good.

    Attributes:
        day_logits: one free intercept a day; its length is ``K``.
        group_effects: one for each activity group, weighted mean 0; unknown users get 0.
        group_names: names of the groups.
        eta_s: effect of satisfaction, at least 0.
        eta_s_estimate: the unconstrained estimate, where fitted.
        eta_s_interval: its 95 % interval, clustered by user.
        eta_m: effect of the gap memory.
        memory_mean: mean of the gap memory where the law was fitted.
        memory_decay: weight of earlier gaps in the memory.
        delta_dow: effect of the weekday on which a return would be, Monday first, sum 0; empty where the law knows none.
        delta_dow_interval: their 95 % intervals, clustered by user.
        source: what the law was fitted to.
        scenario: name of the scenario that set ``eta_s``.
    """

    day_logits: tuple[float, ...]
    group_effects: tuple[float, ...] = ()
    group_names: tuple[str, ...] = ()
    eta_s: float = 0.0
    eta_s_estimate: float | None = None
    eta_s_interval: tuple[float, float] | None = None
    eta_m: float = 0.0
    memory_mean: float = 0.0
    memory_decay: float = 0.5
    delta_dow: tuple[float, ...] = ()
    delta_dow_interval: tuple[tuple[float, float], ...] = ()
    source: str = ""
    scenario: Scenario = "fitted"

    def __post_init__(self) -> None:
        if not self.day_logits or not bool(np.isfinite(self.day_logits).all()):
            raise ConfigError(f"day_logits are {self.day_logits}", where="RetentionLaw.day_logits", mend="give one finite log-odds a day")
        if not self.eta_s >= 0:
            raise ConfigError(
                f"eta_s is {self.eta_s}", where="RetentionLaw.eta_s", mend="satisfaction may not keep users away: give 0 or more"
            )
        if len(self.group_effects) != len(self.group_names):
            raise ConfigError(
                f"{len(self.group_effects)} effects for {len(self.group_names)} groups",
                where="RetentionLaw.group_effects",
                mend="name each group",
            )
        if self.delta_dow and (len(self.delta_dow) != 7 or abs(sum(self.delta_dow)) > 1e-6):
            raise ConfigError(
                f"delta_dow is {self.delta_dow}", where="RetentionLaw.delta_dow", mend="give seven effects, Monday first, that sum to 0"
            )
        if not 0.0 <= self.memory_decay < 1.0:
            raise ConfigError(f"memory_decay is {self.memory_decay}", where="RetentionLaw.memory_decay", mend="a decay lies in [0, 1)")

    @property
    def max_days(self) -> int:
        """``K``: a user who is not back by then has churned."""
        return len(self.day_logits)

    def score(self, deviation: Any, memory: Any, group_effect: Any = 0.0) -> Any:
        """What is added to every day's log-odds; arrays or tensors."""
        return self.eta_s * deviation + self.eta_m * (memory - self.memory_mean) + group_effect

    def calendar(self, weekday: Any) -> NDArray[np.float64]:
        """What the calendar adds to the log-odds of days ``1..K`` after sessions on these weekdays, 0 Monday: ``(...)`` -> ``(..., K)``."""
        effects = np.asarray(self.delta_dow or (0.0,) * 7)
        return np.asarray(effects[(np.asarray(weekday)[..., None] + np.arange(1, self.max_days + 1)) % 7])

    def hazards(self, score: Any = 0.0) -> NDArray[np.float64]:
        """Hazards of days ``1..K`` for each score, on a weekday of no effect: ``(...)`` -> ``(..., K)``."""
        return np.asarray(1.0 / (1.0 + np.exp(-(np.asarray(self.day_logits) + np.asarray(score)[..., None]))))

    def distribution(self, score: Any = 0.0) -> NDArray[np.float64]:
        """P(return on day k), k = 1..K, and P(churn) last: ``(...)`` -> ``(..., K + 1)``."""
        hazards = self.hazards(score)
        survival = np.cumprod(1.0 - hazards, axis=-1)
        before = np.concatenate([np.ones_like(survival[..., :1]), survival[..., :-1]], axis=-1)
        return np.concatenate([before * hazards, survival[..., -1:]], axis=-1)

    def mean_gap_days(self, score: Any = 0.0) -> NDArray[np.float64]:
        """Mean gap of those who return within ``K`` days."""
        p = self.distribution(score)[..., :-1]
        return np.asarray((p * np.arange(1, self.max_days + 1)).sum(-1) / p.sum(-1))

    def under(self, scenario: Scenario) -> RetentionLaw:
        """The same law with the satisfaction effect of a named scenario; ``fitted`` is the law's own, 0 where there is no estimate."""
        if scenario == self.scenario:
            return self
        eta = {"fitted": max(0.0, self.eta_s_estimate or 0.0), "weak": ETA_WEAK, "strong": ETA_STRONG}[scenario]
        return replace(self, eta_s=eta, scenario=scenario)

    @classmethod
    def published(cls, *, eta_s: float = 0.0, eta_m: float = 0.0) -> RetentionLaw:
        """The law whose user at baseline returns with KuaiRand's published hazards.

        Nothing in those aggregates tells the effect of satisfaction: ``eta_s`` is the caller's assumption.
        """
        p = np.asarray(RETURN_HAZARDS)
        logits = tuple(float(x) for x in np.log(p) - np.log1p(-p))
        memory_mean = float((cls(logits).distribution()[:-1] * np.log(np.arange(1, len(p) + 1))).sum())
        return cls(
            logits,
            eta_s=eta_s,
            eta_m=eta_m,
            memory_mean=memory_mean,
            source="published hazards of KuaiRand-Pure, synthetic for any other log",
        )
