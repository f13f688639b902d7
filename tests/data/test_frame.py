"""from_frame: mapping, sources, units, and its failure table."""

from __future__ import annotations

import datetime as dt
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import recrl_datasets as rd
from recrl.core.errors import ConfigError, DataError

NOW = 1_700_000_000_000


def good(**changes: Any) -> dict[str, Any]:
    """A valid log of three rows with some columns changed; ``None`` removes one."""
    columns: dict[str, Any] = {
        "user_id": [1, 1, 2],
        "item_id": [5, 6, 5],
        "timestamp_ms": [NOW, NOW + 1000, NOW + 2000],
        "click": [1, 0, 1],
    }
    return {name: values for name, values in {**columns, **changes}.items() if values is not None}


FILL = "fill it, or leave those rows out"
FAILURES: dict[str, tuple[Any, dict[str, Any], str, str, str]] = {
    "no item": (
        good(item_id=None, itemId=[1, 2, 3]),
        {},
        "column 'item_id' is missing; there are: user_id, timestamp_ms, click, itemId",
        "from_frame: frame",
        "did you mean 'itemId'? pass columns={'item_id': 'itemId'}",
    ),
    "no time": (
        good(timestamp_ms=None),
        {},
        "column 'timestamp_ms' is missing; there are: user_id, item_id, click",
        "from_frame: frame",
        "pass columns={'timestamp_ms': '...'}",
    ),
    "mapping to a schema column that is not there": (
        good(),
        {"columns": {"itemid": "item_id"}},
        "'itemid' is not a column of the log schema",
        "from_frame: columns",
        "did you mean 'item_id'? the schema has: " + ", ".join(column.name for column in rd.COLUMNS),
    ),
    "mapping from a column that is not there": (
        good(),
        {"columns": {"rating": "stars"}},
        "there is no column 'stars' to map to rating",
        "from_frame: columns",
        "there are: user_id, item_id, timestamp_ms, click",
    ),
    "no rows": (
        good(user_id=[], item_id=[], timestamp_ms=[], click=[]),
        {},
        "the log has no rows",
        "from_frame: frame",
        "give a log with at least one row",
    ),
    "null user": (
        good(user_id=[1, None, 2]),
        {},
        "column 'user_id' holds a missing value: a value is needed in every row",
        "from_frame: frame, row 1 (counting from 0)",
        FILL,
    ),
    "NaN user": (
        good(user_id=[1.0, float("nan"), float("nan")]),
        {},
        "column 'user_id' holds a missing value: a value is needed in every row (1 more rows like it)",
        "from_frame: frame, row 1 (counting from 0)",
        FILL,
    ),
    "blank user": (
        good(user_id=["a", "b", " "]),
        {},
        "column 'user_id' holds ' ': a value is needed in every row",
        "from_frame: frame, row 2 (counting from 0)",
        FILL,
    ),
    "fractional user": (
        good(user_id=[1.0, 1.5, 2.0]),
        {},
        "column 'user_id' holds 1.5: not a whole number or text",
        "from_frame: frame, row 1 (counting from 0)",
        "give a whole number or text",
    ),
    "dates as users": (
        good(user_id=[dt.date(2024, 1, 1)] * 3),
        {},
        "column 'user_id' is of type Date, not a whole number or text",
        "from_frame: frame",
        "turn it into a whole number or text first",
    ),
    "negative time": (
        good(timestamp_ms=[NOW, -5, NOW]),
        {},
        "column 'timestamp_ms' holds -5: a time before 1970",
        "from_frame: frame, row 1 (counting from 0)",
        "leave those rows out, or correct them",
    ),
    "seconds": (
        good(timestamp_ms=None, at=[1_700_000_000] * 3),
        {"columns": {"timestamp_ms": "at"}},
        "column 'at' (as timestamp_ms) holds 1700000000: this looks like seconds, not milliseconds (2 more rows like it)",
        "from_frame: frame, row 0 (counting from 0)",
        "multiply by 1000 (from_frame: timestamp_unit='s')",
    ),
    "milliseconds said to be seconds": (
        good(),
        {"timestamp_unit": "s"},
        f"column 'timestamp_ms' holds {NOW}: not a time between 1990 and 2100 (2 more rows like it)",
        "from_frame: frame, row 0 (counting from 0)",
        "check the unit (from_frame: timestamp_unit)",
    ),
    "microseconds": (
        good(timestamp_ms=[NOW * 1000] * 3),
        {},
        f"column 'timestamp_ms' holds {NOW * 1000}: this looks like microseconds, not milliseconds (2 more rows like it)",
        "from_frame: frame, row 0 (counting from 0)",
        "divide by 1000 (from_frame: timestamp_unit='us')",
    ),
    "text seconds": (
        good(timestamp_ms=["1"] * 3),
        {"timestamp_unit": "s"},
        "column 'timestamp_ms' is of type String, not a number",
        "from_frame: frame",
        "turn it into a number first",
    ),
    "endless seconds": (
        good(timestamp_ms=[1.7e9, float("inf"), 1.7e9]),
        {"timestamp_unit": "s"},
        "column 'timestamp_ms' holds inf: not a time",
        "from_frame: frame, row 1 (counting from 0)",
        "give seconds since 1970",
    ),
    "id beyond 64 bits": (
        good(user_id=pl.Series([1, 2, 2**64 - 1], dtype=pl.UInt64)),
        {},
        f"column 'user_id' holds {2**64 - 1}: too large for a 64-bit integer",
        "from_frame: frame, row 2 (counting from 0)",
        "give it as text",
    ),
    "no date": (
        good(local_date=["2024-01-01", "yesterday", "2024-01-01"]),
        {},
        "column 'local_date' holds 'yesterday': not a date",
        "from_frame: frame, row 1 (counting from 0)",
        "give dates such as 20220425 or 2022-04-25",
    ),
    "dates as flags": (
        good(local_date=[True, False, True]),
        {},
        "column 'local_date' is of type Boolean, not a date",
        "from_frame: frame",
        "give dates, or numbers such as 20220425",
    ),
    "text watch time": (
        good(watch_seconds=["1", "2", "3"]),
        {},
        "column 'watch_seconds' is of type String, not a number",
        "from_frame: frame",
        "turn it into numbers first",
    ),
    "actions as numbers": (
        good(action=[0.1, 0.2, 0.3]),
        {},
        "column 'action' is of type Float64, not a list of numbers",
        "from_frame: frame",
        "give one list of numbers a row",
    ),
    "empty actions": (
        good(action=pl.Series([[], [], []], dtype=pl.List(pl.Float64))),
        {},
        "column 'action' holds []: an empty vector (2 more rows like it)",
        "from_frame: frame, row 0 (counting from 0)",
        "give at least one number a row",
    ),
    "text times": (
        good(timestamp_ms=["2024-01-01"] * 3),
        {},
        "column 'timestamp_ms' is of type String, not whole milliseconds since 1970",
        "from_frame: frame",
        "turn it into whole milliseconds since 1970 first",
    ),
    "feedback of 2": (
        good(click=[0, 1, 2]),
        {},
        "column 'click' holds 2: not 0 or 1",
        "from_frame: frame, row 2 (counting from 0)",
        "give 0 or 1; map other codes first",
    ),
    "missing feedback": (
        good(click=[0, None, 1]),
        {},
        "column 'click' holds a missing value: a value is needed in every row",
        "from_frame: frame, row 1 (counting from 0)",
        "fill it, leave those rows out, or leave the column out",
    ),
    "propensity of 0": (
        good(propensity=[0.5, 0.0, 1.0]),
        {},
        "column 'propensity' holds 0.0: must be above 0",
        "from_frame: frame, row 1 (counting from 0)",
        "correct those rows, or leave them out",
    ),
    "propensity above 1": (
        good(propensity=[0.5, 1.5, 1.0]),
        {},
        "column 'propensity' holds 1.5: must be at most 1",
        "from_frame: frame, row 1 (counting from 0)",
        "correct those rows, or leave them out",
    ),
    "infinite watch time": (
        good(watch_seconds=[1.0, float("inf"), 2.0]),
        {},
        "column 'watch_seconds' holds inf: not a finite number",
        "from_frame: frame, row 1 (counting from 0)",
        "correct those rows, or leave them out",
    ),
    "negative position": (
        good(position=[0, 1, -1]),
        {},
        "column 'position' holds -1: not a whole number from 0",
        "from_frame: frame, row 2 (counting from 0)",
        "correct those rows",
    ),
    "actions of two lengths": (
        good(action=[[0.1, 0.2], [0.1], [0.3, 0.4]]),
        {},
        "column 'action' holds [0.1]: not a vector of length 2 as in the first row",
        "from_frame: frame, row 1 (counting from 0)",
        "give vectors of one length",
    ),
    "action with NaN": (
        good(action=[[0.1, 0.2], [0.1, float("nan")], [0.3, 0.4]]),
        {},
        "column 'action' holds [0.1, nan]: not all finite numbers",
        "from_frame: frame, row 1 (counting from 0)",
        "correct those rows, or leave them out",
    ),
    "observation ends before the row": (
        good(censor_time=[NOW + 5000, NOW, NOW + 5000]),
        {},
        f"column 'censor_time' holds {NOW}: observation ends before the row",
        "from_frame: frame, row 1 (counting from 0)",
        "give the end of the user's observation",
    ),
    "no behaviour": (
        good(),
        {"feedback": {"purchase": "click"}},
        "'purchase' is not a behaviour",
        "from_frame: feedback",
        "there are: click, long_view, like, comment, follow, forward, hate",
    ),
    "feedback from nowhere": (
        good(),
        {"feedback": {"like": pl.col("stars") >= 4}},
        '\'like\' cannot be computed: unable to find column "stars"; valid columns: ["user_id", "item_id", "timestamp_ms", "click"]',
        "from_frame: feedback",
        "there are: user_id, item_id, timestamp_ms, click",
    ),
    "feedback of another length": (
        good(),
        {"feedback": {"like": pl.col("click").filter(pl.col("click") == 1)}},
        "'like' gives 2 values for 3 rows",
        "from_frame: feedback",
        "give one value for each row",
    ),
    "repeated columns": (
        pd.DataFrame([[1, 2, 3]], columns=["user_id", "item_id", "item_id"]),
        {},
        "column 'item_id' appears twice (columns 2 and 3)",
        "from_frame: frame",
        "remove or rename one of them",
    ),
    "mixed types": (
        pd.DataFrame(good(item_id=[5, "six", 7])),
        {},
        "column 'item_id' mixes types: int first, then 'six' of type str",
        "from_frame: frame, row 1 (counting from 0)",
        "give the column one type",
    ),
    "no table": ([1, 2], {}, "list is not a table", "from_frame: frame", "give a Polars, pandas or Arrow table, or a mapping of columns"),
    "users without the key": (
        good(),
        {"users": {"userid": [1], "age": [3]}},
        "column 'user_id' is missing; there are: userid, age",
        "from_frame: users",
        "did you mean 'userid'? rename the key column to 'user_id'",
    ),
    "users of another type": (
        good(),
        {"users": {"user_id": ["1", "2"], "age": [3, 4]}},
        "user_id is a number in the log and text in the user features",
        "user features",
        "give both as text, or both as numbers",
    ),
    "user listed twice": (
        good(),
        {"users": {"user_id": [1, 1], "age": [3, 4]}},
        "user_id 1 has 2 rows",
        "user features",
        "keep one row for each id",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_bad_frame_gives_its_exact_message_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    frame, options, what, where, mend = FAILURES[case]
    with pytest.raises(DataError) as caught:
        rd.from_frame(frame, "mine", stores=tmp_path / "stores", **options)
    assert (caught.value.what, caught.value.where, caught.value.mend) == (what, where, mend)
    assert not (tmp_path / "stores").exists()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("ml-100k", "'ml-100k' is the name of a registered dataset"),
        ("../mine", "'../mine' is not a name for a store"),
        (".hidden", "'.hidden' is not a name for a store"),
    ],
)
def test_bad_names(name: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        rd.from_frame(good(), name, stores=tmp_path)
    assert caught.value.what == what
    assert list(tmp_path.iterdir()) == []


def test_unknown_timestamp_unit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="timestamp_unit='hours' is not known"):
        rd.from_frame(good(), "mine", timestamp_unit="hours", stores=tmp_path)  # type: ignore[arg-type]


