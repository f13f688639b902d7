"""When a session ends: a hazard after each request, logistic in satisfaction, position and fatigue."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recrl.core.errors import ConfigError


@dataclass(frozen=True)
class LeaveLaw:
    """Probability that the session ends after a request.

    ``logit h = intercept + position * log(1 + p) + fatigue * log(1 + f) - satisfaction * (c - baseline)`` where ``p`` is the number
    of earlier requests in the session, ``f`` the fatigue carried over from earlier sessions (requests, halved every
    ``fatigue_half_life_days`` away) and ``c`` the running satisfaction. A session ends at ``max_requests`` in any case.

    Attributes:
        intercept: log-odds at the first request of a rested user at baseline.
        position: effect of log position.
        fatigue: effect of log fatigue.
        satisfaction: effect of satisfaction, at least 0: a pleased user stays.
        fatigue_half_life_days: days away after which half the fatigue is gone.
        max_requests: longest session.
        satisfaction_estimate: the unconstrained estimate, where fitted.
        satisfaction_interval: its 95 % interval, clustered by user.
        source: ``fitted`` or ``synthetic``, and on what.
    """

    intercept: float
    position: float = 0.0
    fatigue: float = 0.0
    satisfaction: float = 0.0
    fatigue_half_life_days: float = 1.0
    max_requests: int = 100
    satisfaction_estimate: float | None = None
    satisfaction_interval: tuple[float, float] | None = None
    source: str = "synthetic"

    def __post_init__(self) -> None:
        if self.satisfaction < 0:
            raise ConfigError(f"satisfaction effect is {self.satisfaction}", where="LeaveLaw.satisfaction", mend="it must be at least 0")
        if self.max_requests < 1:
            raise ConfigError(f"max_requests is {self.max_requests}", where="LeaveLaw.max_requests", mend="it must be at least 1")
        if self.fatigue_half_life_days <= 0:
            raise ConfigError(
                f"half life is {self.fatigue_half_life_days}", where="LeaveLaw.fatigue_half_life_days", mend="it must be positive"
            )

    def logit(self, position: Any, fatigue: Any, deviation: Any) -> Any:
        """Log-odds of leaving; arrays or tensors, ``position`` and ``fatigue`` already as ``log(1 + .)``."""
        return self.intercept + self.position * position + self.fatigue * fatigue - self.satisfaction * deviation

    def mean_depth(self) -> float:
        """Expected requests in a session of a rested user who stays at baseline."""
        position = np.log1p(np.arange(self.max_requests - 1))
        stay = 1.0 / (1.0 + np.exp(self.logit(position, 0.0, 0.0)))
        return float(1.0 + np.cumprod(stay).sum())

    @classmethod
    def synthetic(
        cls, mean_depth: float, *, position: float = 0.0, fatigue: float = 0.1, satisfaction: float = 2.0, max_requests: int = 100
    ) -> LeaveLaw:
        """A stated law whose rested user at baseline makes ``mean_depth`` requests a session.

        **Errors**: :class:`ConfigError` when no hazard gives that depth.
        """
        if not 1.0 < mean_depth < max_requests:
            raise ConfigError(
                f"mean_depth is {mean_depth}",
                where="LeaveLaw.synthetic",
                mend=f"give more than 1 and fewer than max_requests={max_requests} requests",
            )
        law = cls(0.0, position, fatigue, satisfaction, max_requests=max_requests, source=f"synthetic, mean depth {mean_depth:g}")
        low, high = -30.0, 30.0
        for _ in range(80):
            law = replace(law, intercept=(low + high) / 2)
            low, high = (law.intercept, high) if law.mean_depth() > mean_depth else (low, law.intercept)
        return law
