"""Logs beyond memory: a log handed over in pieces, spooled and sorted in ranges of users, gives the very files of one sorted in memory."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recrl_datasets as rd
from recrl.core.errors import DataError
from recrl_datasets.preparing import save
from recrl_datasets.schema import Origin, validate_log
from recrl_datasets.tables import PieceReader

NOW = 1_700_000_000_000
SIZES = {"survey.ROWS_IN_MEMORY": 8, "writing.ROWS_IN_MEMORY": 3, "survey.PILE_ROWS": 12, "joining.RANGE_IDS": 4, "survey.MOST_PILES": 5}


@contextlib.contextmanager
def tiny(**changes: int) -> Iterator[None]:
    """Memory for a handful of rows."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in {**SIZES, **changes}.items():
            patch.setattr(f"recrl_datasets.building.{name}", size)
        yield


def rows(count: int, seed: int, text_ids: bool) -> pl.DataFrame:
    """Validated rows with ties, exact duplicates, texts, missing extras, vectors and rows shown at random."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(-3, 9, count), rng.integers(0, 6, count)
    table = pl.DataFrame(
        {
            "user_id": [f"u{k}" for k in users] if text_ids else users * 10**9,
            "item_id": items,
            "timestamp_ms": NOW + rng.integers(0, 3, count) * 1000,
            "click": rng.integers(0, 2, count),
            "watch_seconds": np.where(rng.random(count) < 0.3, np.nan, rng.integers(0, 2, count) / 2),
            "session_id": [f"s{k}" for k in rng.integers(0, 3, count)],
            "action": [[float(k), 0.5] for k in rng.integers(0, 2, count)],
            "is_random_exposure": (rng.random(count) < 0.2).astype(int),
            "local_date": pl.Series(20231114 + rng.integers(0, 2, count)),
            "tab": rng.integers(-1, 2, count) * rng.choice([1, 200, 70_000]),
            "wide": rng.integers(0, 2, count) * rng.choice([1, 300], count),
            "mood": pl.Series(rng.choice(["good", "", "bad"], count)).replace("", None),
            "score": pl.Series(rng.choice([1.5, 2.5, np.inf], count)).replace(float("inf"), None),
            "place": pl.Series(rng.integers(0, 3, count)).replace(0, None),
            "seen": rng.random(count) < 0.5,
        }
    )
    return validate_log(table, Origin("test"))


def features(key: str, ids: pl.Series, seed: int) -> pl.DataFrame:
    """Features of some of the ids and of one that no row holds, in any order."""
    rng = np.random.default_rng(seed)
    stranger = pl.Series(key, ["nobody"] if ids.dtype == pl.String else [-77])
    table = pl.concat([ids.unique().sort().alias(key), stranger]).to_frame()
    table = table[np.flatnonzero(rng.random(table.height) < 0.8)][::-1]
    return table.with_columns(pl.Series("age", rng.integers(0, 90, table.height)), pl.lit(["x", "y"]).alias("tags"))


def cut(table: pl.DataFrame, places: list[int], vary: bool) -> PieceReader:
    """A reader of ``table`` in pieces; with ``vary`` their types are as narrow as the piece alone would have them."""

    def read() -> Iterator[pl.DataFrame]:
        ends = sorted({0, table.height, *(place for place in places if place < table.height)})
        for start, end in pairwise(ends):
            piece = table[start:end]
            if vary and "wide" in piece.columns:
                piece = piece.with_columns(piece["wide"].shrink_dtype())
                piece = piece.with_columns(s.cast(pl.Null) for s in piece if s.is_null().all() and table[s.name].is_not_null().any())
            yield piece

    return read


def content(store: rd.Store) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Every byte of a store, and its manifest."""
    files = {str(path.relative_to(store.path)): path.read_bytes() for path in sorted(store.path.rglob("*.parquet"))}
    return files, json.loads((store.path / "manifest.json").read_text())


