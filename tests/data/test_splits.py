"""Splits cannot leak."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import recrl_datasets as rd
from recrl.core.errors import ConfigError, DataError
from recrl_datasets.log import Log

NOW = 1_700_000_000_000
rows = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), min_size=1, max_size=60)
shares = st.tuples(st.integers(1, 10), st.integers(0, 10), st.integers(0, 10)).map(lambda t: tuple(x / sum(t) for x in t))


def make_log(pairs: list[tuple[int, int]]) -> Log:
    pairs = sorted(pairs)
    return Log.from_arrays(
        {
            "user": np.array([u for u, _ in pairs], np.int32),
            "item": np.arange(len(pairs), dtype=np.int32),
            "timestamp_ms": np.array([t for _, t in pairs], np.int64),
        },
        n_users=10,
        n_items=len(pairs),
    )


@given(pairs=rows, fractions=shares)
def test_time_split_never_trains_on_the_future(pairs: list[tuple[int, int]], fractions: tuple[float, float, float]) -> None:
    log = make_log(pairs)
    try:
        split = rd.split_by_time(log, fractions)
    except DataError:
        # only where the ties of the first moment alone exceed the training share
        times = np.sort(log.column("timestamp_ms"))
        assert (times == times[0]).sum() > int(fractions[0] * times.size + 1e-6)
        return
    parts = [part.column("timestamp_ms") for part in (split.train, split.valid, split.test)]
    for earlier, later in ((0, 1), (0, 2), (1, 2)):
        if parts[earlier].size and parts[later].size:
            assert parts[earlier].max() < parts[later].min()
    items = np.concatenate([part.column("item") for part in (split.train, split.valid, split.test)])
    assert sorted(items.tolist()) == list(range(log.n_rows))
    assert 0 < split.train.n_rows <= fractions[0] * log.n_rows + 1e-6
    assert split.train.observed_until_ms <= min([*parts[1], *parts[2], log.observed_until_ms])


@given(pairs=rows)
def test_time_split_takes_as_much_as_ties_allow(pairs: list[tuple[int, int]]) -> None:
    log = make_log(pairs)
    times = log.column("timestamp_ms")
    assume(np.unique(times).size > 1)
    try:
        split = rd.split_by_time(log, (0.8, 0.1, 0.1))
    except DataError:
        return
    left = np.concatenate([split.valid.column("timestamp_ms"), split.test.column("timestamp_ms")])
    # the next moment would overshoot the share
    assert split.train.n_rows + (left == left.min()).sum() > 0.8 * log.n_rows - 1e-6


@given(pairs=rows, fractions=shares, seed=st.integers(0, 5))
def test_user_split_keeps_users_whole_and_apart(pairs: list[tuple[int, int]], fractions: tuple[float, float, float], seed: int) -> None:
    log = make_log(pairs)
    split = rd.split_by_user(log, fractions, seed=seed)
    users = [set(part.column("user").tolist()) for part in (split.train, split.valid, split.test)]
    assert sum(map(len, users)) == len(set.union(*users))
    assert split.train.n_rows + split.valid.n_rows + split.test.n_rows == log.n_rows
    assert split.train.n_users == log.n_users
    for part in (split.train, split.valid, split.test):
        assert part.observed_until_ms == log.observed_until_ms


@pytest.mark.parametrize("text", [False, True])
def test_adding_users_moves_nobody(text: bool, tmp_path: Path) -> None:
    def sides(ids: list[int], name: str) -> dict[str | int, int]:
        raw = [f"u{k}" for k in ids] if text else ids
        store = rd.from_frame({"user_id": raw, "item_id": [0] * len(ids), "timestamp_ms": [NOW] * len(ids)}, name, stores=tmp_path)
        split = rd.split_by_user(store.log(), (0.5, 0.25, 0.25), seed=3)
        return {
            store.users["user_id"][int(user)]: side
            for side, part in enumerate((split.train, split.valid, split.test))
            for user in part.column("user")
        }

    few, many = sides(list(range(50, 150)), "few"), sides(list(range(200)), "many")
    assert {user: many[user] for user in few} == few
    assert set(few.values()) == {0, 1, 2}


def test_seeds_split_differently() -> None:
    log = make_log([(k, 0) for k in range(10)])
    assert len({tuple(rd.split_by_user(log, (0.5, 0.2, 0.3), seed=s).train.column("user").tolist()) for s in range(8)}) > 1


def test_user_split_has_the_asked_shares(ml_100k: rd.Store) -> None:
    """943 users, 5 standard errors: a false alarm in about one of a million seeds."""
    log = ml_100k.log()
    for k, part in enumerate((lambda s: (s.train, s.valid, s.test))(rd.split_by_user(log, (0.7, 0.2, 0.1), seed=1))):
        share = (0.7, 0.2, 0.1)[k]
        users = np.unique(part.column("user")).size
        assert abs(users / 943 - share) < 5 * np.sqrt(share * (1 - share) / 943)


def test_splits_of_real_rows(ml_100k: rd.Store) -> None:
    split = rd.split_by_time(ml_100k.log())
    assert (split.train.n_rows, split.valid.n_rows, split.test.n_rows) == (79_999, 10_001, 10_000)
    cuts = "train before 1998-03-07T02:21:09.000 UTC, valid before 1998-03-31T22:11:49.000 UTC, test from then on"
    assert split.note == f"by time: {cuts} (79999, 10001, 10000 rows)"


@pytest.mark.parametrize("fractions", [(0.8, 0.1), (0.8, 0.1, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)])
def test_bad_fractions(fractions: tuple[float, ...]) -> None:
    for split in (rd.split_by_time, rd.split_by_user):
        with pytest.raises(ConfigError, match="do not split a log") as caught:
            split(make_log([(0, 0), (1, 1)]), fractions)
        assert caught.value.mend == "give three shares (train, valid, test) that add up to 1, the first above 0"


def test_one_moment_cannot_be_split_by_time() -> None:
    with pytest.raises(DataError) as caught:
        rd.split_by_time(make_log([(0, 3), (1, 3), (2, 3)]))
    assert caught.value.what == "no row lies before the cut: too many rows share one time"


def test_empty_log_cannot_be_split_by_time() -> None:
    with pytest.raises(DataError, match="the log has no rows"):
        rd.split_by_time(make_log([(0, 1)]).select([]))


def test_frame_of_a_split_is_its_rows(ml_100k: rd.Store) -> None:
    log = ml_100k.log()
    split = rd.split_by_time(log)
    frame = log.frame()
    cut = split.train.observed_until_ms
    assert split.train.frame().equals(frame.filter(pl.col("timestamp_ms") < cut))
