"""Fitting when users leave and when they return, from the sessions of a log."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recrl.core.errors import DataError
from recrl_datasets import Sessions
from simulators.leave import LeaveLaw
from simulators.logistic import fit_logistic
from simulators.retention import RetentionLaw
from simulators.trace import Trace, session_weekdays

Float = NDArray[np.float64]
# calendar days that were observed after the log's first: each weekday twice
_TWO_WEEKS = 13


def fit_leave(
    sessions: Sessions, traced: Trace, *, half_life_days: float, max_requests: int = 300, weights: Float | None = None
) -> LeaveLaw:
    """Logistic regression of "the session ended here" on position, fatigue and satisfaction, one row a request.

    A satisfaction effect of the wrong sign is set to 0; its estimate and interval stay in the law.

    **Shapes**: ``weights`` (n_users,) how often each user counts, 1 without.

    **Errors**: :class:`DataError` where no session ends, or none goes on.
    """
    keep = traced.known
    fatigue = traced.fatigue[traced.session]
    columns = {
        "position": np.log1p(traced.position)[keep],
        "fatigue": np.log1p(fatigue)[keep],
        "satisfaction": -traced.deviation[keep],
    }
    y = traced.last[keep].astype(np.float64)
    if y.size == 0 or y.min() == y.max():
        raise DataError(
            "every request ends its session" if y.size and y.min() == 1 else "no session's end was observed",
            where="fit_leave: sessions",
            mend="use another session rule, or state the law: LeaveLaw.synthetic(mean_depth=...)",
        )
    used = [name for name, values in columns.items() if float(values.std()) > 1e-9]
    x = np.column_stack([np.ones(y.size), *(columns[name] for name in used)])
    user = sessions.user[traced.session][keep]
    fit = fit_logistic(x, y, user, where="fit_leave", weights=None if weights is None else weights[user])
    effect = {name: float(fit.coefficients[1 + k]) for k, name in enumerate(used)}
    place = used.index("satisfaction") + 1 if "satisfaction" in used else None
    return LeaveLaw(
        intercept=float(fit.coefficients[0]),
        position=effect.get("position", 0.0),
        fatigue=effect.get("fatigue", 0.0),
        satisfaction=max(0.0, effect.get("satisfaction", 0.0)),
        fatigue_half_life_days=half_life_days,
        max_requests=int(min(max(int(sessions.depth.max()), 2), max_requests)),
        satisfaction_estimate=effect.get("satisfaction"),
        satisfaction_interval=None if place is None else fit.interval(place),
        source=f"fitted to {y.size} requests, sessions by {sessions.rule}",
    )


def person_days(sessions: Sessions, max_days: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Float]:
    """One row for each session and day it could be followed: session, day (from 1), whether the user returned that day.

    A return on the same day is no gap: only the last session of a day counts. Days after the log's end are not rows: censoring.
    """
    followed = np.where(sessions.censored, sessions.exposure_whole_days, sessions.gap_whole_days)
    days = np.minimum(np.where(sessions.gap_whole_days == 0, 0, followed), max_days).astype(np.int64)
    row = np.repeat(np.arange(sessions.count), days)
    day = np.arange(row.size) - np.repeat(np.cumsum(days) - days, days) + 1
    returned = (~sessions.censored[row]) & (sessions.gap_whole_days[row] == day)
    return row, day, returned.astype(np.float64)


def fit_retention(
    sessions: Sessions,
    traced: Trace,
    *,
    groups: NDArray[np.integer] | None = None,
    group_names: tuple[str, ...] = (),
    max_days: int = 10,
    memory_decay: float = 0.5,
    weights: Float | None = None,
) -> RetentionLaw:
    """Maximum likelihood of the discrete-time hazard, with censoring: a logistic regression over days at risk.

    Days on which nobody (or everybody) returned share the intercept of the day before; groups of which no day was seen get effect 0.
    The satisfaction effect is constrained to at least 0 in the law that is used; its estimate and interval stay beside it. Weekdays
    get effects where every one was at risk, with and without returns, in a log of two weeks or more.

    **When it fails**: few weeks hold few Mondays: what happened on those days is part of Monday's effect, and its interval, clustered
    by user, does not know it.

    **Shapes**: ``groups`` (n_users,) codes into ``group_names``, -1 for none; ``weights`` (n_users,) how often each user counts, 1 without.

    **Errors**: :class:`DataError` where no return was observed.
    """
    row, day, y = person_days(sessions, max_days)
    if y.sum() == 0:
        raise DataError(
            "no return on a later day was observed",
            where="fit_retention: sessions",
            mend="use a log of more days, or the published law: RetentionLaw.published()",
        )
    of_day = _day_columns(day, y, max_days)
    names = [("day", k) for k in range(int(of_day.max()) + 1)]
    columns: list[Float] = [(of_day[day - 1] == k).astype(np.float64) for _, k in names]
    for name, values in (("satisfaction", traced.end_deviation), ("memory", traced.memory - traced.memory_mean)):
        if float(values[row].std()) > 1e-9:
            names.append((name, 0))
            columns.append(values[row])
    share = np.zeros(len(group_names))
    if groups is not None:
        code = np.asarray(groups)[sessions.user][row]
        share = np.bincount(code[code >= 0], minlength=len(group_names))[: len(group_names)] / max(int((code >= 0).sum()), 1)
        # the largest group is the reference; effects are centred below
        for g in (g for g in range(len(group_names)) if share[g] > 0 and g != int(share.argmax())):
            names.append(("group", g))
            columns.append((code == g).astype(np.float64))
    weekday = (session_weekdays(sessions)[row] + day) % 7
    if _weekdays_told(sessions, weekday, y):
        # Monday is the reference; effects are centred below
        for w in range(1, 7):
            names.append(("weekday", w))
            columns.append((weekday == w).astype(np.float64))
    user = sessions.user[row]
    fit = fit_logistic(np.column_stack(columns), y, user, where="fit_retention", weights=None if weights is None else weights[user])
    found = dict(zip(names, fit.coefficients, strict=True))
    effects = np.array([found.get(("group", g), 0.0) for g in range(len(group_names))])
    centre = float(share @ effects)
    eta = found.get(("satisfaction", 0))
    weekdays = [fit.contrast(_weekday_contrast(names, w)) for w in range(7)] if ("weekday", 1) in found else []
    level = centre + sum(found.get(("weekday", w), 0.0) for w in range(1, 7)) / 7
    return RetentionLaw(
        day_logits=tuple(float(found["day", int(of_day[k])] + level) for k in range(max_days)),
        group_effects=tuple(np.where(share > 0, effects - centre, 0.0).tolist()),
        group_names=group_names,
        eta_s=max(0.0, float(eta or 0.0)),
        eta_s_estimate=None if eta is None else float(eta),
        eta_s_interval=None if eta is None else fit.interval(names.index(("satisfaction", 0))),
        eta_m=float(found.get(("memory", 0), 0.0)),
        memory_mean=traced.memory_mean,
        memory_decay=memory_decay,
        delta_dow=tuple(value for value, _ in weekdays),
        delta_dow_interval=tuple(interval for _, interval in weekdays),
        source=f"fitted to {int(y.sum())} returns over {y.size} days at risk, sessions by {sessions.rule}",
    )


def _weekdays_told(sessions: Sessions, weekday: NDArray[np.int64], y: Float) -> bool:
    at_risk, returned = np.bincount(weekday, minlength=7), np.bincount(weekday, weights=y, minlength=7)
    span = int(sessions.exposure_whole_days.max(initial=0))
    return span >= _TWO_WEEKS and bool(((returned > 0) & (returned < at_risk)).all())


def _weekday_contrast(names: list[tuple[str, int]], weekday: int) -> Float:
    """The coefficient of a weekday less the mean of all seven, of which Monday's is 0."""
    return np.array([float(name == ("weekday", weekday)) - (1 / 7 if name[0] == "weekday" else 0.0) for name in names])


def _day_columns(day: NDArray[np.int64], y: Float, max_days: int) -> NDArray[np.int64]:
    """Intercept of each day: ``(max_days,)``; a day without information joins the day before (the first ones, the day after)."""
    at_risk = np.bincount(day, minlength=max_days + 1)[1:]
    returned = np.bincount(day, weights=y, minlength=max_days + 1)[1:]
    informed = (returned > 0) & (returned < at_risk)
    return np.maximum(np.cumsum(informed) - 1, 0)
