"""Datasets in RecBole's atomic files: a made-up one whose tables are known, options, and the failure table."""

from __future__ import annotations

import gzip
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import recrl_datasets as rd
from recrl.core.errors import ConfigError, DataError, RecrlError, StorageError
from recrl_datasets.loaders import atomic_log
from recrl_datasets.loaders.reading import read_text_pieces
from tests.support import layouts

INTER = str(layouts.ATOMIC["shop.inter"])
AGAIN = "download or copy the file again"
CORRECT = "correct the value, or leave the line out"


def rows(store: rd.Store) -> dict[str, list[Any]]:
    """The log's columns with raw ids."""
    log = store.log()
    ids = {"user_id": store.users["user_id"][log.column("user")], "item_id": store.items["item_id"][log.column("item")]}
    return {**log.frame().to_dict(as_series=False), **{name: values.to_list() for name, values in ids.items()}}


def test_a_dataset_gives_the_tables_that_it_was_made_of(tmp_path: Path) -> None:
    root = layouts.write(tmp_path / "files", {**layouts.ATOMIC, "shop.kg": "head_id:token\n", "shop.net": "", "other.txt": ""})
    store = rd.from_atomic(root, feedback={"click": "rating:3", "like": "rating:5"}, stores=tmp_path / "stores")
    found = rows(store)
    assert store.name == "shop"
    assert found["user_id"] == ["ann", "ann", "bob"]
    assert found["item_id"] == ["A7", "007", "A7"]
    assert found["timestamp_ms"] == [1_700_000_000_000, 1_700_000_060_000, 1_700_000_030_000]
    assert found["rating"] == [5, 2, 3]
    assert found["click"] == [1, 0, 1]
    assert found["like"] == [1, 0, 0]
    assert found["place"] == ["app", "web", "app"]
    assert store.users.drop("user").to_dict(as_series=False) == {"user_id": ["ann", "bob"], "age": [30, None], "city": ["Ulm", "New York"]}
    assert store.items.drop("item").to_dict(as_series=False) == {
        "item_id": ["007", "A7"],
        "title": [["blue", "hat"], ["red", "shoe"]],
        "vector": [[1, 20], [0.5, -1]],
    }
    left = {f.note.split(":")[0] for f in store.manifest.findings if f.check == "file left out"}
    assert left == {"shop.kg", "shop.net"}
    assert {f.check: f.count for f in store.manifest.findings if f.check != "file left out"} == {"features of unknown users": 1}


def test_recboles_own_ml_100k(tmp_path: Path, ml_100k: rd.Store) -> None:
    root = rd.REGISTRY["ml-100k"].files(None)["ml-100k.inter"].parent
    rules = {"click": "rating:3", "long_view": "rating:4", "like": "rating:5"}
    store = rd.from_atomic(root, "ml-100k-atomic", feedback=rules, stores=tmp_path)
    key = ["user_id", "item_id", "timestamp_ms"]
    ours, theirs = (
        s.log()
        .frame()
        .with_columns(s.users["user_id"][s.log().column("user")].cast(str), s.items["item_id"][s.log().column("item")].cast(str))
        for s in (store, ml_100k)
    )
    columns = [*key, "rating", *rules]
    assert ours.select(columns).sort(key).equals(theirs.select(columns).sort(key))


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1000), ("us", 1_000_000)])
def test_the_unit_of_time_is_told_or_given(unit: str, factor: int, tmp_path: Path) -> None:
    inter = "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(f"u\ti{k}\t{(1_700_000_000 + k) * factor}\n" for k in range(3))
    root = layouts.write(tmp_path / "files", {"d.inter": inter})
    told = rd.from_atomic(root, stores=tmp_path / "told")
    given = rd.from_atomic(root, timestamp_unit=unit, stores=tmp_path / "given")  # type: ignore[arg-type]
    assert rows(told)["timestamp_ms"] == [1_700_000_000_000 + 1000 * k for k in range(3)]
    assert given.content_hash == told.content_hash


def test_rows_stand_for_times_where_only_the_order_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inter = "user_id:token\titem_id:token\n" + "".join(f"u{k % 2}\ti{k:04}\n" for k in range(200))
    root = layouts.write(tmp_path / "files", {"d.inter": inter})
    with pytest.raises(DataError) as caught:
        rd.from_atomic(root, stores=tmp_path / "stores")
    assert caught.value.what == "there is no field 'timestamp'; there are: "
    assert "columns (timestamp_ms=FIELD); timestamp_unit rows makes times of the rows' order" in caught.value.mend
    monkeypatch.setattr(atomic_log, "read_text_pieces", partial(read_text_pieces, piece_bytes=300))
    store = rd.from_atomic(root, timestamp_unit="rows", stores=tmp_path / "stores")
    found = rows(store)
    order = sorted(range(200), key=lambda k: found["timestamp_ms"][k])
    assert [found["item_id"][k] for k in order] == [f"i{k:04}" for k in range(200)]
    assert sorted(found["timestamp_ms"]) == [946_684_800_000 + 1000 * k for k in range(200)]
    assert {f.check: f.count for f in store.manifest.findings}["no times"] == 200


