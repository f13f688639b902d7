"""Sessions with the user's return or the end of observation, checked, and how long sessions are observed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from offline_eval.validation import UndefinedError, check_log_probs, clusters, refuse, same_length, vector, weights
from recrl.core.contracts import Array, LoggedFeedback
from recrl.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from recrl_datasets.sessions import Sessions

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class RetentionLog:
    """Sessions, and what is known of the user's return.

    **Shapes**: ``days`` (n,) whole days: the day of return (from 1; count the same day as 1) where ``returned``, else the days
    observed since the session (from 0); ``returned`` (n,) bool; ``target_log_prob``, ``behaviour_log_prob`` (n,) of all actions of
    the session together; ``cluster`` (n,) integer user; ``stratum`` (n,) integer groups in which censoring is alike, e.g. the week
    of the session. For ``survival_dr``: ``logged_hazard`` (n, K) predicted chance to return on day 1..K given not before,
    ``target_survival`` (n, K) predicted chance not to have returned by day 1..K under the target policy;
    :func:`offline_eval.cross_fit_hazards` gives both.
    """

    days: Array
    returned: Array
    target_log_prob: Array
    behaviour_log_prob: Array
    cluster: Array
    stratum: Array | None = None
    logged_hazard: Array | None = None
    target_survival: Array | None = None

    @classmethod
    def from_sessions(
        cls, cut: Sessions, target_log_prob: Array, behaviour_log_prob: Array, *, stratum: Array | None = None
    ) -> RetentionLog:
        """The sessions of a log with calendar days, their last ones censored at the log's end.

        A return on the same calendar day counts as day 1; cutting with ``rule="day"`` leaves none.

        Args:
            cut: what :func:`recrl_datasets.sessions` gives.
            target_log_prob: (rows,) of each row's action under the target policy; summed over the rows of a session.
            behaviour_log_prob: (rows,) the same under the logging policy.
            stratum: (S,) groups in which censoring is alike.
        """
        rows = cut.requests.through(cut.rows)
        target, behaviour = (rows.sum(np.asarray(x, dtype=np.float64)) for x in (target_log_prob, behaviour_log_prob))
        days = np.where(cut.censored, cut.exposure_whole_days, np.maximum(cut.gap_whole_days, 1))
        return cls(days, ~cut.censored, target, behaviour, cut.user.astype(np.int64), stratum)


@dataclass(frozen=True, eq=False)
class Censoring:
    """Product-limit estimate of how long sessions are observed, by stratum.

    **Shapes**: ``hazard``, ``at_risk`` (strata, days + 1) for censoring after day 0, 1, ...: its share of, and the number of,
    sessions still observed and not returned by the end of that day.
    """

    hazard: Float64
    at_risk: Float64

    def survival(self, day: int) -> Float64:
        """``G(j) = P(C >= j)`` for ``j = 0..day``, (strata, day + 1)."""
        steps = np.cumprod(1.0 - self.hazard[:, :day], axis=1)
        return np.concatenate([np.ones((steps.shape[0], 1)), steps], axis=1)


@dataclass(frozen=True, eq=False)
class CheckedSessions:
    """Sessions as estimators need them, with their importance weights ``w`` (n,) and the censoring of their strata."""

    days: Int64
    returned: Bool
    w: Float64
    cluster: Int64
    stratum: Int64
    censoring: Censoring


def checked_sessions(feedback: RetentionLog, day: int) -> CheckedSessions:
    """Sessions that can be evaluated up to ``day``.

    **Errors**: :class:`DataError` for no sessions, shapes that do not fit, days that are not whole or too small, and what
    :func:`offline_eval.validation.checked` refuses of propensities and users; :class:`ConfigError` for a day before 1.
    """
    if day < 1:
        raise ConfigError(f"day is {day}; retention is counted from day 1", where="day", mend="give 1 or more")
    given = vector(feedback.days, "days", where="RetentionLog")
    if given.size == 0:
        raise DataError("there are no sessions to evaluate", where="RetentionLog.days", mend="check the filter or split that made the log")
    returned = np.asarray(feedback.returned)
    same_length(returned, given.size, "returned", where="RetentionLog")
    returned = returned.astype(bool)
    bad: Bool = ~np.isfinite(given) | (given != np.floor(given)) | (given < returned)
    refuse(
        bad,
        given,
        "days",
        "give whole days: from 1 for a return (count the same day as 1), from 0 for days observed without one",
        where="RetentionLog.days[{row}]",
    )
    rows = LoggedFeedback(given, feedback.target_log_prob, feedback.behaviour_log_prob, feedback.cluster)
    target, behaviour = check_log_probs(rows, given.size)
    cluster = clusters(feedback.cluster, given.size)
    stratum = np.zeros(given.size, dtype=np.int64)
    if feedback.stratum is not None:
        stratum = np.unique(clusters(feedback.stratum, given.size), return_inverse=True)[1].astype(np.int64)
    days = given.astype(np.int64)
    w = weights(replace(rows, target_log_prob=target, behaviour_log_prob=behaviour))
    need_weight(float(w.sum()))
    return CheckedSessions(days, returned, w, cluster, stratum, censoring(days, returned, stratum, day))


def censoring(days: Int64, returned: Bool, stratum: Int64, day: int) -> Censoring:
    """How long the sessions of each stratum are observed, up to ``day``, by the product limit with returns as what ends the watch.

    **Shapes**: ``days``, ``returned``, ``stratum`` (sessions,); the result as :class:`Censoring` says. **Units**: whole days.
    """
    strata, width = int(stratum.max()) + 1, day + 2
    until = np.minimum(days, day + 1)
    lost, left = (
        np.bincount(stratum[part] * width + until[part], minlength=strata * width).reshape(strata, width).astype(np.float64)
        for part in (~returned, returned)
    )
    # at the end of day j: not returned by j, and observed through j
    beyond = (lost + left)[:, ::-1].cumsum(axis=1)[:, ::-1] - left
    hazard = np.divide(lost, beyond, out=np.zeros_like(lost), where=beyond > 0)
    return Censoring(hazard[:, : day + 1], beyond[:, : day + 1])


def curves(feedback: RetentionLog, rows: int, day: int) -> tuple[Float64, Float64]:
    """Hazards (n, day) of logged actions, and survival (n,) after ``day`` under the target policy."""
    out = []
    for name in ("logged_hazard", "target_survival"):
        given = getattr(feedback, name)
        if given is None:
            raise DataError(
                "survival_dr needs predicted curves", where=f"RetentionLog.{name}", mend="add them with offline_eval.cross_fit_hazards"
            )
        values = np.asarray(given, dtype=np.float64)
        if values.ndim != 2 or values.shape[0] != rows or values.shape[1] < day:
            raise DataError(
                f"{name} has shape {values.shape} for {rows} sessions and day {day}",
                where=f"RetentionLog.{name}",
                mend="give one column a day, as many as the retention day",
            )
        outside: Bool = np.any((values < 0) | (values > 1) | np.isnan(values), axis=1)
        refuse(outside, values.max(axis=1), name, "probabilities lie in [0, 1]", where="RetentionLog.{name}[{row}]")
        out.append(values)
    return out[0][:, :day], out[1][:, day - 1]


def need_weight(total: float) -> None:
    """Refuse a log that the target policy would never have written."""
    if not total > 0:
        raise UndefinedError(
            "the estimate is undefined: every importance weight is zero",
            where="RetentionLog",
            mend="the target policy never takes a logged action; compare policies that overlap with the log",
        )


def nobody(day: int, what: str) -> None:
    """Refuse a day that the log does not reach."""
    mend = "ask for an earlier day, or give a longer log"
    raise UndefinedError(f"no session is {what} on day {day}", where="RetentionLog.days", mend=mend)
