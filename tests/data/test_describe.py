"""The description: oracles for gaps and rates, the coverage of its intervals, and the shape of its tables and figures."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recrl_datasets as rd
from recrl_datasets.describe import gap_table, rate_table
from recrl_datasets.log import Log

DAY = 86_400_000
START = 19_000 * DAY

TABLES: dict[str, list[tuple[str, pa.DataType]]] = {
    "data_summary": [
        ("name", pa.string()),
        *(
            (name, pa.int64())
            for name in ("rows", "users", "items", "sessions", "requests", "duplicate_rows", "random_rows", "first_ms", "last_ms")
        ),
        ("content_hash", pa.string()),
        ("session_rule", pa.string()),
    ],
    "data_depth": [("depth", pa.int64()), ("sessions", pa.int64()), ("share", pa.float64())],
    "data_gaps": [
        ("day", pa.int64()),
        ("completed", pa.int64()),
        ("completed_share", pa.float64()),
        ("at_risk", pa.int64()),
        ("returned", pa.int64()),
        *((name, pa.float64()) for name in ("hazard", "hazard_lower", "hazard_upper", "survival")),
    ],
    "data_rates": [
        ("signal", pa.string()),
        ("rate", pa.float64()),
        ("lower", pa.float64()),
        ("upper", pa.float64()),
        ("rows", pa.int64()),
        ("unit", pa.string()),
    ],
    "data_popularity": [("rank", pa.int64()), ("rows", pa.int64()), ("cumulative_share", pa.float64())],
    "data_daily": [("date", pa.date32()), ("rows", pa.int64()), ("active_users", pa.int64())],
    "data_quality": [("check", pa.string()), ("count", pa.int64()), ("severity", pa.string()), ("note", pa.string())],
}


def log_of_days(days: dict[int, list[int]], users: int, **columns: Any) -> Log:
    """One row on each active day of each user."""
    pairs = sorted((user, day) for user, active in days.items() for day in active)
    arrays: dict[str, Any] = {
        "user": np.array([u for u, _ in pairs], np.int32),
        "item": np.zeros(len(pairs), np.int32),
        "timestamp_ms": np.array([START + d * DAY for _, d in pairs], np.int64),
    }
    return Log.from_arrays({**arrays, **columns}, n_users=users, n_items=1)


def test_tables_have_the_columns_of_the_artifact_page(ml_100k: rd.Store) -> None:
    got = rd.describe(ml_100k)
    assert list(got.tables) == list(TABLES)
    for name, columns in TABLES.items():
        assert [(field.name, field.type) for field in got.tables[name].schema] == columns
        assert got.tables[name].num_rows > 0
        assert not any(column.null_count for column in got.tables[name].columns)


def test_figures_name_quantity_and_unit_on_every_axis(ml_100k: rd.Store) -> None:
    figures = rd.describe(ml_100k).figures()
    assert list(figures) == ["depth", "gaps", "rates", "popularity", "daily"]
    for figure in figures.values():
        assert figure.layout.title.text
        assert figure.data
        if figure is not figures["rates"]:
            assert "(" in figure.layout.yaxis.title.text
        assert "(" in figure.layout.xaxis.title.text
    assert [trace.name for trace in figures["gaps"].data] == [
        "share of completed gaps",
        "hazard, censoring counted (95 % interval)",
        "not yet returned",
    ]


@given(days=st.dictionaries(st.integers(0, 5), st.sets(st.integers(0, 9), min_size=1).map(sorted), min_size=1))
def test_gap_laws_equal_a_plain_count(days: dict[int, list[int]]) -> None:
    log = log_of_days(days, 6)
    table = gap_table(rd.sessions(log, "day"))
    last = max(d for active in days.values() for d in active)
    gaps = [b - a for active in days.values() for a, b in pairwise(active)]
    left = [last - active[-1] for active in days.values()]
    survival = 1.0
    assert table.height == max([0, *gaps, *left])
    for row in table.iter_rows(named=True):
        day = row["day"]
        at_risk = sum(g >= day for g in gaps) + sum(c >= day for c in left)
        assert row["completed"] == row["returned"] == gaps.count(day)
        assert row["at_risk"] == at_risk
        assert row["completed_share"] == pytest.approx(gaps.count(day) / len(gaps) if gaps else 0)
        assert row["hazard"] == pytest.approx(gaps.count(day) / at_risk)
        survival *= 1 - gaps.count(day) / at_risk
        assert row["survival"] == pytest.approx(survival)
        assert 0 <= row["hazard_lower"] <= row["hazard"] <= row["hazard_upper"] <= 1


def test_hazard_interval_is_greenwoods_where_sessions_are_independent() -> None:
    """One session at risk for each user: the summed variance is the binomial one, h (1 - h) / n."""
    days = {user: [0, 1] if user < 30 else [0] for user in range(100)}
    first = log_of_days({user: active for user, active in days.items()}, 100)
    table = gap_table(rd.sessions(first, "day"))
    hazard, n = 0.3, 100
    error = np.sqrt(hazard * (1 - hazard) / n)
    assert table["hazard"][0] == hazard
    assert 1 - table["hazard_lower"][0] == pytest.approx((1 - hazard) * np.exp(1.959964 * error / (1 - hazard)), rel=1e-6)
    assert 1 - table["hazard_upper"][0] == pytest.approx((1 - hazard) / np.exp(1.959964 * error / (1 - hazard)), rel=1e-6)


def test_rate_interval_by_hand() -> None:
    # three users with 2, 1, 1 rows and 2, 0, 1 clicks: mean 3/4, residuals 0.5, -0.75, 0.25
    log = log_of_days(
        {0: [0, 1], 1: [0], 2: [0]}, 4, click=np.array([1, 1, 0, 1], np.uint8), watch_seconds=np.array([1, 3, np.nan, 2], np.float32)
    )
    click, watch = rate_table(log).iter_rows(named=True)
    error = np.sqrt((0.5**2 + 0.75**2 + 0.25**2) * 3 / 2) / 4
    half = 1.959964 * error / (0.75 * 0.25)
    assert (click["signal"], click["rate"], click["rows"], click["unit"]) == ("click", 0.75, 4, "share of rows")
    assert click["lower"] == pytest.approx(1 / (1 + np.exp(half - np.log(3))), rel=1e-6)
    assert click["upper"] == pytest.approx(1 / (1 + np.exp(-half - np.log(3))), rel=1e-6)
    # a missing watch time leaves its row out; users 0 and 2 are left with sums 4 and 2, residuals 0 and 0
    assert (watch["signal"], watch["rate"], watch["rows"], watch["unit"]) == ("watch_seconds", 2.0, 3, "seconds a row")
    assert watch["lower"] == watch["upper"] == 2.0


def test_rate_of_what_never_happens() -> None:
    log = log_of_days({user: [0] for user in range(50)}, 50, hate=np.zeros(50, np.uint8), like=np.ones(50, np.uint8))
    like, hate = rate_table(log).iter_rows(named=True)
    bound = 1 - 0.025 ** (1 / 50)
    assert (hate["lower"], hate["upper"]) == (0.0, pytest.approx(bound))
    assert (like["lower"], like["upper"]) == (pytest.approx(1 - bound), 1.0)


def test_one_user_has_no_interval() -> None:
    log = log_of_days({2: [0, 1]}, 3, click=np.array([1, 0], np.uint8))
    row = rate_table(log).row(0, named=True)
    assert row["rate"] == 0.5
    assert np.isnan([row["lower"], row["upper"]]).all()


def test_intervals_cover_with_dependent_rows() -> None:
    """Users differ in click rate, and in return rate: intervals by user must still cover the truth.

    600 logs of 150 users; at a true coverage of 95 % fewer than 92 % or more than 97.5 % covered happens in about one
    of a thousand seeds; intervals over rows cover the click rate in 86 %.
    """
    rng = np.random.default_rng(11)
    users, horizon, logs = 150, 10, 600
    covered = np.zeros((logs, 2))
    for k in range(logs):
        rate = rng.beta(2, 3, users)
        back = rng.beta(4, 4, users)
        active = rng.random((users, horizon)) < back[:, None]
        active[:, 0] = True
        user, day = np.nonzero(active)
        rows = {"user": user.astype(np.int32), "item": np.zeros(user.size, np.int32), "timestamp_ms": START + day * DAY}
        rows["click"] = (rng.random(user.size) < rate[user]).astype(np.uint8)
        log = Log.from_arrays(rows, n_users=users, n_items=1, observed_until_ms=START + (horizon - 1) * DAY)
        click = rate_table(log).row(0, named=True)
        # each user's share of rows is independent of its click rate, so the row mean aims at the mean rate 0.4
        first = gap_table(rd.sessions(log, "day")).row(0, named=True)
        # sessions weigh users by activity: day 0 always, 8 further days at risk
        truth = (0.5 + 8 * (0.5**2 + 0.25 / 9)) / (1 + 8 * 0.5)
        covered[k] = click["lower"] <= 0.4 <= click["upper"], first["hazard_lower"] <= truth <= first["hazard_upper"]
    assert (covered.mean(axis=0) > 0.92).all()
    assert (covered.mean(axis=0) < 0.975).all()


def test_popularity_and_depth_add_up(ml_100k: rd.Store) -> None:
    got = rd.describe(ml_100k, session_rule="day")
    depth, popularity, daily = got["data_depth"], got["data_popularity"], got["data_daily"]
    assert depth["sessions"].sum() == got["data_summary"]["sessions"][0] == 2515
    assert depth["share"].sum() == pytest.approx(1)
    assert depth["depth"].max() <= 50
    assert popularity["rank"].is_sorted()
    assert popularity["rank"].max() == 1682
    assert popularity["cumulative_share"][-1] == pytest.approx(1)
    assert popularity["rows"][0] == 583
    assert daily["rows"].sum() == 100_000
    assert got["data_summary"]["session_rule"][0] == "calendar day"


def test_quality_findings(tmp_path: Path) -> None:
    rows = {
        "user_id": [1, 1, 1, 2, 2],
        "item_id": [5, 5, 5, 5, 6],
        "timestamp_ms": [START, START, START, START + DAY, START + 2 * DAY],
        "click": [1, 1, 0, 0, 0],
        "hate": [0] * 5,
        "watch_seconds": [30.0, 30.0, 1.0, None, 1.0],
        "duration_seconds": [10.0] * 5,
        "local_date": [19_000, 19_000, 19_000, 19_002, 19_001],
    }
    rows["local_date"] = [np.datetime64(d, "D").item() for d in rows["local_date"]]
    store = rd.from_frame(rows, "mine", stores=tmp_path)
    found = {row["check"]: (row["count"], row["severity"]) for row in rd.describe(store)["data_quality"].iter_rows(named=True)}
    assert found == {
        "exact duplicate rows": (1, "warning"),
        "same user, item and time": (1, "info"),
        "local date differs from the clock": (2, "info"),
        "local date runs backwards": (1, "info"),
        "sessions of one request": (3, "warning"),
        "requests of one item": (2, "info"),
        "sessions censored": (2, "info"),
        "behaviour never happens": (4, "warning"),
        "missing values": (1, "info"),
        "watched longer than the item": (1, "info"),
        "no propensities": (4, "warning"),
        "no random exposure": (0, "info"),
    }