def test_columns_map_and_leave_out(tmp_path: Path) -> None:
    inter = (
        "uid:token\titem_id:token\ttime:token\taction:token\tlabel:float\thistory:token_seq\tweights:float_seq\trating:float\n"
        "ann\tx\t1700000000.0\tbuy\t1\ta b\t0.5 1\t4\nann\ty\t1700000001\tsee\t0\t\t-1 2e0\t\n"
    )
    root = layouts.write(tmp_path / "files", {"d.inter": inter, "d.user": "uid:token\tuser_id:float\tage:float\nann\t3\t30\n"})
    columns = {"user_id": "uid", "timestamp_ms": "time", "action": "weights"}
    store = rd.from_atomic(root, "mine", columns=columns, feedback={"click": "label"}, stores=tmp_path / "a")
    found = rows(store)
    assert (found["click"], found["user_id"], store.users["age"].to_list()) == ([1, 0], ["ann", "ann"], [30.0])
    assert found["action"] == [[0.5, 1], [-1, 2]]
    assert [f.note for f in store.manifest.findings if f.check == "column left out"] == [
        "d.inter: field 'action' was left out: another field, or none, is mapped to that name",
        "d.inter: field 'history' was left out: a sequence has no place in a log",
    ]
    store = rd.from_atomic(
        root, "mine", columns={"user_id": "uid", "timestamp_ms": "time", "action": "", "rating": ""}, stores=tmp_path / "b"
    )
    assert set(store.log().columns) == {"user", "item", "timestamp_ms", "label", "is_duplicate"}
    assert {f.check for f in store.manifest.findings} >= {"no behaviours"}


def test_the_same_files_and_options_are_prepared_once(tmp_path: Path) -> None:
    root = layouts.write(tmp_path / "files", layouts.ATOMIC)
    seen: list[str] = []
    for feedback in ({"click": "rating:3"}, {"click": "rating:3"}, {"click": "rating:4"}):
        texts: list[str] = []
        store = rd.from_atomic(root, feedback=feedback, stores=tmp_path / "s", progress=lambda _, text, to=texts: to.append(text))
        seen.append(f"{texts[-1]} {sum(rows(store)['click'])}")
    assert seen == ["done 2", "already prepared 2", "done 1"]


def test_pieces_packed_files_and_harmless_deviations_make_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepared(name: str, files: layouts.Files, packed: bool = False) -> str:
        return rd.from_atomic(layouts.write(tmp_path / name, files, packed), stores=tmp_path / f"{name} stores").content_hash

    plain = prepared("plain", layouts.ATOMIC)
    odd = "\ufeff" + INTER.replace("\n", "\r\n").replace("ann\t007", "ann \t 007") + "\r\n\r\n"
    assert prepared("odd", {**layouts.ATOMIC, "shop.inter": odd}) == plain
    assert prepared("packed", layouts.ATOMIC, packed=True) == plain
    monkeypatch.setattr(atomic_log, "read_text_pieces", partial(read_text_pieces, piece_bytes=40))
    assert prepared("pieces", layouts.ATOMIC) == plain


def test_which_files_are_meant(tmp_path: Path) -> None:
    root = layouts.write(tmp_path / "files", layouts.ATOMIC)
    assert rd.from_atomic(root, "another-name", stores=tmp_path / "s").name == "another-name"
    for folder, what in ((tmp_path / "nowhere", "there is no such folder"), (tmp_path, "there is no .inter file")):
        with pytest.raises(StorageError) as caught:
            rd.from_atomic(folder, stores=tmp_path / "s")
        assert caught.value.what == f"no atomic dataset found: {what}"
    layouts.write(root, {"shop.part1.inter": INTER, "ml-1m.inter.gz": gzip.compress(INTER.encode(), mtime=0)})
    with pytest.raises(StorageError) as caught:
        rd.from_atomic(root, "x", stores=tmp_path / "s")
    assert caught.value.what == "no atomic dataset found: which of ml-1m, shop, shop.part1?"
    assert rd.from_atomic(root, "shop.part1", stores=tmp_path / "s").manifest.rows == 3
    with pytest.raises(ConfigError) as caught_name:
        rd.from_atomic(root, "ml-1m", stores=tmp_path / "s")
    assert caught_name.value.what == "'ml-1m' is the name of a registered dataset"