def test_every_kind_of_table_gives_the_same_store(tmp_path: Path) -> None:
    columns = good(watch_seconds=[1.5, 2.0, None], position=[0, 1, 0], session_id=["x", "x", "y"])
    frame = pl.DataFrame(columns)
    sources = {"mapping": columns, "polars": frame, "lazy": frame.lazy(), "pandas": frame.to_pandas(), "arrow": frame.to_arrow()}
    sources["batch"] = frame.to_arrow().to_batches()[0]
    sources["indexed"] = frame.to_pandas().set_index(pd.Index([9, 9, 9]))
    hashes = {kind: rd.from_frame(source, kind, stores=tmp_path).content_hash for kind, source in sources.items()}
    assert len(set(hashes.values())) == 1


def test_integer_widths_and_nan_ints_do_not_matter(tmp_path: Path) -> None:
    plain = rd.from_frame(good(), "plain", stores=tmp_path)
    narrow = pl.DataFrame(good()).with_columns(
        pl.col("user_id").cast(pl.Int8), pl.col("item_id").cast(pl.Float64), pl.col("click").cast(pl.Boolean)
    )
    assert rd.from_frame(narrow, "narrow", stores=tmp_path).content_hash == plain.content_hash
    assert rd.from_frame(pa.table(good()), "arrow", stores=tmp_path).content_hash == plain.content_hash


