"""Appending: in any pieces it gives the store of everything at once, twice is once, and a failure leaves the old store."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recrl_datasets as rd
from recrl.core.errors import ConfigError, DataError, StorageError
from recrl_datasets import fitting
from recrl_datasets.building import survey
from tests.conftest import REPOSITORY
from tests.data.conftest import KUAIRAND_HEADER, KUAIRAND_ROWS, MOVIELENS, RANDOM_LOG, STANDARD_LOG

NOW = 1_700_000_000_000
EARLIER_LOG = "log_standard_4_08_to_4_21_pure.csv"


def frame(rows: int = 60, seed: int = 0) -> pl.DataFrame:
    """A log with ties, exact duplicates, text codes, missing values, vectors and extra columns of several kinds."""
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user_id": rng.integers(-3, 9, rows) * 7,
            "item_id": [f"v{k}" for k in rng.integers(0, 12, rows)],
            "timestamp_ms": NOW + rng.integers(0, 4, rows) * 1000,
            "click": rng.integers(0, 2, rows),
            "watch_seconds": np.where(rng.random(rows) < 0.2, np.nan, rng.integers(0, 3, rows) / 2),
            "session_id": [f"s{k}" for k in rng.integers(0, 5, rows)],
            "request_id": rng.integers(0, 2, rows) * 40_000,
            "action": [[float(k), 0.5] for k in rng.integers(0, 2, rows)],
            "local_date": [20231114 + int(k) for k in rng.integers(0, 2, rows)],
            "tab": rng.integers(0, 300, rows) // 150 * 200,
            "open": rng.random(rows) < 0.5,
            "note": [None if k == 0 else f"n{k}" for k in rng.integers(0, 3, rows)],
            "stay": [None if k == 0 else int(k) for k in rng.integers(0, 3, rows)],
        }
    )


def features(table: pl.DataFrame, key: str) -> pl.DataFrame:
    ids = table[key].unique().sort()
    return pl.DataFrame(
        {key: ids, "size": pl.Series(range(ids.len())), "kind": [f"k{k % 3}" for k in range(ids.len())], "tags": [["a"]] * ids.len()}
    )


def same(left: rd.Store, right: rd.Store) -> bool:
    """Whether two stores hold the same: byte for byte, and in every word of the manifest about the content."""
    files = sorted(left.manifest.files)
    if files != sorted(right.manifest.files) or left.content_hash != right.content_hash:
        return False
    told = [{k: v for k, v in s.manifest.to_json().items() if k not in ("name", "title", "fingerprint", "appended")} for s in (left, right)]
    return told[0] == told[1] and all((left.path / f).read_bytes() == (right.path / f).read_bytes() for f in files)


def untouched(store: rd.Store) -> bool:
    """Whether the store is in force as it was, with nothing beside it."""
    return rd.open_store(store.path).manifest == store.manifest and [p.name for p in store.path.parent.iterdir()] == [store.path.name]


@settings(max_examples=10, deadline=None)
@given(
    rows=st.integers(2, 90),
    seed=st.integers(0, 2**16),
    cuts=st.lists(st.floats(0, 1), min_size=1, max_size=3),
    tabled=st.booleans(),
    tiny=st.booleans(),
)
def test_any_pieces_give_the_store_of_everything(
    rows: int, seed: int, cuts: list[float], tabled: bool, tiny: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    table, stores = frame(rows, seed), tmp_path_factory.mktemp("s")
    tables = {"users": features(table, "user_id"), "items": features(table, "item_id")} if tabled else {}
    ends = sorted({min(max(int(cut * rows), 1), rows) for cut in cuts} | {rows})
    pieces = [table[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    with pytest.MonkeyPatch.context() as patch:
        if tiny:
            # everything that can wait on disk does, in many parts
            patch.setattr(survey, "ROWS_IN_MEMORY", 5)
            patch.setattr(survey, "PILE_ROWS", 7)
            patch.setattr(fitting, "PIECE_ROWS", 3)
        store = rd.from_frame(pieces[0], "grown", stores=stores, **tables)
        for piece in pieces[1:]:
            store = rd.append(store, piece, **tables)
    whole = rd.from_frame(table, "whole", stores=stores, **tables)
    assert same(store, whole)
    assert len(store.manifest.appended) <= len(pieces) - 1


def test_appended_findings_are_those_of_everything(tmp_path: Path) -> None:
    table = frame().rename({"user_id": "cluster_id"})
    store = rd.append(rd.from_frame(table[:20], "grown", stores=tmp_path), table[20:])
    assert store.manifest.findings == rd.from_frame(table, "whole", stores=tmp_path).manifest.findings
    assert store.manifest.findings[0].count == 60


@pytest.mark.parametrize("second", [{}, {"is_random_exposure": [0, 1, 1]}])
def test_new_users_and_items_get_in_and_indices_are_numbered_anew(second: dict[str, Any], tmp_path: Path) -> None:
    first = {"user_id": [20, 30], "item_id": ["m", "m"], "timestamp_ms": [NOW, NOW], **({"is_random_exposure": [0, 1]} if second else {})}
    more = {"user_id": [10, 20, 20], "item_id": ["a", "m", "z"], "timestamp_ms": [NOW + 9, NOW, NOW + 8], **second}
    store = rd.append(rd.from_frame(first, "mine", stores=tmp_path), more)
    assert store.users["user_id"].to_list() == [10, 20, 30]
    assert store.items["item_id"].to_list() == ["a", "m", "z"]
    assert (store.manifest.rows, store.manifest.random_rows) == (5, 0)
    assert store.log().column("user").tolist() == ([0, 1, 1, 1, 2] if second else [0, 1, 1, 2])
    assert store.manifest.duplicate_rows == (0 if second else 1)


def test_rows_that_are_their_own_clusters(tmp_path: Path) -> None:
    table = frame().drop("user_id")
    with pytest.warns(rd.RowsAsClustersWarning):
        store = rd.from_frame(table[:25], "grown", stores=tmp_path)
    with pytest.warns(rd.RowsAsClustersWarning):
        store = rd.append(store, table[25:])
    with pytest.warns(rd.RowsAsClustersWarning):
        assert same(store, rd.from_frame(table, "whole", stores=tmp_path))
    with pytest.raises(DataError, match="the new rows have a user_id, the store's rows are their own clusters"):
        rd.append(store, frame(5))
    users = rd.from_frame(frame(), "users", stores=tmp_path)
    with (
        pytest.warns(rd.RowsAsClustersWarning),
        pytest.raises(DataError, match="the store has a user_id, the new rows are their own clusters"),
    ):
        rd.append(users, table)


def test_twice_is_once(tmp_path: Path) -> None:
    table, stages = frame(), []
    store = rd.append(rd.from_frame(table[:20], "mine", stores=tmp_path), table[20:40])
    store = rd.append(store, table[40:])
    written = (store.path / "log.parquet").stat().st_mtime_ns
    for again in (table[20:40], table[40:], table[20:40][::-1], table[40:].to_arrow()):
        held = rd.append(store, again, progress=lambda share, text: stages.append(text))
        assert held.manifest == store.manifest
        assert stages[-1] == "already appended"
    assert (store.path / "log.parquet").stat().st_mtime_ns == written
    # other rows, or the same rows with other features, are something else
    assert rd.append(store, table[20:41]).manifest.rows == 81
    users = features(table, "user_id")
    assert rd.append(store.path, table[20:40], users=users).users["size"].to_list() == users["size"].to_list()


def test_values_that_may_be_missing_are_filled(tmp_path: Path) -> None:
    table = frame().with_columns(rating=pl.lit(4.0))
    for old, new in ((("watch_seconds",), ("rating",)), (("rating", "watch_seconds"), ()), ((), ("rating",))):
        stores = tmp_path / "-".join(("s", *old, *new))
        first, second = table[:30].drop(old), table[30:].drop(new)
        store = rd.append(rd.from_frame(first, "grown", stores=stores), second)
        assert same(store, rd.from_frame(pl.concat([first, second], how="diagonal"), "whole", stores=stores))


def test_whole_numbers_join_text(tmp_path: Path) -> None:
    first = {"user_id": ["ann", "7"], "item_id": [1, 2], "timestamp_ms": [NOW, NOW], "session_id": ["a", "b"], "tag": ["x", "1"]}
    second = {"user_id": [7, 8], "item_id": [1, 2], "timestamp_ms": [NOW, NOW], "session_id": [3, 4], "tag": [1, 2]}
    store = rd.append(rd.from_frame(first, "mine", stores=tmp_path), second)
    assert store.users["user_id"].to_list() == ["7", "8", "ann"]
    assert set(store.log().frame()["session_id"]) == {"a", "b", "3", "4"}
    assert set(store.log().frame()["tag"]) == {"x", "1", "2"}


FIT = "append: frame"
MISFITS: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str, str]] = {
    "a feedback column is missing": (
        lambda t: t.drop("click"),
        "column 'click' of the store is missing in the new rows",
        "give it, or prepare everything again without it",
    ),
    "a feedback column is new": (
        lambda t: t.with_columns(like=pl.lit(1)),
        "column 'like' of the new rows is not in the store",
        "leave it out, or prepare everything again with it",
    ),
    "a column has another name": (
        lambda t: t.rename({"session_id": "sessionid"}),
        "column 'session_id' of the store is missing in the new rows",
        "did you mean 'sessionid'? pass columns={'session_id': 'sessionid'}",
    ),
    "an extra column is missing": (
        lambda t: t.drop("tab"),
        "column 'tab' of the store is missing in the new rows",
        "give it, or prepare everything again without it",
    ),
    "an extra column is new": (
        lambda t: t.with_columns(tabs=pl.col("tab")),
        "column 'tabs' of the new rows is not in the store",
        "leave it out, or prepare everything again with it",
    ),
    "text for numbers": (
        lambda t: t.with_columns(user_id=pl.lit("ann")),
        "column 'user_id' holds numbers in the store and text in the new rows ('ann')",
        "give numbers, or prepare everything again with text",
    ),
    "broken numbers for text": (
        lambda t: t.with_columns(note=pl.lit(1.5)),
        "column 'note' holds text in the store and numbers in the new rows (1.5)",
        "give text, or prepare everything again with numbers",
    ),
    "vectors of another length": (
        lambda t: t.with_columns(action=pl.lit([0.0, 1.0, 2.0])),
        "'action' has vectors of length 3, in the store of length 2",
        "give vectors of the store's length",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_rows_that_do_not_fit_are_refused(case: str, tmp_path: Path) -> None:
    change, what, mend = MISFITS[case]
    store = rd.from_frame(frame(), "mine", stores=tmp_path)
    with pytest.raises(DataError) as caught:
        rd.append(store, change(frame(20, seed=1)))
    assert (caught.value.what, caught.value.where, caught.value.mend) == (what, FIT, mend)
    assert untouched(store)


def test_bad_values_are_named(tmp_path: Path) -> None:
    store = rd.from_frame(frame(), "mine", stores=tmp_path)
    with pytest.raises(DataError, match="column 'click' holds 3") as caught:
        rd.append(store, frame(20).with_columns(click=pl.lit(3)))
    assert caught.value.where.startswith("append: frame, row 0")
    with pytest.raises(ConfigError, match="timestamp_unit='h'"):
        rd.append(store, frame(20), timestamp_unit="h")
    assert untouched(store)


def test_mapping_and_feedback(tmp_path: Path) -> None:
    table = pl.DataFrame({"uid": [1, 2], "film": [5, 6], "at": [1_700_000_000, 1_700_000_060], "stars": [5, 2]})
    asked: dict[str, Any] = {
        "columns": {"user_id": "uid", "item_id": "film", "timestamp_ms": "at", "rating": "stars"},
        "feedback": {"click": pl.col("stars") >= 3},
        "timestamp_unit": "s",
    }
    store = rd.append(rd.from_frame(table[:1], "grown", stores=tmp_path, **asked), table[1:], **asked)
    assert same(store, rd.from_frame(table, "whole", stores=tmp_path, **asked))


def test_features_replace_and_extend(tmp_path: Path) -> None:
    rows = {"user_id": [1, 2, 3], "item_id": [1, 1, 1], "timestamp_ms": [NOW] * 3}
    users = pl.DataFrame({"user_id": [1, 2, 3], "age": [10, 20, None], "city": ["a", "b", None]})
    store = rd.from_frame(rows, "mine", stores=tmp_path, users=users)
    more = {"user_id": [4, 5], "item_id": [1, 1], "timestamp_ms": [NOW] * 2}
    store = rd.append(store, more, users={"user_id": [2, 4], "city": ["B", "d"]})
    assert store.users.columns == ["user", "user_id", "age", "city"]
    assert store.users["age"].to_list() == [10, 20, None, None, None]
    assert store.users["city"].to_list() == ["a", "B", None, "d", None]
    for table, message in (
        ({"user_id": [1], "town": ["x"]}, "user feature 'town' is not in the store; there are: age, city"),
        ({"user_id": [1], "age": ["old"]}, "user feature 'age' holds String, in the store Int64"),
        ({"user_id": [1, 1], "age": [1, 2]}, "user_id 1 has 2 rows"),
        ({"user_id": ["x"], "age": [1]}, "user_id is a number in the log and text in the user features"),
    ):
        with pytest.raises(DataError) as caught:
            rd.append(store, more, users=table)
        assert caught.value.what == message
        assert untouched(store)
    assert rd.append(store, more, items={"item_id": [1], "genre": ["x"]}).items["genre"].to_list() == ["x"]


def kuairand(folder: Path, **logs: tuple[str, ...]) -> Path:
    """An official folder with some logs."""
    names = {"earlier": EARLIER_LOG, "standard": STANDARD_LOG, "random": RANDOM_LOG}
    (folder / "data").mkdir(parents=True)
    for which, rows in logs.items():
        (folder / "data" / names[which]).write_text("\n".join((KUAIRAND_HEADER, *rows)) + "\n")
    return folder


@pytest.mark.parametrize("random_first", [True, False])
def test_new_files_of_a_registered_dataset(random_first: bool, tmp_path: Path) -> None:
    shown = tuple(row.rsplit(",", 2)[0] + ",1,4" for row in KUAIRAND_ROWS[2:])
    randoms: list[dict[str, tuple[str, ...]]] = [{"random": shown} if random_first == k else {} for k in (True, False)]
    first = kuairand(tmp_path / "first", earlier=KUAIRAND_ROWS[:3], **randoms[0])
    second = kuairand(tmp_path / "second", standard=KUAIRAND_ROWS[1:], **randoms[1])
    everything = kuairand(tmp_path / "all", earlier=KUAIRAND_ROWS[:3], standard=KUAIRAND_ROWS[1:], random=shown)
    statistics = "video_id,counts\n30,102\n20,5\n"
    users = "user_id,user_active_degree\n7,full\n3,low\n"
    for folder in (second, everything):
        (folder / "data" / "user_features_pure.csv").write_text(users)
        (folder / "data" / "video_features_statistic_pure.csv").write_text(statistics)
    store = rd.prepare("kuairand-pure", first, stores=tmp_path / "stores")
    grown = rd.append(store, root=second)
    assert same(grown, rd.prepare("kuairand-pure", everything, stores=tmp_path / "whole"))
    assert grown.manifest.random_rows == 3
    assert grown.manifest.leaky_items == ("counts",)
    assert (grown.manifest.title, grown.manifest.licence) == (store.manifest.title, store.manifest.licence)
    # what is in already, and what was appended, is known; preparing the first files again does not lose the others
    for folder in (first, second):
        assert rd.append(grown, root=folder).manifest == grown.manifest
    assert rd.prepare("kuairand-pure", first, stores=tmp_path / "stores").manifest == grown.manifest
    assert rd.prepare("kuairand-pure", first, stores=tmp_path / "stores", force=True).content_hash == store.content_hash


def test_one_table_of_features_keeps_the_others_in_place(tmp_path: Path) -> None:
    basic, statistics = "video_id,video_type,video_duration\n30,A,1\n20,B,2\n10,A,3\n", "video_id,counts\n30,102\n20,5\n10,6\n"
    whole = kuairand(tmp_path / "all", earlier=KUAIRAND_ROWS[:3], standard=KUAIRAND_ROWS[3:])
    first, second = kuairand(tmp_path / "1", earlier=KUAIRAND_ROWS[:3]), kuairand(tmp_path / "2", standard=KUAIRAND_ROWS[3:])
    for folder in (first, whole):
        (folder / "data" / "video_features_basic_pure.csv").write_text(basic)
        (folder / "data" / "video_features_statistic_pure.csv").write_text(statistics)
    (second / "data" / "video_features_statistic_pure.csv").write_text(statistics)
    store = rd.append(rd.prepare("kuairand-pure", first, stores=tmp_path / "stores"), root=second)
    wanted = rd.prepare("kuairand-pure", whole, stores=tmp_path / "whole")
    assert store.items.columns == wanted.items.columns
    # features of videos that the first log did not show came with the first folder alone: they are not kept
    assert store.items.filter(pl.col("item_id") != 20).equals(wanted.items.filter(pl.col("item_id") != 20))
    assert store.items.filter(pl.col("item_id") == 20)["counts"].to_list() == [5.0]


def test_movielens_with_new_ratings(tmp_path: Path) -> None:
    header, *ratings = MOVIELENS["ml-100k.inter"].splitlines()
    folders = {"all": ratings, "1": ratings[:1], "2": ratings[1:]}
    for name, rows in folders.items():
        (tmp_path / name).mkdir()
        for file, text in {**MOVIELENS, "ml-100k.inter": "\n".join((header, *rows)) + "\n"}.items():
            (tmp_path / name / file).write_text(text)
    store = rd.append(rd.prepare("ml-100k", tmp_path / "1", stores=tmp_path / "s"), root=tmp_path / "2")
    whole = rd.prepare("ml-100k", tmp_path / "all", stores=tmp_path / "w")
    assert store.content_hash == whole.content_hash
    surrogate = next(f for f in store.manifest.findings if f.check == "behaviours are a surrogate")
    assert surrogate.count == 3


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "there is nothing to append"),
        ({"frame": {"user_id": [1]}, "root": "x"}, "both rows and a folder are given"),
        ({"root": "x"}, "'mine' is not a registered dataset"),
    ],
)
def test_what_is_appended_must_be_said(options: dict[str, Any], what: str, tmp_path: Path) -> None:
    store = rd.from_frame(frame(), "mine", stores=tmp_path)
    with pytest.raises(ConfigError) as caught:
        rd.append(store, **options)
    assert caught.value.what == what
    assert caught.value.mend


def test_own_rows_do_not_belong_to_a_registered_dataset(tmp_path: Path) -> None:
    store = rd.prepare("kuairand-pure", kuairand(tmp_path / "k", standard=KUAIRAND_ROWS), stores=tmp_path / "s")
    with pytest.raises(ConfigError, match="'kuairand-pure' is a registered dataset"):
        rd.append(store, frame())
    with pytest.raises(ConfigError, match="columns, feedback and features are for rows of one's own"):
        rd.append(store, root=tmp_path / "k", users={"user_id": [7]})
    with pytest.raises(StorageError, match="no store in"):
        rd.append(tmp_path / "nowhere", frame())


def test_a_full_disk_leaves_the_old_store(tmp_path: Path) -> None:
    store = rd.from_frame(frame(), "mine", stores=tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pl.DataFrame, "write_parquet", full)
        with pytest.raises(StorageError, match="No space left on device"):
            rd.append(store, frame(20, seed=1))
    assert untouched(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey, "ROWS_IN_MEMORY", 5)
        patch.setattr(pl.DataFrame, "write_ipc", full)
        with pytest.raises(StorageError, match="No space left on device"):
            rd.append(store, frame(20, seed=1))
    assert untouched(store)
    rd.append(store, frame(20, seed=1))


def test_a_broken_store_is_not_appended_to(tmp_path: Path) -> None:
    store = rd.from_frame(frame(), "mine", stores=tmp_path)
    content = (store.path / "log.parquet").read_bytes()
    (store.path / "log.parquet").write_bytes(content[:50] + bytes(40) + content[90:-40] + bytes(40))
    with pytest.raises(StorageError, match="the store is broken"):
        rd.append(store, frame(20))
    (store.path / "log.parquet").write_bytes(b"half")
    with pytest.raises(StorageError, match=r"the store is broken: log\.parquet has 4 bytes"):
        rd.append(store, frame(20))


def test_a_reader_of_the_old_store_goes_on(tmp_path: Path) -> None:
    store = rd.from_frame(frame(), "mine", stores=tmp_path)
    before = rd.open_store(store.path).log(include_duplicates=True).frame()
    grown = rd.append(store, frame(20, seed=1))
    # nothing of it was read before the other took its place
    assert store.log(include_duplicates=True).frame().equals(before)
    assert (store.users.height, store.manifest.rows, grown.manifest.rows) == (12, 60, 80)


def test_one_at_a_time(tmp_path: Path) -> None:
    store = rd.from_frame(frame(), "mine", stores=tmp_path)
    other = os.open(store.path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(StorageError, match="another process is appending to the store"):
        rd.append(store, frame(20))
    os.close(other)
    assert rd.append(store, frame(20)).manifest.rows == 80


KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
import polars as pl
import recrl_datasets as rd
from pathlib import Path
calls = 0
def dying(real):
    def call(*args, **options):
        global calls
        calls += 1
        if calls > {after}:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)
    return call
pl.DataFrame.write_parquet, Path.rename = dying(pl.DataFrame.write_parquet), dying(Path.rename)
rd.append({store!r}, pl.read_parquet({rows!r}))
"""


@pytest.mark.parametrize("after", [2, 7])
def test_a_kill_leaves_a_whole_store(after: int, tmp_path: Path) -> None:
    store, rows = rd.from_frame(frame(), "mine", stores=tmp_path / "stores"), tmp_path / "rows.parquet"
    frame(20, seed=1).write_parquet(rows)
    script = KILLED.format(paths=[str(REPOSITORY), str(REPOSITORY / "datasets")], after=after, store=str(store.path), rows=str(rows))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    grown = rd.append(store.path, pl.read_parquet(rows))
    assert same(grown, rd.from_frame(pl.concat([frame(), frame(20, seed=1)]), "whole", stores=tmp_path / "w"))
    assert [p.name for p in (tmp_path / "stores").iterdir()] == ["mine"]


def test_a_copied_store_grows_on_its_own(tmp_path: Path) -> None:
    store = rd.from_frame(frame(), "mine", stores=tmp_path)
    shutil.copytree(store.path, tmp_path / "copy")
    assert rd.append(tmp_path / "copy", frame(20, seed=1)).manifest.rows == 80
    assert rd.open_store(store.path).manifest == store.manifest
