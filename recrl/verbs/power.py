"""``recrl power``: plan an A/B test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from scipy.stats import t

from recrl.console import Talk
from recrl.core.errors import ConfigError
from recrl.core.runs import RunFolder
from simulators.ab.sequential import looking_costs
from simulators.ab.statistics import minimum_detectable_effect, power, users_needed


@dataclass(frozen=True)
class PowerOptions:
    """Users needed for an effect, the effect that users can show, or the power of both: what is left out is found.

    Attributes:
        effect: difference of means to be shown.
        users: users in each arm.
        power: probability to show it.
        deviation: standard deviation of a user's value; with `--paired` of a user's difference between arms.
        pilot: a finished A/B run that tells the deviation of a metric, and whether its arms are paired.
        metric: the metric of the pilot.
        scenario: the pilot's scenario; default its first.
        paired: the same users in both arms.
        level: confidence level of the two-sided test.
        runs: where runs live.
    """

    effect: float | None = None
    users: int | None = None
    power: float = 0.8
    deviation: float | None = None
    pilot: str = ""
    metric: str = "day1_retention"
    scenario: str = ""
    paired: bool = False
    level: float = 0.95
    runs: Path = Path("runs")

    def __post_init__(self) -> None:
        if self.effect is None and self.users is None:
            raise ConfigError("neither an effect nor users are given", where="recrl power", mend="give --effect, --users, or both")
        if (self.deviation is None) == (not self.pilot):
            raise ConfigError("the deviation comes from one place", where="recrl power", mend="give either --deviation or --pilot RUN")
        if not 0.0 < self.power < 1.0:
            raise ConfigError(f"power is {self.power}", where="--power", mend="a probability, 0.8 is usual")
        if self.users is not None and self.users < 2:
            raise ConfigError(f"users={self.users} must be at least 2", where="--users")


def plan(options: PowerOptions, talk: Talk) -> None:
    """Print the plan."""
    deviation, paired = options.deviation, options.paired
    if deviation is None:
        deviation, paired = pilot_deviation(options.runs / options.pilot, options.metric, options.scenario)
    effect, users, target = options.effect, options.users, options.power
    if effect is None:
        assert users is not None
        effect = minimum_detectable_effect(deviation, users, options.level, target, same_users=paired)
    elif users is None:
        users = users_needed(effect, deviation, options.level, target, same_users=paired)
    else:
        target = power(effect, deviation, users, options.level, same_users=paired)
    looking = math.ceil(users * looking_costs(options.level, target)) if target < 1.0 else users
    how = "the same users in both arms" if paired else "users randomised to arms"
    talk.say(f"effect {effect:.4g}, {users:,} users an arm, power {target:.1%} at level {options.level:g}")
    talk.say(f"  deviation {deviation:.4g}; {how}; one look at the end")
    talk.say(f"  looking every day with always-valid intervals: {looking:,} users an arm for the same power")
    plan = {"effect": effect, "users": users, "users_looking_daily": looking, "power": target, "level": options.level}
    talk.result({**plan, "deviation": deviation, "paired": paired})


def pilot_deviation(folder: Path, metric: str, scenario: str) -> tuple[float, bool]:
    """Standard deviation that a finished A/B run implies for a metric, and whether its arms are paired.

    From the half-width of the first arm's interval: ``reach = t * error``, ``error^2 = deviation^2 / n`` for pairs and about
    ``deviation^2 (1/n + 1/m)`` else.

    **Errors**: :class:`ConfigError` for a metric or scenario that the run does not have, or one without any variance.
    """
    run = RunFolder.open(folder)
    if not run.artifact("ab_metrics.parquet").is_file():
        raise ConfigError("the run holds no A/B test", where=str(folder), mend="recrl ab POLICY POLICY --run NAME makes one")
    rows = pq.read_table(run.artifact("ab_metrics.parquet")).to_pylist()
    paired = bool(pq.read_table(run.artifact("ab_design.parquet"))["paired"][0].as_py())
    mine = [row for row in rows if row["metric"] == metric and row["scenario"] == (scenario or rows[0]["scenario"])]
    treated = [row for row in mine if row["arm"] != row["baseline"]]
    if not treated:
        known = ", ".join(sorted({row["metric"] for row in rows}))
        scenarios = ", ".join(sorted({row["scenario"] for row in rows}))
        what = f"no {metric!r} under scenario {scenario or rows[0]['scenario']!r}"
        raise ConfigError(what, where=str(folder), mend=f"metrics: {known}; scenarios: {scenarios}")
    row, base = treated[0], next(row for row in mine if row["arm"] == row["baseline"])
    freedom = row["users"] - 1 if paired else row["users"] + base["users"] - 2
    error = (row["upper"] - row["lower"]) / 2 / float(t.ppf(0.5 + row["level"] / 2, freedom))
    deviation = error / math.sqrt(1 / row["users"] if paired else 1 / row["users"] + 1 / base["users"])
    if deviation == 0.0:
        raise ConfigError(f"{metric} does not vary in this run", where=str(folder), mend="choose another metric, or give --deviation")
    return deviation, paired
