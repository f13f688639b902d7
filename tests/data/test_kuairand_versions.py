"""KuaiRand-1K and -27K: official file names, parts that are one table, features beyond memory, and what is missing or does not fit."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recrl_datasets as rd
from recrl.core.errors import DataError, RecrlError, StorageError
from recrl_datasets.loaders.reading import read_text_pieces
from tests.data.conftest import KUAIRAND_HEADER, KUAIRAND_ROWS
from tests.data.test_loader_fuzz import mutate, mutation, says_why

DAYS = ("4_08_to_4_21", "4_22_to_5_08")
RANDOM = "3,50,20220428,900,1651107600000,0,0,0,0,0,0,0,0,8000,0,0,0,1,4"
USERS = "user_id,user_active_degree,follow_user_num\n7,full_active,600\n3,low_active,\n99,low_active,1\n"
BASIC = (
    "video_id,video_type,upload_dt,video_duration,tag",
    '30,NORMAL,2022-04-10,87433.0,"1,39"',
    "10,AD,2022-04-11,,2",
    "77,AD,2022-04-11,1.0,2",
)
STATISTIC = ("video_id,counts,play_progress", "30,102,0.117", "20,5,0.2", "50,1,0.5", "77,1,0.5")
OLD = tuple(row.replace("202204", "202203").replace(",165", ",164") for row in KUAIRAND_ROWS)


def text(header: str, rows: tuple[str, ...]) -> str:
    return "\n".join((header, *rows)) + "\n"


def parts(stem: str, ending: str, count: int, header: str, rows: tuple[str, ...]) -> dict[str, str]:
    """One table in ``count`` files."""
    if count == 1:
        return {f"{stem}_{ending}.csv": text(header, rows)}
    return {f"{stem}_{ending}_part{k + 1}.csv": text(header, rows[k::count]) for k in range(count)}


def files(ending: str) -> dict[str, str]:
    """Every official file of a version."""
    logs, statistics = (2, 3) if ending == "27k" else (1, 1)
    return {
        **parts(f"log_standard_{DAYS[0]}", ending, logs, KUAIRAND_HEADER, OLD),
        **parts(f"log_standard_{DAYS[1]}", ending, logs, KUAIRAND_HEADER, KUAIRAND_ROWS),
        **parts("log_random_4_22_to_5_08", ending, 1, KUAIRAND_HEADER, (RANDOM,)),
        f"user_features_{ending}.csv": USERS,
        **parts("video_features_basic", ending, 1, BASIC[0], BASIC[1:]),
        **parts("video_features_statistic", ending, statistics, STATISTIC[0], STATISTIC[1:]),
    }


def write(root: Path, content: dict[str, str]) -> Path:
    (root / "data").mkdir(parents=True)
    for name, body in content.items():
        (root / "data" / name).write_text(body)
    return root


def beyond_memory(patch: pytest.MonkeyPatch) -> None:
    """Every line is a piece, memory holds two rows, features are joined for two videos at a time."""
    patch.setattr("recrl_datasets.loaders.kuairand.read_text_pieces", partial(read_text_pieces, piece_bytes=1))
    sizes = {"survey.ROWS_IN_MEMORY": 2, "survey.PILE_ROWS": 3, "joining.RANGE_IDS": 2}
    for name, size in sizes.items():
        patch.setattr(f"recrl_datasets.building.{name}", size)


def test_all_versions_read_the_same_rows_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = {}
    for ending in ("pure", "1k", "27k"):
        if ending == "27k":
            beyond_memory(monkeypatch)
        root = write(tmp_path / ending, files(ending))
        stores[ending] = rd.prepare(f"kuairand-{ending}", root, stores=tmp_path / "stores")
    pure = stores["pure"]
    for store in stores.values():
        assert store.content_hash == pure.content_hash
        assert (store.manifest.rows, store.manifest.random_rows, store.manifest.duplicate_rows) == (10, 1, 2)
        assert {f.check: f.count for f in store.manifest.findings} == {
            "leaky item statistics": 2,
            "features of unknown users": 1,
            "features of unknown items": 1,
        }
        assert store.manifest.leaky_items == ("counts", "play_progress")
    assert stores["27k"].items.select("item_id", "video_duration", "tag", "counts").rows() == [
        (10, None, ["2"], None),
        (20, None, None, 5.0),
        (30, 87433.0, ["1", "39"], 102.0),
        (50, None, None, 1.0),
    ]
    assert stores["27k"].users["follow_user_num"].to_list() == [None, 600]
    assert stores["27k"].random_log().column("timestamp_ms").tolist() == [1651107600000]


def test_the_official_names_are_looked_for(tmp_path: Path) -> None:
    for ending in ("1k", "27k"):
        found = rd.REGISTRY[f"kuairand-{ending}"].files(write(tmp_path / ending, files(ending)))
        assert set(found) == set(files(ending))
    with pytest.raises(StorageError) as caught:
        rd.prepare("kuairand-27k", tmp_path / "1k", stores=tmp_path / "stores")
    assert caught.value.what.startswith("no KuaiRand-27K log found: neither ")
    assert "log_standard_4_08_to_4_21_27k_part1.csv, log_standard_4_08_to_4_21_27k_part2.csv, log_standard_4_22" in caught.value.what


@pytest.mark.parametrize(
    ("absent", "count"),
    [
        ("log_standard_4_08_to_4_21_27k_part2.csv", 2),
        ("video_features_statistic_27k_part1.csv", 3),
        ("log_standard_4_22_to_5_08_27k_part1.csv", 2),
    ],
)
def test_a_missing_part_is_named(absent: str, count: int, tmp_path: Path) -> None:
    root = write(tmp_path / "root", files("27k"))
    (root / "data" / absent).unlink()
    with pytest.raises(StorageError) as caught:
        rd.prepare("kuairand-27k", root, stores=tmp_path / "stores")
    assert caught.value.what == f"{absent} not found: the table comes in {count} parts"
    assert caught.value.where == str(root / "data")
    assert not (tmp_path / "stores").exists()


def test_a_whole_table_may_be_missing(tmp_path: Path) -> None:
    kept = {name: body for name, body in files("27k").items() if "4_22" in name and "random" not in name}
    store = rd.prepare("kuairand-27k", write(tmp_path / "root", kept), stores=tmp_path / "stores")
    assert (store.manifest.rows, store.manifest.random_rows, store.items.columns) == (5, 0, ["item", "item_id"])


PART = "log_standard_4_22_to_5_08_27k_part2.csv"
STATISTICS = "video_features_statistic_27k_part3.csv"
BROKEN: dict[str, tuple[str, Callable[[str], str | bytes], str]] = {
    "a part without a column": (PART, lambda t: t.replace("is_click", "click"), "column 'is_click' is missing"),
    "a part of other features": (
        STATISTICS,
        lambda t: t.replace("counts", "count"),
        f"{STATISTICS} and video_features_statistic_27k_part1.csv are parts of one table, yet only one of them has: count, counts",
    ),
    "a part cut off": (PART, lambda t: t.rsplit(",", 3)[0], "16 fields instead of 19"),
    "a packed part cut off": (PART, lambda t: gzip.compress(t.encode(), mtime=0)[:-9], "the gzip file is cut off or broken"),
    "packed features cut off": (STATISTICS, lambda t: gzip.compress(t.encode(), mtime=0)[:-9], "the gzip file is cut off or broken"),
    "an empty part": (PART, lambda t: "", "the file is empty"),
    "features without rows": (STATISTICS, lambda t: t.split("\n")[0], "the file has a header but no rows"),
    "a video in two parts": (STATISTICS, lambda t: t + "30,9,0.9\n", "item_id 30 has 2 rows"),
    "an unknown video in two parts": (STATISTICS, lambda t: t + "77,9,0.9\n", "item_id 77 has 2 rows"),
    "a word among statistics": (STATISTICS, lambda t: t + "20,many,0.2\n", "column 'counts' holds 'many': not a number"),
    "a video without an id": (STATISTICS, lambda t: t + ",9,0.9\n", "column 'video_id' (as item_id) holds a missing value"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("spooled", [False, True])
def test_broken_parts_leave_nothing(case: str, spooled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, damage, what = BROKEN[case]
    root = write(tmp_path / "root", files("27k"))
    path = root / "data" / target
    damaged = damage(path.read_text())
    path.write_bytes(damaged.encode() if isinstance(damaged, str) else damaged)
    if spooled:
        beyond_memory(monkeypatch)
    with pytest.raises(DataError) as caught:
        rd.prepare("kuairand-27k", root, stores=tmp_path / "stores")
    assert caught.value.what.split(";")[0].startswith(what)
    assert not (tmp_path / "stores").exists()


def test_an_extra_column_in_one_part_is_left_out_with_a_finding(tmp_path: Path) -> None:
    content = files("27k")
    header, *rows = content[PART].splitlines()
    content[PART] = "\n".join((f"{header},mood", *(f"{row},x" for row in rows)))
    store = rd.prepare("kuairand-27k", write(tmp_path / "root", content), stores=tmp_path / "stores")
    plain = rd.prepare("kuairand-27k", write(tmp_path / "plain", files("27k")), stores=tmp_path / "plain-stores")
    assert f"{PART}: column 'mood' is not KuaiRand's and was left out" in [f.note for f in store.manifest.findings]
    assert store.content_hash == plain.content_hash


def test_codes_keep_their_type_across_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that needs a second look has wider numbers; the store has the same types all the same."""
    content = files("27k")
    content[PART] = content[PART].replace("\n", "\n\n", 1)
    beyond_memory(monkeypatch)
    store = rd.prepare("kuairand-27k", write(tmp_path / "root", content), stores=tmp_path / "stores")
    assert store.log().column("tab").dtype == pl.Series([1], dtype=pl.Int8).to_numpy().dtype


@settings(max_examples=40)
@given(
    ending=st.sampled_from(["1k", "27k"]),
    target=st.integers(0, 9),
    changes=st.lists(mutation, min_size=1, max_size=4),
    size=st.sampled_from([1, 100, 1 << 20]),
    packed=st.booleans(),
)
def test_mutated_parts_never_fail_oddly(ending: str, target: int, changes: list[tuple[float, int, bytes]], size: int, packed: bool) -> None:
    content = files(ending)
    name = sorted(content)[target % len(content)]
    changed = mutate(content[name].encode(), changes)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if size == 1:
            beyond_memory(patch)
        patch.setattr("recrl_datasets.loaders.kuairand.read_text_pieces", partial(read_text_pieces, piece_bytes=size))
        root, stores = write(Path(folder, "root"), content), Path(folder, "stores")
        (root / "data" / name).write_bytes(gzip.compress(changed, mtime=0) if packed else changed)
        try:
            store = rd.prepare(f"kuairand-{ending}", root, stores=stores)
        except RecrlError as error:
            says_why(error, stores)
        else:
            assert store.log().n_rows + store.manifest.duplicate_rows == store.manifest.rows
            assert store.items.height == store.manifest.items
