"""What an A/B experiment asks: who is simulated, for how long, and which numbers are compared."""

from __future__ import annotations

from dataclasses import dataclass

from recrl.core.errors import ConfigError


@dataclass(frozen=True)
class Design:
    """An A/B experiment.

    Attributes:
        users: simulated users: each goes through every arm when paired, else the arms share them.
        days: simulated days; all users have their first session on day 0.
        paired: the same users with the same random numbers in every arm; else users are randomised to arms.
        seed: draws users, their behaviour and the assignment to arms.
        baseline: arm that the others are compared with; empty for the first.
        level: confidence level of intervals and, with its complement, of verdicts.
        deterministic: arms that act by the mode of their policy instead of drawing.
        pre_days: days that every user also lives under the baseline, with other luck: the covariates of CUPED. Arms that share no
            users (``paired=False``) gain from it; 0 leaves the users' own baseline of satisfaction as the covariate.
        eta_scenario: name of the satisfaction effect on return that the worlds were built with.
        eta: its value.
    """

    users: int = 10_000
    days: int = 30
    paired: bool = True
    seed: int = 0
    baseline: str = ""
    level: float = 0.95
    deterministic: tuple[str, ...] = ()
    pre_days: int = 0
    eta_scenario: str = "fitted"
    eta: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("users", 2), ("days", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}", where=f"Design.{name}", mend=f"it must be at least {least}")
        if not 0 <= self.pre_days <= self.days:
            raise ConfigError(
                f"pre_days is {self.pre_days}", where="Design.pre_days", mend=f"give 0 to {self.days}, the days of the experiment"
            )
        if not 0.0 < self.level < 1.0:
            raise ConfigError(f"level is {self.level}; a confidence level lies between 0 and 1", where="Design.level", mend="0.95 is usual")


@dataclass(frozen=True)
class MetricSpec:
    """A ratio of sums over users: ``sum numerator / sum denominator``; both name columns of :class:`simulators.ab.results.UserMetrics`.

    Denominator ``users`` makes it a mean a user.
    """

    name: str
    unit: str
    higher_is_better: bool
    numerator: str
    denominator: str = "users"


METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("day1_retention", "share of users", True, "returned_next_day"),
    MetricSpec("day7_retention", "share of users", True, "active_day_7"),
    MetricSpec("day30_retention", "share of users", True, "active_day_30"),
    MetricSpec("return_gap", "days", False, "gap_days", "returns"),
    MetricSpec("churn_share", "share of users", False, "churned"),
    MetricSpec("active_days", "days a user", True, "active_days"),
    MetricSpec("sessions", "sessions a user", True, "sessions"),
    MetricSpec("session_depth", "requests a session", True, "requests", "sessions"),
    MetricSpec("requests", "requests a user", True, "requests"),
    MetricSpec("watch_seconds", "seconds a user", True, "watch_seconds"),
    MetricSpec("click_rate", "share of shown items", True, "click", "shown"),
    MetricSpec("long_view_rate", "share of shown items", True, "long_view", "shown"),
    MetricSpec("like_rate", "share of shown items", True, "like", "shown"),
    MetricSpec("hate_rate", "share of shown items", False, "hate", "shown"),
)
"""What every experiment reports.

``day<k>_retention`` counts users who have a session on day ``k``, their first being on day 0; the last day may be the first one that
is not simulated any more, because the simulator knows when a user comes back. ``return_gap`` averages over sessions that a return
follows, also beyond the last day, and leaves churned users to ``churn_share``.
"""

GUARDRAILS: tuple[MetricSpec, ...] = (
    MetricSpec("novelty", "bits", True, "novelty_bits", "shown"),
    MetricSpec("slate_diversity", "share", True, "diversity", "requests"),
)
"""Of what is shown: ``-log2`` of an item's share in the log, and one minus the mean cosine between two items of a slate."""

RETENTION_DAYS = (7, 30)
"""Days whose activity is a metric, beside day 1."""

DAILY = ("requests", "sessions", "shown", "click", "long_view", "watch_seconds")
"""Columns that are also kept by day."""

DAILY_METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("active_days", "days a user", True, "active"),
    MetricSpec("sessions", "sessions a user", True, "sessions"),
    MetricSpec("session_depth", "requests a session", True, "requests", "sessions"),
    MetricSpec("requests", "requests a user", True, "requests"),
    MetricSpec("watch_seconds", "seconds a user", True, "watch_seconds"),
    MetricSpec("click_rate", "share of shown items", True, "click", "shown"),
    MetricSpec("long_view_rate", "share of shown items", True, "long_view", "shown"),
)
"""Metrics that are followed from day to day; numerators and denominators are daily columns, ``active`` a day with any request."""
