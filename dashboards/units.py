"""What the numbers of a metric are, by its name: what stands on its axis."""

from __future__ import annotations

import re

from dashboards.formats import words
from recrl.core.behaviours import BEHAVIOURS

_LONGEST = 34  # what stands beside a figure of the least height
_OF_USERS = {
    "return": "reward a life or episode",
    "return_spread": "reward a life or episode",
    "episode_length": "steps an episode",
    "return_gap": "days",
    "churn_share": "share of users",
    "active_days": "days a user",
    "sessions": "sessions a user",
    "session_depth": "requests a session",
    "requests": "requests a user",
    "watch_seconds": "seconds a user",
}
"""Evaluations (``eval_...``) whose names do not tell."""

_BY_NAME = tuple(
    (re.compile(pattern), unit)
    for pattern, unit in (
        (r"day\d+_retention|(acting_)?day_\d+", "share of users"),
        (r"day1", "share of sessions"),
        (r"(rate|slack)_.*seconds", "seconds a request"),
        (r"(rate|slack)_.*", "mean a request"),
        (r".*(loss|error|penalty)(_.*)?|(lambda|weight|distance)_(?!share).*|temperature", "no unit"),
        (r"abstraction_.*", "variance of phi, no unit"),
        (r"(kl|entropy)(_.*)?", "nats"),
        (r".*_rate|" + "|".join(BEHAVIOURS), "share of shown items"),
        (r"(updates|steps|rows)_per_second", "1/s"),
        (r"core_seconds", "core-seconds"),
        (r"(.*_)?seconds", "seconds"),
        (r"(.*_)?days", "days"),
        (r"(.*_)?depth", "requests a session"),
        (r"requests_a_user", "requests a user"),
        (r"guard_(kept|far)|kept|never_below", "share of actions, 0 to 1"),
        (r"regret_area", "share of users, summed over days"),
        (r"ess", "share of rows"),
        (r"(.*_)?share", "0 to 1"),
        (r"(guard_|least_)?gain|(q|target|advantage|value|v|immediate)_.*", "units of reward"),
        (r"(r2|spearman|silhouette)_.*|.*correlation", "no unit, at most 1"),
        (r"effective_rows", "rows"),
        (r"updates", "updates"),
        (r"guard_step", "candidates from the actor's own action"),
    )
)


def unit_of(metric: str) -> str:
    """The unit of a metric of training, evaluation or a study; empty where its name tells none.

    >>> unit_of("eval_return_gap"), unit_of("rate_watch_seconds"), unit_of("metrics.actor_loss"), unit_of("mine")
    ('days', 'seconds a request', 'no unit', '')
    """
    whole, _, name = metric.rpartition(".")
    if whole in ("events", "rows"):
        return "rows"
    if whole == "reward" and name not in ("action_share", "rank_correlation"):
        return "share of pairs, 0 to 1"
    if whole == "truth" and name != "requests_a_user":
        name = f"rate_{name}"
    if name in ("value", "lower", "upper"):
        # test.click.snips.value
        name = whole.split(".")[-2:][0]
    if name.startswith("eval_") and (name := name.removeprefix("eval_")) in _OF_USERS:
        return _OF_USERS[name]
    return next((unit for pattern, unit in _BY_NAME if pattern.fullmatch(name)), "")


def axis(metric: str) -> str:
    """The title of a metric's axis: its name and its unit, or where the two are long its unit; other metrics stand as they were logged.

    >>> axis("actor_loss"), axis("eval_return"), axis("mine")
    ('actor loss (no unit)', 'reward a life or episode', 'mine (as logged)')
    """
    unit = unit_of(metric) or "as logged"
    whole = f"{words(metric)} ({unit})"
    return whole if len(whole) <= _LONGEST else unit
