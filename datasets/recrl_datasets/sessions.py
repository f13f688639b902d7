"""Sessions, requests and return gaps: users -> sessions -> requests -> rows, ragged, never padded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recrl.core.errors import ConfigError
from recrl.core.ragged import Offsets
from recrl_datasets.log import Log

DAY_MS = 86_400_000
SessionRule = Literal["gap", "day"]


@dataclass(frozen=True, eq=False)
class Sessions:
    """Sessions of a log, in the order of its rows.

    A *request* is a run of rows of one user and session with one ``request_id``, or one ``timestamp_ms`` where the log has
    no ``request_id``. A session that no later one of the same user follows is *censored*: whether the user came back after
    the log's end is unknown.

    **Shapes**: ``S`` sessions. ``users`` (one segment a user) partitions sessions, ``requests`` (one a session) partitions
    requests, ``rows`` (one a request) partitions rows; ``users.through(requests).through(rows)`` is ``log.user_offsets``.
    ``user`` (S,) int32; ``start_ms``, ``end_ms`` (S,) int64, first and last row; ``depth`` (S,) int64 requests;
    ``gap_days`` (S,) float64, from the last row to the first row of the next session, NaN when censored;
    ``gap_whole_days`` (S,) int32, difference of calendar days, 0 the same day, -1 when censored; ``censored`` (S,) bool;
    ``exposure_days`` (S,) float64, days observed after the session, censored or not; ``exposure_whole_days`` (S,) int32,
    calendar days observed after the session's day (the log's last day counts as observed).

    **Units**: milliseconds since 1970 UTC; days.
    """

    log: Log
    rule: SessionRule
    gap_minutes: float
    users: Offsets
    requests: Offsets
    rows: Offsets
    user: NDArray[np.int32]
    start_ms: NDArray[np.int64]
    end_ms: NDArray[np.int64]
    depth: NDArray[np.int64]
    gap_days: NDArray[np.float64]
    gap_whole_days: NDArray[np.int32]
    censored: NDArray[np.bool_]
    exposure_days: NDArray[np.float64]
    exposure_whole_days: NDArray[np.int32]

    @property
    def count(self) -> int:
        """Number of sessions."""
        return self.requests.count

    def __len__(self) -> int:
        return self.count


def sessions(log: Log, rule: SessionRule = "gap", gap_minutes: float = 30.0) -> Sessions:
    """Cut a log into sessions.

    Args:
        log: the rows.
        rule: ``gap`` starts a session after more than ``gap_minutes`` without a row; ``day`` makes one of each calendar day
            (``local_date`` where the log has it, else the UTC day).
        gap_minutes: for rule ``gap``.

    **Errors**: :class:`ConfigError` for another rule or a gap that is not positive.
    """
    if rule not in ("gap", "day"):
        raise ConfigError(f"session rule {rule!r} is not known", where="sessions: rule", mend="use 'gap' or 'day'")
    if not gap_minutes > 0:
        raise ConfigError(f"gap_minutes={gap_minutes} is not positive", where="sessions: gap_minutes", mend="give minutes, for example 30")
    user, times, days = log.column("user"), log.column("timestamp_ms"), row_days(log)
    new_session = _changes(user)
    if rule == "day":
        new_session |= _changes(days)
    else:
        new_session[1:] |= np.diff(times) > gap_minutes * 60_000
    new_request = new_session | _changes(log.column("request_id") if log.has("request_id") else times)
    first = np.flatnonzero(new_session)
    last = np.append(first[1:], user.size)[: first.size] - 1
    requests = Offsets(np.append(np.cumsum(new_request)[first] - 1, int(new_request.sum())) if first.size else np.zeros(1, np.int64))
    owner = user[first]
    start, end, start_day, end_day = times[first], times[last], days[first], days[last]
    followed = np.zeros(first.size, dtype=bool)
    followed[:-1] = owner[1:] == owner[:-1]
    following = np.minimum(np.arange(1, first.size + 1), max(first.size - 1, 0))
    until = _observed_until(log)[owner] if log.has("censor_time") else np.full(first.size, log.observed_until_ms)
    last_day = (until + local_offset_hours(log) * 3_600_000) // DAY_MS
    return Sessions(
        log=log,
        rule=rule,
        gap_minutes=gap_minutes,
        users=Offsets.from_sorted_ids(owner, log.n_users),
        requests=requests,
        rows=Offsets.from_starts(new_request),
        user=owner,
        start_ms=start,
        end_ms=end,
        depth=requests.lengths,
        gap_days=np.where(followed, (start[following] - end) / DAY_MS, np.nan),
        gap_whole_days=np.where(followed, start_day[following] - end_day, -1).astype(np.int32),
        censored=~followed,
        exposure_days=np.maximum(until - end, 0) / DAY_MS,
        exposure_whole_days=np.maximum(last_day - end_day, 0).astype(np.int32),
    )


def row_days(log: Log) -> NDArray[np.int64]:
    """Calendar day of each row, days since 1970, ``(n_rows,)``; never decreasing within a user.

    ``local_date`` where the log has it, else the UTC day. A platform's own day may lag behind its clock: a row never falls
    before the day of an earlier row of the same user.
    """
    if not log.has("local_date"):
        return log.column("timestamp_ms") // DAY_MS
    days = log.column("local_date").astype("datetime64[D]").astype(np.int64)
    if days.size == 0 or not np.any((np.diff(days) < 0) & (np.diff(log.column("user")) == 0)):
        return days
    # a running maximum within users: lift each user's days above all days of the users before
    lift = log.column("user").astype(np.int64) * (int(days.max()) - int(days.min()) + 1)
    return np.maximum.accumulate(days + lift) - lift


def local_offset_hours(log: Log) -> int:
    """Whole hours from UTC to the clock behind ``local_date``: the offset under which fewest rows disagree; 0 without ``local_date``."""
    if not log.has("local_date") or log.n_rows == 0:
        return 0
    every = max(1, log.n_rows // 50_000)
    times = log.column("timestamp_ms")[::every]
    days = log.column("local_date")[::every].astype("datetime64[D]").astype(np.int64)
    offsets = sorted(range(-12, 15), key=abs)
    return min(offsets, key=lambda hours: int(np.sum((times + hours * 3_600_000) // DAY_MS != days)))


def _changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    out = np.ones(values.size, dtype=bool)
    np.not_equal(values[1:], values[:-1], out=out[1:])
    return out


def _observed_until(log: Log) -> NDArray[np.int64]:
    """End of observation of each user: the latest ``censor_time`` among its rows, ``(n_users,)``."""
    until = np.full(log.n_users, log.observed_until_ms, dtype=np.int64)
    filled = log.user_offsets.lengths > 0
    if bool(filled.any()):
        until[filled] = np.maximum.reduceat(log.column("censor_time"), log.user_offsets.values[:-1][filled])
    return until
