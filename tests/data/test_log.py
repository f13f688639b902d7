"""Log views: shared memory, immutability, selection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recrl_datasets as rd
from recrl.core.behaviours import unpack
from recrl.core.errors import DataError
from recrl.core.torch.views import as_tensor
from recrl_datasets.log import Log

NOW = 1_700_000_000_000


def base_log(rows: int = 40) -> Log:
    rng = np.random.default_rng(rows)
    arrays: dict[str, Any] = {"user": np.sort(rng.integers(0, 6, rows)).astype(np.int32), "item": rng.integers(0, 5, rows).astype(np.int32)}
    arrays["timestamp_ms"] = np.arange(rows) + NOW
    arrays["watch_seconds"] = rng.random(rows, dtype=np.float32)
    return Log.from_arrays(arrays, n_users=6, n_items=5)


def test_views_of_a_store_share_memory(ml_100k: rd.Store) -> None:
    one, two = ml_100k.log(), ml_100k.log()
    for name in one.columns:
        assert np.shares_memory(one.column(name), two.column(name))
        assert one.column(name) is one.column(name)
    part = one.select(np.arange(1000, 5000))
    assert np.shares_memory(part.column("item"), one.column("item"))
    assert np.shares_memory(part.select(np.arange(10, 20)).column("item"), one.column("item"))


def test_tensors_share_memory_with_columns(ml_100k: rd.Store) -> None:
    log = ml_100k.log()
    for name in ("user", "item", "timestamp_ms", "click", "rating"):
        column = log.column(name)
        tensor = as_tensor(column)
        assert tensor.data_ptr() == column.__array_interface__["data"][0]
        assert tensor.shape == (log.n_rows,)
    slices = as_tensor(log.select(np.arange(5, 9)).column("item"))
    assert slices.data_ptr() == log.column("item")[5:].__array_interface__["data"][0]


def test_columns_are_read_only(ml_100k: rd.Store, tiny_log: Log) -> None:
    for log in (ml_100k.log(), tiny_log, tiny_log.select([0, 2]), tiny_log.select([1, 2])):
        with pytest.raises(ValueError, match="read-only"):
            log.column("item")[0] = 1


@settings(max_examples=40)
@given(data=st.data())
def test_selections_compose(data: st.DataObject) -> None:
    log = base_log()
    frame = log.frame()
    for _ in range(3):
        mask = np.array(data.draw(st.lists(st.booleans(), min_size=log.n_rows, max_size=log.n_rows)), dtype=bool)
        by_mask, by_index = log.select(mask), log.select(np.flatnonzero(mask))
        frame = frame.filter(pl.Series(mask, dtype=pl.Boolean))
        assert by_mask.frame().equals(frame)
        assert by_index.frame().equals(frame)
        assert by_mask.content_hash == by_index.content_hash
        assert by_mask.user_offsets.lengths.tolist() == np.bincount(frame["user"].to_numpy(), minlength=6).tolist()
        log = by_mask
        if log.n_rows == 0:
            return


def test_hash_tells_selections_apart() -> None:
    log = base_log()
    picks = [[0], [1], [0, 1], [], list(range(40))]
    assert len({log.select(pick).content_hash for pick in picks} | {log.content_hash}) == len(picks) + 1
    assert log.select([0, 1]).content_hash == base_log().select([0, 1]).content_hash


def test_feedback_bits(tiny_log: Log) -> None:
    bits = tiny_log.feedback_bits()
    assert bits.dtype == np.uint8
    assert bits.tolist() == [1, 0, 1, 64, 1]
    assert unpack(bits)[:, 0].tolist() == tiny_log.column("click").tolist()


def test_user_offsets_hold_empty_users(tiny_log: Log) -> None:
    assert tiny_log.user_offsets.values.tolist() == [0, 3, 3, 5]
    assert (len(tiny_log), tiny_log.n_users, tiny_log.n_items) == (5, 3, 3)


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([True, False], "the mask has shape (2,), the log 5 rows"),
        ([2, 1], "positions must be strictly ascending and lie in the log"),
        ([1, 1], "positions must be strictly ascending and lie in the log"),
        ([5], "positions must be strictly ascending and lie in the log"),
        ([-1], "positions must be strictly ascending and lie in the log"),
        ([[0, 1]], "positions must be strictly ascending and lie in the log"),
        ([0.5], "positions must be whole numbers, not float64"),
    ],
)
def test_bad_selections(rows: Any, what: str, tiny_log: Log) -> None:
    with pytest.raises(DataError) as caught:
        tiny_log.select(rows)
    assert caught.value.what == what


def test_unknown_column_lists_what_there_is(tiny_log: Log) -> None:
    with pytest.raises(DataError) as caught:
        tiny_log.column("like")
    assert (caught.value.what, caught.value.mend) == ("the log has no column 'like'", "it has: user, item, timestamp_ms, click, hate")
    with pytest.raises(DataError, match="holds no text codes"):
        tiny_log.categories("click")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"item": None}, "column 'item' is missing"),
        ({"click": [1]}, "column 'click' has 1 rows, user has 2"),
        ({"item": [0, 7]}, "column 'item' holds an index outside 0..2"),
        ({"user": [-1, 0]}, "column 'user' holds an index outside 0..2"),
        ({"user": [1, 0]}, "rows are not sorted by (user, timestamp_ms)"),
        ({"timestamp_ms": [2, 1]}, "rows are not sorted by (user, timestamp_ms)"),
    ],
)
def test_bad_arrays(change: dict[str, Any], what: str) -> None:
    arrays = {"user": [0, 0], "item": [0, 1], "timestamp_ms": [1, 2]} | change
    with pytest.raises(DataError) as caught:
        Log.from_arrays({k: np.array(v) for k, v in arrays.items() if v is not None}, n_users=3, n_items=3)
    assert caught.value.what == what


def test_caller_keeps_the_right_to_write() -> None:
    mine = np.array([0, 1], np.int32)
    Log.from_arrays({"user": np.zeros(2, np.int32), "item": mine, "timestamp_ms": np.arange(2)}, n_users=1, n_items=2).column("item")
    mine[0] = 1


def test_columns_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = rd.from_frame({"user_id": [1, 2], "item_id": [1, 2], "timestamp_ms": [NOW, NOW]}, "mine", stores=tmp_path)
    reads: list[str] = []
    read = pl.read_parquet
    monkeypatch.setattr(
        pl, "read_parquet", lambda path, columns=None, **options: (reads.extend(columns or []), read(path, columns=columns, **options))[1]
    )
    for _ in range(2):
        store.log().column("item")
        store.log(include_duplicates=True).column("item")
    assert reads == ["item"]
