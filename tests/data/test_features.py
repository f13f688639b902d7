"""Features: fitted on training rows alone, and refusing what leaks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recrl_datasets as rd
from recrl.core.errors import ConfigError, DataError

NOW = 1_700_000_000_000
USERS = {"user_id": [1, 2, 3], "age": [20, 40, 60], "city": ["x", "y", "z"], "score": [-1.0, 1.0, None]}
ITEMS = {
    "item_id": ["a", "b", "c"],
    "genres": [["p", "q"], ["q"], None],
    "made": [dt.date(2020, 1, 1), dt.date(2020, 1, 3), dt.date(2021, 1, 1)],
}


def small_store(stores: Path, **changes: Any) -> rd.Store:
    log: dict[str, Any] = {
        "user_id": [1, 1, 1, 2, 2, 3],
        "item_id": ["a", "b", "a", "a", "b", "c"],
        "timestamp_ms": [NOW + k for k in range(6)],
        "click": [1, 0, 1, 0, 1, 1],
    }
    return rd.from_frame({**log, **changes}, "mine", users=USERS, items=ITEMS, stores=stores)


def test_values_by_hand(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    train = store.log().select(store.log().column("timestamp_ms") < NOW + 5)  # user 3 and item c are of the future
    got = rd.UserItemFeatures.fit(train, store)
    user = dict(zip(got.user_names, got.user.T, strict=True))
    item = dict(zip(got.item_names, got.item.T, strict=True))
    assert got.user.dtype == got.item.dtype == np.float32
    # age: log(1 + age) standardised over users 1 and 2; the third is placed on their scale
    low, high = np.log1p(20), np.log1p(40)
    np.testing.assert_allclose(user["log1p(age)"], (np.log1p([20, 40, 60]) - (low + high) / 2) / ((high - low) / 2), rtol=1e-5)
    assert list(user) == ["log1p(age)", "city=x", "city=y", "score", "log1p(train rows)", "train click rate"]
    np.testing.assert_allclose(user["score"], [-1, 1, 0])
    assert user["city=x"].tolist() == [1, 0, 0]  # no column for city z, which training does not show
    # rate: 3 of 5 overall with the weight of 20 rows
    np.testing.assert_allclose(user["train click rate"], [(2 + 12) / 23, (1 + 12) / 22, 12 / 20], rtol=1e-6)
    np.testing.assert_allclose(item["train click rate"], [(2 + 12) / 23, (1 + 12) / 22, 12 / 20], rtol=1e-6)
    assert item["genres=p"].tolist() == [1, 0, 0]
    assert item["genres=q"].tolist() == [1, 1, 0]
    np.testing.assert_allclose(item["made"], [-1, 1, 365])


@settings(max_examples=25)
@given(cut=st.integers(1, 5), clicks=st.lists(st.integers(0, 1), min_size=6, max_size=6), future=st.permutations(range(6)))
def test_rows_outside_training_change_nothing(
    cut: int, clicks: list[int], future: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    plain = small_store(tmp_path_factory.mktemp("plain"), click=clicks)
    # the same training rows; every other row has another outcome, and rows of the future move between users and items
    users = np.array([1, 1, 1, 2, 2, 3])
    other = small_store(
        tmp_path_factory.mktemp("other"),
        click=[*clicks[:cut], *[1 - c for c in clicks[cut:]]],
        user_id=[*users[:cut].tolist(), *[users[k] for k in future if k >= cut]],
    )
    train = [s.log().select(s.log().column("timestamp_ms") < NOW + cut) for s in (plain, other)]
    first, second = (rd.UserItemFeatures.fit(t, s) for t, s in zip(train, (plain, other), strict=True))
    assert first.user_names == second.user_names
    np.testing.assert_array_equal(first.user, second.user)
    np.testing.assert_array_equal(first.item, second.item)


def test_missing_values_have_a_flag(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    got = rd.UserItemFeatures.fit(store.log(), store, user_columns=["score"])
    names = got.user_names[:2]
    assert names == ("score", "score missing")
    assert got.user[:, 1].tolist() == [0, 0, 1]
    assert np.isfinite(got.user).all()


def test_many_levels_and_constants_are_left_out(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    got = rd.UserItemFeatures.fit(store.log().select(store.log().column("user") == 0), store, max_levels=1)
    assert "age: constant in training" in got.left_out
    assert "item genres: 2 levels, more than 1" in got.left_out


def test_leaky_statistics_are_refused(kuairand_folder: Callable[..., Path], tmp_path: Path) -> None:
    statistic = "video_id,counts,play_progress\n10,5,0.5\n20,7,0.25\n30,9,0.1\n"
    store = rd.prepare("kuairand-pure", kuairand_folder(files={"video_features_statistic_pure.csv": statistic}), stores=tmp_path)
    assert store.manifest.leaky_items == ("counts", "play_progress")
    assert store.items["counts"].to_list() == [5, 7, 9]
    got = rd.UserItemFeatures.fit(store.log(), store)
    assert not [name for name in got.item_names if "counts" in name or "play" in name]
    assert "item counts: leaks the log's own time" in got.left_out
    with pytest.raises(DataError) as caught:
        rd.UserItemFeatures.fit(store.log(), store, item_columns=["play_progress"])
    assert (
        caught.value.what == "item column 'play_progress' averages over a time that overlaps the log: predicting the log from it is a leak"
    )
    allowed = rd.UserItemFeatures.fit(store.log(), store, item_columns=["play_progress"], allow_leaky=True)
    assert allowed.item_names[0] == "log1p(play_progress)"


def test_bad_options(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    with pytest.raises(DataError) as caught:
        rd.UserItemFeatures.fit(store.log(), store, user_columns=["agee"])
    assert (caught.value.what, caught.value.mend) == ("there is no user feature 'agee'", "did you mean 'age'? there are: age, city, score")
    with pytest.raises(ConfigError, match="max_levels=0 is not positive"):
        rd.UserItemFeatures.fit(store.log(), store, max_levels=0)
    other = rd.from_frame({"user_id": [1], "item_id": [1], "timestamp_ms": [NOW]}, "other", stores=tmp_path)
    with pytest.raises(DataError, match="the training rows belong to another store"):
        rd.UserItemFeatures.fit(other.log(), store)
    with pytest.raises(DataError, match="there are no training rows"):
        rd.UserItemFeatures.fit(store.log().select([]), store)


def test_real_features_are_finite(ml_100k: rd.Store) -> None:
    got = rd.UserItemFeatures.fit(rd.split_by_time(ml_100k.log()).train, ml_100k)
    assert got.user.shape == (943, len(got.user_names)) == (943, 28)
    assert got.item.shape == (1682, len(got.item_names)) == (1682, 25)
    assert np.isfinite(got.user).all()
    assert np.isfinite(got.item).all()
    assert pl.Series(got.user_names).is_unique().all()