@settings(max_examples=25)
@given(
    count=st.integers(1, 90),
    seed=st.integers(0, 2**16),
    places=st.lists(st.integers(1, 90), max_size=7),
    text_ids=st.booleans(),
    apart=st.booleans(),
    vary=st.booleans(),
    block=st.sampled_from([5, 1000]),
)
def test_a_streamed_log_gives_the_store_of_one_in_memory(
    count: int,
    seed: int,
    places: list[int],
    text_ids: bool,
    apart: bool,
    vary: bool,
    block: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    stores = tmp_path_factory.mktemp("s")
    log = rows(count, seed, text_ids)
    users, items = features("user_id", log["user_id"], seed), features("item_id", log["item_id"], seed + 1)
    more = features("item_id", log["item_id"], seed + 2).select("item_id", (pl.col("age") * 2.5).alias("length"))
    joined = items.join(more, on="item_id", how="full", coalesce=True)
    whole = rd.RawTables(log, apart, users, joined)
    pieces = rd.RawTables(cut(log, places, vary), apart, [cut(users, places, False)], [cut(items, places, False), cut(more, places, False)])
    with tiny(**{"writing.BLOCK_ROWS": block}):
        made = [
            save(raw, "mine", source=None, stores=stores / name, fingerprint="") for name, raw in (("memory", whole), ("pieces", pieces))
        ]
    assert content(made[0]) == content(made[1])
    check_rows(made[0], log, apart)


def check_rows(store: rd.Store, log: pl.DataFrame, apart: bool) -> None:
    """The store holds the rows of ``log``, sorted, each repetition flagged."""
    parts = [store.log(include_duplicates=True)] + ([store.random_log(include_duplicates=True)] if apart else [])
    masks = (
        [log["is_random_exposure"] == 0, log["is_random_exposure"] == 1]
        if apart
        else [pl.Series([True]).extend_constant(True, log.height - 1)]
    )
    for view, mask in zip(parts, masks, strict=True):
        expected = log.filter(mask)
        got = view.frame()
        raw = got.select(
            store.users["user_id"][got["user"]].alias("user_id"),
            store.items["item_id"][got["item"]].alias("item_id"),
            pl.exclude("user", "item"),
        )
        plain = expected.with_columns(pl.col("mood").fill_null(""), pl.col("score").fill_null(np.nan), pl.col("place").fill_null(np.nan))
        names = sorted(set(plain.columns) - {"action"})
        same = raw.select(pl.col(name).cast(plain[name].dtype) for name in names)
        assert same.sort(pl.all()).equals(plain.select(names).sort(pl.all()))
        assert got["is_duplicate"].sum() == expected.height - plain.with_columns(pl.col("action").arr.get(0)).unique().height
        assert got.sort("user", "timestamp_ms", maintain_order=True).equals(got)


def raw(count: int = 60, seed: int = 3, pieces: int = 6) -> rd.RawTables:
    log = rows(count, seed, False)
    return rd.RawTables(cut(log, list(range(0, count, max(1, count // pieces))), False), True)


def keep(raw: rd.RawTables, stores: Path, **options: Any) -> rd.Store:
    with tiny():
        return save(raw, "mine", source=None, stores=stores, fingerprint="", **options)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda p: p.with_columns(tab=pl.lit("x")), "column 'tab' holds Int64 in one piece of the log and String in another"),
        (lambda p: p.drop("tab"), "pieces of the log differ in their columns: tab"),
        (lambda p: p.with_columns(other=1), "pieces of the log differ in their columns: other"),
        (
            lambda p: p.with_columns(action=pl.concat_list(pl.lit(1.0), pl.lit(2.0), pl.lit(3.0)).cast(pl.Array(pl.Float32, 3))),
            "column 'action' holds Array(Float32, shape=(2,)) in one piece of the log and Array(Float32, shape=(3,)) in another",
        ),
    ],
)
def test_pieces_that_do_not_fit_each_other(change: Callable[[pl.DataFrame], pl.DataFrame], what: str, tmp_path: Path) -> None:
    log = rows(40, 0, False)
    with pytest.raises(DataError) as caught:
        keep(rd.RawTables(lambda: iter([log[:20], change(log[20:])])), tmp_path / "stores")
    assert caught.value.what == what
    assert not (tmp_path / "stores").exists()


def test_a_log_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the log has no rows"):
        keep(rd.RawTables(lambda: iter([rows(5, 0, False).clear()])), tmp_path / "stores")
    assert not (tmp_path / "stores").exists()


def test_ids_of_numbers_and_of_texts_in_different_pieces_are_texts(tmp_path: Path) -> None:
    log = rows(30, 1, False)
    mixed = rd.RawTables(lambda: iter([log[:15], log[15:].with_columns(pl.col("user_id").cast(pl.String))]))
    whole = rd.RawTables(log.with_columns(pl.col("user_id").cast(pl.String)))
    assert content(keep(mixed, tmp_path / "a")) == content(keep(whole, tmp_path / "b"))


def test_one_user_with_more_rows_than_a_pile(tmp_path: Path) -> None:
    log = rows(80, 2, False).with_columns(user_id=pl.lit(5, dtype=pl.Int64))
    assert content(keep(rd.RawTables(cut(log, [20, 40], False)), tmp_path / "a")) == content(keep(rd.RawTables(log), tmp_path / "b"))


def test_progress_goes_on_and_ends_at_one(tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    keep(raw(), tmp_path, progress=lambda share, text: told.append((share, text)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert told[-1] == (1.0, "done")
    assert {text.split(":")[0] for _, text in told} == {
        "reading",
        "indexing",
        "dealing rows to ranges of users",
        "sorting and writing",
        "done",
    }


@pytest.mark.parametrize("moment", ["reading", "indexing", "dealing", "sorting"])
def test_interruption_leaves_nothing_behind(moment: str, tmp_path: Path) -> None:
    old = keep(raw(40, 1), tmp_path)
    seen = iter(range(99))

    def stop(share: float, text: str) -> None:
        if text.startswith(moment) and (moment == "indexing" or next(seen) == 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep(raw(), tmp_path, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert rd.open_store(old.path).content_hash == old.content_hash


def test_an_error_of_the_reader_leaves_nothing_behind(tmp_path: Path) -> None:
    log = rows(40, 0, False)

    def read() -> Iterator[pl.DataFrame]:
        yield log[:20]
        yield log[20:]
        raise DataError("line 41 is broken", where="log", mend="mend it")

    with pytest.raises(DataError, match="line 41 is broken"):
        keep(rd.RawTables(read), tmp_path / "stores")
    assert not (tmp_path / "stores").exists()


SCRIPT = """
import resource, sys
import numpy as np
import polars as pl
import recrl_datasets as rd
from recrl.core.errors import StorageError
from recrl_datasets.building import survey, writing
from recrl_datasets.preparing import save

stores, rows, held = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
survey.ROWS_IN_MEMORY = survey.PILE_ROWS = writing.ROWS_IN_MEMORY = held
writing.BLOCK_ROWS = min(1 << 17, held)

def read(piece=100_000):
    for k in range(max(1, rows // piece)):
        rng, count = np.random.default_rng(k), min(rows, piece)
        numbers = {f"x{c}": rng.random(count).astype(np.float32) for c in range(8)}
        yield pl.DataFrame(
            {
                "user_id": rng.integers(0, 20_000, count),
                "item_id": rng.integers(0, 5_000, count),
                "timestamp_ms": 1_700_000_000_000 + rng.integers(0, 10**9, count),
                **numbers,
            }
        )

def keep(reader, **options):
    return save(rd.RawTables(reader), "mine", source=None, stores=stores, fingerprint="", **options)

def peak():
    # of this program alone: ru_maxrss begins with the parent's
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
"""


def run(stores: Path, count: int, held: int, script: str) -> str:
    words = [sys.executable, "-c", SCRIPT + script, str(stores), str(count), str(held)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Two million rows (112 MB as they are read): streamed they take less than 0.6 of what they take in memory, with the same result."""
    measure = "before = peak()\nstore = keep(read)\nprint(store.content_hash, peak() - before)"
    (first, whole), (second, streamed) = (run(tmp_path / str(held), 2_000_000, held, measure).split() for held in (10_000_000, 200_000))
    assert first == second
    assert float(streamed) < 0.6 * float(whole)


def test_a_full_disk_while_rows_are_spooled(tmp_path: Path) -> None:
    """The kernel stops files from growing: at first those of the pieces, then those of the piles."""
    full = """
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (100_000, 1_000_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    told = []
    try:
        keep(lambda: read(20_000), progress=lambda share, text: told.append(text))
    except StorageError as error:
        print(told[-1].split(":")[0], error.what)
"""
    assert run(tmp_path / "stores", 60_000, 30_000, full).splitlines() == [
        "reading cannot write mine: File too large",
        "dealing rows to ranges of users cannot write mine: File too large",
    ]
    assert not (tmp_path / "stores").exists()


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    old = keep(raw(40, 1), tmp_path)
    wait = """
import time
def slow():
    yield from read(1000)
    print("spooled", flush=True)
    time.sleep(60)
keep(slow)
"""
    words = [sys.executable, "-c", SCRIPT + wait, str(tmp_path), "4000", "1000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "spooled\n"
        (folder,) = (path for path in tmp_path.iterdir() if path.name != "mine")
        assert list(folder.glob("spool/*.arrow"))
        # what a living process builds is left alone
        keep(raw(40, 1), tmp_path, force=True)
        assert folder.exists()
        process.send_signal(signal.SIGKILL)
    assert rd.open_store(old.path).content_hash == old.content_hash
    keep(raw(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_store_taken_away_by_a_killed_process_is_put_back(kuairand_folder: Callable[..., Path], tmp_path: Path) -> None:
    root, stores = kuairand_folder(), tmp_path / "stores"
    store = rd.prepare("kuairand-pure", root, stores=stores)
    folder = stores / ".kuairand-pure.k1lled00.tmp"
    folder.mkdir()
    store.path.rename(folder / "old")
    told: list[str] = []
    again = rd.prepare("kuairand-pure", root, stores=stores, progress=lambda share, text: told.append(text))
    assert told[-1] == "already prepared"
    assert again.content_hash == store.content_hash
    assert [path.name for path in stores.iterdir()] == ["kuairand-pure"]