def test_times_in_other_units(tmp_path: Path) -> None:
    moments = [dt.datetime.fromtimestamp(NOW / 1000 + k, tz=dt.UTC) for k in range(3)]
    variants: dict[str, tuple[Any, dict[str, Any]]] = {
        "s": ([NOW // 1000 + k for k in range(3)], {"timestamp_unit": "s"}),
        "us": ([(NOW + 1000 * k) * 1000 for k in range(3)], {"timestamp_unit": "us"}),
        "datetime": (moments, {}),
        "elsewhere": (pl.Series(moments).dt.convert_time_zone("Asia/Shanghai"), {}),
    }
    for name, (times, options) in variants.items():
        store = rd.from_frame(good(timestamp_ms=times), name, stores=tmp_path, **options)
        assert store.log().column("timestamp_ms").tolist() == [NOW, NOW + 1000, NOW + 2000]


def test_dates_and_ids_in_other_types(tmp_path: Path) -> None:
    days = [dt.date(2024, 1, 1), dt.date(2024, 1, 2), dt.date(2024, 1, 2)]
    variants: dict[str, Any] = {
        "dates": days,
        "texts": [day.isoformat() for day in days],
        "numbers": [int(day.strftime("%Y%m%d")) for day in days],
        "moments": [dt.datetime(day.year, day.month, day.day, 5) for day in days],
        "arrow": pa.array(days),
    }
    users = pl.Series(["x", "x", "y"], dtype=pl.Categorical)
    for name, dates in variants.items():
        source = pa.table(good(local_date=dates)) if name == "arrow" else good(local_date=dates, user_id=users)
        log = rd.from_frame(source, name, stores=tmp_path).log()
        assert log.column("local_date").tolist() == days
        assert log.column("local_date").dtype == np.dtype("datetime64[D]")
        assert log.user_offsets.lengths.tolist() == [2, 1]


def test_extra_columns_of_numbers_with_gaps(tmp_path: Path) -> None:
    log = rd.from_frame(good(mood=[1, None, 3], loud=[True, False, True], note=["a", None, "b"]), "mine", stores=tmp_path).log()
    assert log.column("loud").tolist() == [1, 0, 1]
    np.testing.assert_array_equal(log.column("mood"), [1, np.nan, 3])
    assert log.frame()["note"].to_list() == ["a", "", "b"]


def test_mapping_feedback_users_and_items(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "uid": ["b", "a", "b"],
            "film": [9, 9, 4],
            "at": [NOW, NOW + 1, NOW + 2],
            "stars": [5, 2, 4],
            "shelf": ["x", "y", "x"],
            "when": [dt.date(2024, 1, 1)] * 3,
        }
    )
    store = rd.from_frame(
        frame,
        "mine",
        columns={"user_id": "uid", "item_id": "film", "timestamp_ms": "at", "rating": "stars"},
        feedback={"click": pl.col("stars") >= 3, "like": pl.col("stars") == 5},
        users=pd.DataFrame({"uid": ["a", "c"], "age": [30, 40]}),
        items={"item_id": [4, 9], "genres": [["x"], ["x", "y"]]},
        stores=tmp_path,
    )
    log = store.log()
    assert store.users.rows() == [(0, "a", 30), (1, "b", None)]
    assert store.items.rows() == [(0, 4, ["x"]), (1, 9, ["x", "y"])]
    assert log.column("user").tolist() == [0, 1, 1]
    assert log.column("item").tolist() == [1, 1, 0]
    assert log.column("click").tolist() == [0, 1, 1]
    assert log.column("like").tolist() == [0, 1, 0]
    assert log.categories("shelf") == ["x", "y"]
    assert log.frame()["shelf"].to_list() == ["y", "x", "x"]
    assert {(f.check, f.note) for f in store.manifest.findings} == {
        ("column left out", "extra column 'when' was left out: type Date has no place in a log"),
        ("features of unknown users", "user feature rows without a row in the log were left out"),
        ("users without features", "users of the log have no feature row: their features are missing values"),
    }


def test_reserved_and_shadowed_names_are_left_out(tmp_path: Path) -> None:
    store = rd.from_frame(good(user=[4, 5, 6], tapped=[0, 1, 0]), "mine", columns={"click": "tapped"}, stores=tmp_path)
    assert store.log().column("click").tolist() == [0, 1, 0]
    assert [f.note for f in store.manifest.findings] == [
        "column 'click' was left out: 'tapped' is mapped to that name",
        "extra column 'user' was left out: recrl uses that name itself",
    ]


def test_cluster_stands_for_the_user(tmp_path: Path) -> None:
    store = rd.from_frame(good(user_id=None, visit=["p", "q", "p"]), "mine", columns={"cluster_id": "visit"}, stores=tmp_path)
    assert store.users["user_id"].to_list() == ["p", "q"]
    assert store.manifest.findings[0].check == "clusters stand for users"


def test_rows_are_their_own_clusters_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(rd.RowsAsClustersWarning, match="neither user_id nor cluster_id.*did you mean 'UserId'"):
        store = rd.from_frame(good(user_id=None, UserId=[1, 1, 2]), "mine", stores=tmp_path)
    assert store.manifest.users == store.manifest.rows == 3
    assert store.manifest.findings[0].severity == "warning"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rd.from_frame(good(), "theirs", stores=tmp_path)


def test_vectors_and_propensities_come_through(tmp_path: Path) -> None:
    actions = [[0.5, -1.0], [0.25, 2.0], [0.0, 0.0]]
    for name, frame in {
        "lists": pl.DataFrame(good(action=actions)),
        "pandas": pd.DataFrame(good(action=[np.array(a) for a in actions])),
    }.items():
        store = rd.from_frame(
            frame.with_columns(propensity=0.5) if isinstance(frame, pl.DataFrame) else frame.assign(propensity=0.5), name, stores=tmp_path
        )
        log = store.log()
        assert log.column("action").tolist() == actions
        assert log.column("propensity").dtype == np.float32
        assert log.frame()["action"].to_list() == actions
