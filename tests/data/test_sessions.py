"""Sessions, requests, gaps and censoring against a slow, plain reference."""

from __future__ import annotations

from itertools import groupby
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recrl_datasets as rd
from recrl.core.errors import ConfigError
from recrl_datasets.log import Log

DAY = 86_400_000
START = 19_000 * DAY

rows = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6 * DAY // 60_000)), max_size=30)


def make_log(pairs: list[tuple[int, int]], **columns: Any) -> Log:
    """A log of (user, minute) pairs over four users."""
    ordered = sorted(range(len(pairs)), key=lambda k: pairs[k])
    arrays: dict[str, Any] = {
        "user": np.array([pairs[k][0] for k in ordered], np.int32),
        "item": np.zeros(len(pairs), np.int32),
        "timestamp_ms": np.array([START + pairs[k][1] * 60_000 for k in ordered], np.int64),
    }
    arrays |= {name: np.asarray(values)[ordered] if len(pairs) else np.asarray(values) for name, values in columns.items()}
    return Log.from_arrays(arrays, n_users=4, n_items=1)


def reference(log: Log, rule: str, gap_minutes: float) -> list[dict[str, Any]]:
    """One dict a session, by plain loops."""
    out: list[dict[str, Any]] = []
    user, times = log.column("user").tolist(), log.column("timestamp_ms").tolist()
    requests = log.column("request_id").tolist() if log.has("request_id") else times
    until = log.observed_until_ms
    for _, group in groupby(range(log.n_rows), key=lambda k: user[k]):
        mine: list[list[int]] = []
        for k in group:
            same = mine and (
                times[k] // DAY == times[mine[-1][-1]] // DAY if rule == "day" else times[k] - times[mine[-1][-1]] <= gap_minutes * 60_000
            )
            if same:
                mine[-1].append(k)
            else:
                mine.append([k])
        for number, session in enumerate(mine):
            end = times[session[-1]]
            following = times[mine[number + 1][0]] if number + 1 < len(mine) else None
            out.append(
                {
                    "user": user[session[0]],
                    "start": times[session[0]],
                    "end": end,
                    "rows": session,
                    "depth": len([0 for _ in groupby(session, key=lambda k: requests[k])]),
                    "gap": None if following is None else (following - end) / DAY,
                    "whole": -1 if following is None else following // DAY - end // DAY,
                    "exposure": (until - end) / DAY,
                    "whole_exposure": until // DAY - end // DAY,
                }
            )
    return out


@pytest.mark.parametrize("rule", ["gap", "day"])
@given(pairs=rows, gap=st.sampled_from([1.0, 30.0, 600.0]), with_requests=st.booleans(), data=st.data())
def test_sessions_equal_the_reference(
    rule: Literal["gap", "day"], pairs: list[tuple[int, int]], gap: float, with_requests: bool, data: st.DataObject
) -> None:
    extra = {"request_id": data.draw(st.lists(st.integers(0, 2), min_size=len(pairs), max_size=len(pairs)))} if with_requests else {}
    log = make_log(pairs, **{name: np.array(values, np.int64) for name, values in extra.items()})
    got = rd.sessions(log, rule, gap)
    wanted = reference(log, rule, gap)
    assert len(got) == got.count == len(wanted)
    assert got.user.tolist() == [s["user"] for s in wanted]
    assert got.start_ms.tolist() == [s["start"] for s in wanted]
    assert got.end_ms.tolist() == [s["end"] for s in wanted]
    assert got.depth.tolist() == [s["depth"] for s in wanted]
    assert [None if np.isnan(g) else g for g in got.gap_days] == [s["gap"] for s in wanted]
    assert got.gap_whole_days.tolist() == [s["whole"] for s in wanted]
    assert got.censored.tolist() == [s["gap"] is None for s in wanted]
    assert got.exposure_days.tolist() == [s["exposure"] for s in wanted]
    assert got.exposure_whole_days.tolist() == [s["whole_exposure"] for s in wanted]
    to_rows = got.requests.through(got.rows)
    assert [list(range(to_rows[k].start, to_rows[k].stop)) for k in range(got.count)] == [s["rows"] for s in wanted]
    assert got.users.through(to_rows).values.tolist() == log.user_offsets.values.tolist()


def test_gap_of_exactly_the_limit_goes_on() -> None:
    log = make_log([(0, 0), (0, 30), (0, 61)])
    assert rd.sessions(log, "gap", 30).start_ms.tolist() == [START, START + 61 * 60_000]


def test_local_date_decides_the_day_and_never_runs_backwards() -> None:
    # the third row carries an earlier date than the second: it belongs to the second's day
    days = np.array([19_000, 19_001, 19_000, 19_003], "datetime64[D]")
    log = make_log([(0, 0), (0, 10), (0, 20), (0, 30)], local_date=days)
    got = rd.sessions(log, "day")
    assert got.requests.through(got.rows).lengths.tolist() == [1, 2, 1]
    assert got.gap_whole_days.tolist() == [1, 2, -1]


def test_a_date_that_runs_backwards_stays_with_its_user() -> None:
    days = np.array([19_005, 19_004, 19_001, 19_002], "datetime64[D]")
    log = make_log([(0, 0), (0, 10), (1, 0), (1, 10)], local_date=days)
    assert rd.sessions(log, "day").requests.lengths.tolist() == [2, 1, 1]


def test_local_clock_counts_for_exposure() -> None:
    # 23:30 UTC is the next day at UTC+8; the log ends one local day later
    hour = 60
    pairs = [(0, 23 * hour + 30), (1, 24 * hour + 17 * hour)]
    log = make_log(pairs, local_date=np.array([19_001, 19_002], "datetime64[D]"))
    assert rd.sessions(log, "day").exposure_whole_days.tolist() == [1, 0]


def test_users_own_end_of_observation() -> None:
    until = np.array([START + 2 * DAY, START + 2 * DAY, START + 9 * DAY], np.int64)
    log = make_log([(0, 0), (0, 60), (2, 60)], censor_time=until)
    got = rd.sessions(log, "gap", 30)
    assert got.exposure_days.tolist() == [2.0, 2.0 - 60 / 1440, 9.0 - 60 / 1440]


def test_a_time_split_censors_at_its_cut() -> None:
    log = make_log([(0, 0), (0, 3 * 1440), (1, 1440), (2, 2 * 1440), (3, 5 * 1440)])
    split = rd.split_by_time(log, (0.6, 0.2, 0.2))
    got = rd.sessions(split.train, "day")
    assert got.censored.tolist() == [True, True, True]
    assert got.exposure_days.tolist() == [3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rule": "week"}, "session rule 'week' is not known"),
        ({"gap_minutes": 0}, "gap_minutes=0 is not positive"),
        ({"gap_minutes": float("nan")}, "gap_minutes=nan is not positive"),
    ],
)
def test_bad_options(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rd.sessions(make_log([(0, 0)]), **options)
    assert caught.value.what == what
