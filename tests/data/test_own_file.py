"""A log of one's own from a file: kinds of files, and the types that values show."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recrl.core.errors import ConfigError, DataError, StorageError
from recrl_datasets.own_file import read_own_file, read_own_rows

TEXT = "user_id,item_id,price,count,gone,kind,zip\n7,a1,1.5,3,true,x,01234\n-8,,2,4,FALSE,,99999\n"


def rows(path: Path, **asked: Any) -> Any:
    return read_own_rows(path, **{"columns": {}, "feedback": {}, "users": None, "items": None, **asked})


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("name", ["log.csv", "log.TSV", "log.txt.gz"])
def test_values_show_their_types(separator: str, name: str, tmp_path: Path) -> None:
    content = TEXT.replace(",", separator).encode()
    (tmp_path / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    frame = read_own_file(tmp_path / name).frame
    assert dict(frame.schema) == {
        "user_id": pl.Int64,
        "item_id": pl.String,
        "price": pl.Float64,
        "count": pl.Int64,
        "gone": pl.Boolean,
        "kind": pl.String,
        "zip": pl.String,
    }
    assert frame.rows() == [(7, "a1", 1.5, 3, True, "x", "01234"), (-8, None, 2.0, 4, False, None, "99999")]


@pytest.mark.parametrize(
    ("texts", "dtype"),
    [
        (["1", "-20", "0"], pl.Int64),
        (["7", "007"], pl.String),
        (["1", "1.0"], pl.String),
        (["1", "+1"], pl.String),
        (["1" * 19], pl.String),
        (["-0"], pl.String),
        (["1", ""], pl.Int64),
        (["true"], pl.String),
    ],
)
def test_ids_are_numbers_only_where_nothing_is_lost(texts: list[str], dtype: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("who,x\n" + "".join(f"{text},1\n" for text in texts))
    frame = read_own_file(tmp_path / "a.csv", {"user_id": "who"}).frame
    assert frame.schema["who"] == dtype
    assert [None if v is None else str(v) for v in frame["who"]] == [text or None for text in texts]


def test_row_numbers_of_other_tools_are_no_column(tmp_path: Path) -> None:
    for k, head in enumerate((",user_id,item_id", '"",user_id,item_id')):
        (tmp_path / f"{k}.csv").write_text(f"{head}\n0,1,2\n1,3,4\n")
        assert read_own_file(tmp_path / f"{k}.csv").frame.columns == ["user_id", "item_id"]


def test_quoted_fields_and_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('user_id,note\n1,"a, ""b""\nc"\n2,d\n')
    table = read_own_file(tmp_path / "a.csv")
    assert table.frame["note"].to_list() == ['a, "b"\nc', "d"]


@pytest.mark.parametrize(("first", "unit"), [(1_700_000_000, "s"), (1_700_000_000_000, "ms"), (1_700_000_000_000_000, "us"), (5, "s")])
def test_the_first_time_tells_the_unit(first: int, unit: str, tmp_path: Path) -> None:
    pl.DataFrame({"at": [None, first]}).write_parquet(tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet", columns={"timestamp_ms": "at"}).timestamp_unit == unit
    assert rows(tmp_path / "a.parquet", columns={"timestamp_ms": "at"}, timestamp_unit="us").timestamp_unit == "us"


def test_times_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("timestamp_ms,note\n2024-05-01 10:00:00,2024-05-01\n2024-05-01T10:00:00.25,x\n")
    asked = rows(tmp_path / "a.csv")
    assert asked.frame.schema["note"] == pl.String
    (tmp_path / "b.csv").write_text("timestamp_ms\n2024-05-01 10:00:00\n2024-05-01 10:00:01\n")
    read = rows(tmp_path / "b.csv")
    assert read.frame["timestamp_ms"].dt.epoch("ms").to_list() == [1_714_557_600_000, 1_714_557_601_000]
    assert read.timestamp_unit == "ms"


def test_a_least_value_counts_and_a_missing_one_does_not(tmp_path: Path) -> None:
    pl.DataFrame({"stars": [5.0, float("nan"), None, 2.0]}).write_parquet(tmp_path / "a.parquet")
    asked = rows(tmp_path / "a.parquet", feedback={"click": "stars:3", "like": "liked"})
    assert asked.frame.select(asked.feedback["click"].alias("c"))["c"].to_list() == [True, False, False, False]
    assert asked.feedback["like"] == "liked"


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "twice.csv").write_text("a,a\n1,2\n")
    for name, kind, what in (
        ("nowhere.csv", StorageError, "there is no file"),
        ("a.json", ConfigError, "a.json is of no known kind"),
        ("a.parquet", DataError, "a.parquet cannot be read as Parquet"),
        ("empty.csv", DataError, "the file is empty"),
        ("twice.csv", DataError, "column 'a' appears twice"),
    ):
        with pytest.raises(kind, match=what) as caught:
            read_own_file(tmp_path / name)
        assert caught.value.where
        assert caught.value.mend
    with pytest.raises(ConfigError, match="'joy' is not a behaviour"):
        rows(tmp_path / "a.parquet", feedback={"joy": "x"})