def bad(old: str, new: str) -> bytes:
    """The interactions with one text replaced."""
    assert old in INTER
    return INTER.replace(old, new, 1).encode()


TYPES = "write the header as field:type, the type one of token, token_seq, float, float_seq"
UNIT = CORRECT + "; or give timestamp_unit"
FAILURES: dict[str, tuple[str, bytes, str, str, str]] = {
    "empty": ("shop.inter", b"", "the file is empty", "", AGAIN),
    "header only": ("shop.inter", INTER.splitlines()[0].encode(), "the file has a header but no rows", "", AGAIN),
    "users: header only": ("shop.user", b"user_id:token\n", "the file has a header but no rows", "", AGAIN),
    "commas": (
        "shop.inter",
        INTER.replace("\t", ",").encode(),
        "columns are separated by commas, not tabs",
        ", line 1",
        "save the file with tabs",
    ),
    "no types": ("shop.inter", bad("rating:float", "rating"), "column 'rating' has no type of atomic files", ", line 1", TYPES),
    "unknown type": ("shop.inter", bad("rating:float", "rating:int"), "column 'rating:int' has no type of atomic files", ", line 1", TYPES),
    "type without field": (
        "shop.item",
        b"item_id:token\t:float\nA7\t1\n",
        "column ':float' has no type of atomic files",
        ", line 1",
        TYPES,
    ),
    "nameless column": ("shop.inter", b"\t" + INTER.encode(), "column 'index' has no type of atomic files", ", line 1", TYPES),
    "column twice": (
        "shop.inter",
        bad("place:token", "rating:float"),
        "column 'rating:float' appears twice (columns 3 and 5)",
        ", line 1",
        "remove or rename one of them",
    ),
    "field twice": (
        "shop.user",
        b"user_id:token\tage:float\tage:token\nann\t3\t3\n",
        "field 'age' appears twice (as float and as token)",
        ", line 1",
        "remove or rename one of them",
    ),
    "no item": (
        "shop.inter",
        bad("item_id:token", "sku:token"),
        "there is no field 'item_id'",
        ", line 1",
        "say which it is with columns (item_id=FIELD)",
    ),
    "near time": (
        "shop.inter",
        bad("timestamp:float", "time_stamp:float"),
        "there is no field 'timestamp'",
        ", line 1",
        "did you mean 'time_stamp'? say which it is with columns (timestamp_ms=FIELD); timestamp_unit rows makes times of the rows' order",
    ),
    "no id among the features": (
        "shop.user",
        b"user:token\tage:float\nann\t30\n",
        "there is no field 'user_id'",
        ", line 1",
        "did you mean 'user'? name the field of ids as in the .inter file, 'user_id'",
    ),
    "short line": (
        "shop.inter",
        bad("\t2\t1700000060", "\t2"),
        "4 fields instead of 5",
        ", line 3",
        "correct the line, or download or copy the file again",
    ),
    "no user": (
        "shop.inter",
        bad("bob\t", " \t"),
        "column 'user_id:token' (as user_id) holds '': a value is needed in every row",
        ", line 4",
        "fill it, or leave those rows out",
    ),
    "text as number": (
        "shop.inter",
        bad("\t2\t", "\ttwo\t"),
        "column 'rating:float' holds 'two': not a number",
        ", line 3",
        "correct the value, or leave the line out",
    ),
    "no rating for a click": (
        "shop.inter",
        bad("\t2\t", "\t\t"),
        "column 'rating:float' (as click) holds a missing value: a value is needed in every row",
        ", line 3",
        "fill it, leave those rows out, or leave the column out",
    ),
    "NaN for a click": (
        "shop.inter",
        bad("\t2\t", "\tnan\t"),
        "column 'rating:float' (as click) holds a missing value: a value is needed in every row",
        ", line 3",
        "fill it, leave those rows out, or leave the column out",
    ),
    "infinite": (
        "shop.inter",
        bad("\t2\t", "\t-inf\t"),
        "column 'rating:float' (as rating) holds -inf: not a finite number",
        ", line 3",
        "correct those rows, or leave them out",
    ),
    "no time": (
        "shop.inter",
        bad("1700000060", ""),
        "column 'timestamp:float' (as timestamp_ms) holds a missing value: a value is needed in every row",
        ", line 3",
        "fill it, or leave those rows out",
    ),
    "no known unit": (
        "shop.inter",
        INTER.replace("17000000", "").encode(),
        "field 'timestamp' holds 0: not a time of 1990 to 2100 in seconds, milli- or microseconds",
        ", line 2",
        "give seconds since 1970 UTC, or timestamp_unit rows where only the order is known",
    ),
    "two units": (
        "shop.inter",
        bad("1700000060", "1700000060000"),
        "column 'timestamp:float' (as timestamp_ms) holds 1700000060000.0: not a time of 1990 to 2100 in seconds",
        ", line 3",
        UNIT,
    ),
    "huge time": (
        "shop.inter",
        bad("1700000060", "1e300"),
        "column 'timestamp:float' (as timestamp_ms) holds 1e+300: not a time of 1990 to 2100 in seconds",
        ", line 3",
        UNIT,
    ),
    "date as time": (
        "shop.inter",
        bad("1700000060", "2023-11-14"),
        "column 'timestamp:float' holds '2023-11-14': not a number",
        ", line 3",
        "correct the value, or leave the line out",
    ),
    "words in a vector": (
        "shop.item",
        b"item_id:token\tvector:float_seq\nA7\t1 2\n007\t1 x\n",
        "column 'vector:float_seq' (as vector) holds ['1', 'x']: not a sequence of numbers",
        ", line 3",
        CORRECT,
    ),
    "cut gzip": ("shop.inter", gzip.compress(INTER.encode() * 99, mtime=0)[:-9], "the gzip file is cut off or broken", "", AGAIN),
    "Latin-1": (
        "shop.item",
        "item_id:token\nA7\nété\n".encode("latin-1"),
        "byte 0xe9 is not UTF-8 text",
        ", line 3",
        "save the file as UTF-8",
    ),
    "binary": ("shop.inter", b"\x00\x01\t\x02", "the file is not delimited text", "", AGAIN),
    "UTF-16": ("shop.inter", INTER.encode("utf-16"), "the file is UTF-16 text", "", "save it as UTF-8"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_bad_file_gives_its_exact_message_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    file, content, what, where, mend = FAILURES[case]
    root = layouts.write(tmp_path / "files", {**layouts.ATOMIC, file: content})
    with pytest.raises(DataError) as caught:
        rd.from_atomic(root, feedback={"click": "rating:3"}, stores=tmp_path / "stores")
    assert (caught.value.what.split(";")[0], caught.value.where, caught.value.mend) == (what, f"{root / file}{where}", mend)
    assert not list((tmp_path / "stores").glob("*"))


@pytest.mark.parametrize("name", ["user", "item"])
def test_an_id_twice(name: str, tmp_path: Path) -> None:
    root = layouts.write(tmp_path / "files", {**layouts.ATOMIC, f"shop.{name}": f"{name}_id:token\nA7\nA7\n"})
    with pytest.raises(DataError, match=f"{name}_id 'A7' has 2 rows"):
        rd.from_atomic(root, stores=tmp_path / "stores")


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "schema name": ({"columns": {"item": "sku"}}, "'item' is not a column of the log schema"),
    "field": ({"columns": {"rating": "stars"}}, "there is no field 'stars'; there are: user_id, item_id, rating, timestamp, place"),
    "behaviour": ({"feedback": {"clck": "rating:3"}}, "'clck' is not a behaviour"),
    "rule": ({"feedback": {"click": "rating:many"}}, "'rating:many' does not say what makes 'click'"),
    "no finite least": ({"feedback": {"click": "rating:nan"}}, "'rating:nan' does not say what makes 'click'"),
    "empty rule": ({"feedback": {"click": ""}}, "'' does not say what makes 'click'"),
    "field of a rule": (
        {"feedback": {"click": "label"}},
        "there is no field 'label'; there are: user_id, item_id, rating, timestamp, place",
    ),
    "rule over a flag": ({"feedback": {"click": "rating"}}, "column 'rating:float' (as click) holds 5.0: not 0 or 1 (2 more rows like it)"),
    "rule over a token": ({"feedback": {"click": "place:1"}}, "column 'place:token' holds 'app': not a number"),
    "rule over an id": ({"feedback": {"click": "user_id:1"}}, "field 'user_id' cannot be text and a number"),
    "time and text": ({"columns": {"session_id": "timestamp"}}, "field 'timestamp' cannot be text and a number"),
    "unit": ({"timestamp_unit": "days"}, "'days' is not a unit of time"),
    "other unit": (
        {"timestamp_unit": "ms"},
        "column 'timestamp:float' (as timestamp_ms) holds 1700000000.0: not a time of 1990 to 2100 in milliseconds (2 more rows like it)",
    ),
    "name": ({"name": "../shop"}, "'../shop' is not a name for a store"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_bad_options_are_named(case: str, tmp_path: Path) -> None:
    options, what = OPTIONS[case]
    root = layouts.write(tmp_path / "files", layouts.ATOMIC)
    with pytest.raises(RecrlError) as caught:
        rd.from_atomic(root, **options, stores=tmp_path / "stores")
    assert caught.value.what == what
    assert caught.value.mend
    assert not list((tmp_path / "stores").glob("*"))
