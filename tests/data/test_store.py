"""The store: canonical content, idempotence, duplicates, and what a broken disk or store gives."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recrl_datasets as rd
from recrl.core.errors import StorageError
from recrl_datasets.store import FORMAT

NOW = 1_700_000_000_000


def frame(rows: int = 200, seed: int = 0) -> pl.DataFrame:
    """A log with many ties, exact duplicates, text codes, missing floats and vectors."""
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user_id": rng.integers(0, 12, rows) * 7,
            "item_id": [f"v{k}" for k in rng.integers(0, 4, rows)],
            "timestamp_ms": NOW + rng.integers(0, 5, rows) * 1000,
            "click": rng.integers(0, 2, rows),
            "watch_seconds": np.where(rng.random(rows) < 0.2, np.nan, rng.integers(0, 3, rows) / 2),
            "session_id": [f"s{k}" for k in rng.integers(0, 3, rows)],
            "action": [[float(k), 0.5] for k in rng.integers(0, 2, rows)],
            "tab": rng.integers(0, 2, rows),
        }
    )


def save(table: pl.DataFrame, stores: Path, name: str = "mine", **options: Any) -> rd.Store:
    return rd.from_frame(table, name, stores=stores, **options)


def everything(store: rd.Store) -> pl.DataFrame:
    return store.log(include_duplicates=True).frame()


def rows_in_any_order(store: rd.Store) -> pl.DataFrame:
    return everything(store).with_columns(pl.col("action").arr.get(0)).sort(pl.all())


@settings(max_examples=25)
@given(seed=st.integers(0, 2**16), rows=st.integers(1, 120), shuffle=st.integers(0, 2**16))
def test_hash_does_not_depend_on_source_order(seed: int, rows: int, shuffle: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    stores = tmp_path_factory.mktemp("s")
    table = frame(rows, seed)
    order = np.random.default_rng(shuffle).permutation(rows)
    first, second = save(table, stores, "first"), save(table[order], stores, "second")
    assert first.content_hash == second.content_hash
    assert first.manifest.duplicate_rows == second.manifest.duplicate_rows == rows - table.unique().height
    assert rows_in_any_order(first).equals(rows_in_any_order(second))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.with_columns(click=1 - pl.col("click")),
        lambda t: t.with_columns(timestamp_ms=pl.col("timestamp_ms") + 1),
        lambda t: t.with_columns(user_id=pl.col("user_id") + 1),
        lambda t: t.with_columns(session_id=pl.col("session_id") + "x"),
        lambda t: t.with_columns(watch_seconds=pl.col("watch_seconds").fill_nan(0.0)),
        lambda t: t.with_columns(action=pl.lit([0.0, 0.0])),
        lambda t: t.drop("tab"),
        lambda t: t.rename({"tab": "tap"}),
        lambda t: t[:-1],
        lambda t: pl.concat([t, t[:1]]),
    ],
)
def test_hash_changes_with_the_content(change: Callable[[pl.DataFrame], pl.DataFrame], tmp_path: Path) -> None:
    assert save(frame(), tmp_path, "a").content_hash != save(change(frame()), tmp_path, "b").content_hash


def test_hash_covers_the_feature_tables(tmp_path: Path) -> None:
    users = pl.DataFrame({"user_id": [0, 7], "age": [3, 4]})
    hashes = {
        save(frame(), tmp_path, "a").content_hash,
        save(frame(), tmp_path, "b", users=users).content_hash,
        save(frame(), tmp_path, "c", users=users.with_columns(age=pl.col("age") + 1)).content_hash,
        save(frame(), tmp_path, "d", users=users[::-1]).content_hash,
    }
    assert len(hashes) == 3  # the order of feature rows does not count


def test_hash_does_not_depend_on_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = save(frame(), tmp_path, "first")
    write = pl.DataFrame.write_parquet
    monkeypatch.setattr(pl.DataFrame, "write_parquet", lambda self, path, **options: write(self, path, compression="lz4", row_group_size=7))
    second = save(frame(), tmp_path, "second")
    assert (first.path / "log.parquet").read_bytes() != (second.path / "log.parquet").read_bytes()
    assert first.content_hash == second.content_hash
    assert everything(second).equals(everything(first))


def test_rows_are_sorted_and_types_narrow(tmp_path: Path) -> None:
    log = save(frame(), tmp_path).log(include_duplicates=True)
    key = np.lexsort((log.column("timestamp_ms"), log.column("user")))
    assert key.tolist() == list(range(log.n_rows))
    kinds = {name: log.column(name).dtype for name in log.columns}
    assert kinds["user"] == kinds["item"] == np.int32
    assert kinds["timestamp_ms"] == np.int64
    assert kinds["click"] == kinds["is_duplicate"] == np.uint8
    assert kinds["watch_seconds"] == kinds["action"] == np.float32
    assert kinds["tab"].itemsize == 1


def test_source_order_breaks_ties(tmp_path: Path) -> None:
    table = pl.DataFrame({"user_id": [1, 1, 1, 1], "item_id": [3, 1, 2, 1], "timestamp_ms": [NOW, NOW, NOW, NOW - 1]})
    assert save(table, tmp_path).log().column("item").tolist() == [0, 2, 0, 1]


def test_indices_follow_sorted_raw_ids(tmp_path: Path) -> None:
    table = pl.DataFrame({"user_id": [10, 9, -3], "item_id": ["b", "a", "10"], "timestamp_ms": [NOW] * 3})
    store = save(table, tmp_path)
    assert store.users["user_id"].to_list() == [-3, 9, 10]
    assert store.items["item_id"].to_list() == ["10", "a", "b"]
    assert store.users["user"].to_list() == [0, 1, 2]


def test_widely_spread_ids_are_indexed_too(tmp_path: Path) -> None:
    ids = [2**62, -(2**62), 0, 2**62]
    store = save(pl.DataFrame({"user_id": ids, "item_id": [1, 2, 3, 4], "timestamp_ms": [NOW] * 4}), tmp_path)
    assert store.users["user_id"].to_list() == sorted(set(ids))
    assert store.log().user_offsets.lengths.tolist() == [1, 1, 2]


def test_duplicates_are_flagged_and_left_out(tmp_path: Path) -> None:
    table = pl.DataFrame({"user_id": [1, 1, 1, 2], "item_id": [3, 3, 3, 3], "timestamp_ms": [NOW] * 4, "click": [1, 1, 0, 1]})
    store = save(table, tmp_path)
    assert (store.manifest.rows, store.manifest.duplicate_rows) == (4, 1)
    assert store.log().n_rows == 3
    assert store.log().column("is_duplicate").tolist() == [0, 0, 0]
    whole = store.log(include_duplicates=True)
    assert whole.column("is_duplicate").sum() == 1
    assert whole.column("click").tolist() == [1, 0, 1, 1] or whole.column("click").tolist() == [1, 1, 0, 1]
    assert whole.content_hash != store.log().content_hash


def test_prepare_is_idempotent(kuairand_folder: Callable[..., Path], tmp_path: Path) -> None:
    root, stores = kuairand_folder(), tmp_path / "stores"
    stages: list[str] = []
    first = rd.prepare("kuairand-pure", root, stores=stores, progress=lambda done, stage: stages.append(stage))
    written = (first.path / "log.parquet").stat().st_mtime_ns
    assert stages[-1] == "done"
    second = rd.prepare("kuairand-pure", root, stores=stores, progress=lambda done, stage: stages.append(stage))
    assert stages[-1] == "already prepared"
    assert (second.path / "log.parquet").stat().st_mtime_ns == written
    again = rd.prepare("kuairand-pure", root, stores=stores, force=True)
    assert (again.path / "log.parquet").stat().st_mtime_ns != written
    assert again.content_hash == first.content_hash
    assert [p.name for p in stores.iterdir()] == ["kuairand-pure"]


def test_changed_source_is_prepared_again(kuairand_folder: Callable[..., Path], tmp_path: Path) -> None:
    root, stores = kuairand_folder(), tmp_path / "stores"
    first = rd.prepare("kuairand-pure", root, stores=stores)
    path = root / "data" / "log_standard_4_22_to_5_08_pure.csv"
    path.write_text(path.read_text().replace("5149", "5150"))
    second = rd.prepare("kuairand-pure", root, stores=stores)
    assert second.content_hash != first.content_hash
    assert rd.open_store(second.path).content_hash == second.content_hash
    (root / "data" / "user_features_pure.csv").write_text("user_id,a\n7,x\n")
    assert "a" in rd.prepare("kuairand-pure", root, stores=stores).users.columns


def test_large_sources_are_known_by_size_time_and_ends(
    kuairand_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recrl_datasets.preparing.SMALL_FILE", 10)
    root, stores = kuairand_folder(), tmp_path / "stores"
    first = rd.prepare("kuairand-pure", root, stores=stores)
    assert rd.prepare("kuairand-pure", root, stores=stores).manifest.fingerprint == first.manifest.fingerprint
    path = root / "data" / "log_standard_4_22_to_5_08_pure.csv"
    path.write_text(path.read_text().replace("5149", "5150"))
    assert rd.prepare("kuairand-pure", root, stores=stores).manifest.fingerprint != first.manifest.fingerprint


def test_random_rows_are_kept_apart(kuairand_folder: Callable[..., Path], tmp_path: Path) -> None:
    text = (kuairand_folder() / "data" / "log_standard_4_22_to_5_08_pure.csv").read_text()
    header, *rows = text.splitlines()
    shown = [r.rsplit(",", 2)[0] + ",1,4" for r in rows]
    random = "\n".join((header, *[r.replace("7,", "8,", 1) if r.startswith("7,") else r for r in shown])) + "\n"
    both = kuairand_folder(files={"log_random_4_22_to_5_08_pure.csv": random})
    store = rd.prepare("kuairand-pure", both, stores=tmp_path / "stores")
    m = store.manifest
    assert (m.rows, m.random_rows, m.duplicate_rows, m.random_duplicate_rows, m.users) == (5, 5, 1, 1, 3)
    assert store.log().column("is_random_exposure").sum() == 0
    assert store.random_log().n_rows == 4
    assert store.random_log().column("is_random_exposure").all()
    assert store.random_log().n_users == store.log().n_users == 3
    assert set(store.users["user_id"][np.unique(store.log().column("user"))]) == {3, 7}
    assert store.random_log().content_hash != store.log().content_hash


def test_only_the_random_log(kuairand_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = kuairand_folder()
    standard = root / "data" / "log_standard_4_22_to_5_08_pure.csv"
    header, *rows = standard.read_text().splitlines()
    (root / "data" / "log_random_4_22_to_5_08_pure.csv").write_text("\n".join((header, *[r.rsplit(",", 2)[0] + ",1,4" for r in rows])))
    standard.unlink()
    store = rd.prepare("kuairand-pure", root, stores=tmp_path / "stores")
    assert (store.manifest.rows, store.manifest.random_rows) == (0, 5)
    assert store.log().n_rows == 0
    assert rd.sessions(store.log()).count == 0
    tables = rd.describe(store)
    assert tables["data_summary"]["rows"].to_list() == [0]
    assert "no rows" in tables["data_quality"]["check"].to_list()
    assert set(tables.figures()) == {"depth", "gaps", "rates", "popularity", "daily"}


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "no store in {path}: manifest.json is missing"),
    "manifest cut off": (lambda p: (p / "manifest.json").write_text('{"format": 1,'), "manifest.json is not valid JSON"),
    "manifest of another kind": (
        lambda p: (p / "manifest.json").write_text("[]"),
        f"the store has format None, this version reads {FORMAT}",
    ),
    "other format": (lambda p: edit(p, format=99), f"the store has format 99, this version reads {FORMAT}"),
    "manifest without counts": (lambda p: edit(p, rows=None), "the store is broken: manifest.json: rows: "),
    "manifest with more": (lambda p: edit(p, extra=1), "the store is broken: manifest.json: unknown key 'extra'"),
    "log missing": (lambda p: (p / "log.parquet").unlink(), "the store is broken: log.parquet is missing"),
    "log cut off": (
        lambda p: (p / "log.parquet").write_bytes((p / "log.parquet").read_bytes()[:-9]),
        "the store is broken: log.parquet has ",
    ),
    "categories missing": (
        lambda p: (p / "categories" / "session_id.parquet").unlink(),
        "the store is broken: categories/session_id.parquet is missing",
    ),
}


def edit(path: Path, **changes: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **changes}))


@pytest.mark.parametrize("case", BREAKS)
def test_broken_stores_are_refused_and_made_again(case: str, tmp_path: Path) -> None:
    store = save(frame(), tmp_path)
    damage, what = BREAKS[case]
    damage(store.path)
    with pytest.raises(StorageError) as caught:
        rd.open_store(store.path)
    assert caught.value.what.startswith(what.format(path=store.path))
    assert caught.value.mend
    assert save(frame(), tmp_path).content_hash == store.content_hash
    assert rd.open_store(store.path).content_hash == store.content_hash


def test_rotten_bytes_are_a_clear_error(tmp_path: Path) -> None:
    store = save(frame(), tmp_path)
    path = store.path / "log.parquet"
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = b"\x55" * (len(content) // 2 - 4)
    path.write_bytes(bytes(content))
    log = rd.open_store(store.path).log()
    with pytest.raises(StorageError, match=r"the store is broken: cannot read log\.parquet"):
        log.frame()


def test_a_store_made_again_is_not_mixed_with_the_open_one(tmp_path: Path) -> None:
    old = save(frame(50), tmp_path)
    log, kept = old.log(), everything(save(frame(50), tmp_path / "kept"))
    save(frame(60), tmp_path)
    assert everything(old).equals(kept)
    assert log.frame().height == old.scan().filter(pl.col("is_duplicate") == 0).collect().height


def test_many_writers_leave_one_whole_store_and_readers_always_find_one(tmp_path: Path) -> None:
    first, over = save(frame(30), tmp_path), threading.Event()

    def read() -> set[str]:
        seen = set()
        while not over.is_set():
            store = rd.open_store(first.path)
            assert store.log().column("item").size == store.manifest.rows - store.manifest.duplicate_rows
            seen.add(store.content_hash)
            over.wait(0.001)
        return seen

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            made = {job.result().content_hash for job in [pool.submit(save, frame(30 + k % 3), tmp_path) for k in range(40)]}
        finally:
            over.set()
        assert {name for reader in readers for name in reader.result()} <= made
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert rd.open_store(first.path).content_hash in made
    assert len(made) == 3


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: pl.DataFrame, path: Path, **options: Any) -> None:
        Path(path).write_bytes(b"half")
        raise pl.exceptions.ComputeError("parquet: File out of specification: underlying IO error: No space left on device (os error 28)")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(StorageError) as caught:
        save(frame(), tmp_path)
    assert caught.value.what == "cannot write mine: No space left on device"
    assert caught.value.mend == "free some disk space, then run the same command again"
    assert list(tmp_path.iterdir()) == []


def test_refusal_by_the_operating_system_leaves_the_old_store(tmp_path: Path) -> None:
    """The real thing: the kernel stops the file from growing while the store is written."""
    old = save(frame(50), tmp_path)
    script = (
        "import resource, signal, sys, numpy as np, polars as pl, recrl_datasets as rd\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "n = 60_000\n"
        "rng = np.random.default_rng(0)\n"
        "table = pl.DataFrame({'user_id': rng.integers(0, 99, n), 'item_id': rng.integers(0, 2**40, n),"
        f" 'timestamp_ms': {NOW} + rng.integers(0, 2**30, n)}})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try:\n    rd.from_frame(table, 'mine', stores=sys.argv[1])\n"
        "except rd_errors.StorageError as error:\n    print(error.what)\n"
    ).replace("import resource,", "import recrl.core.errors as rd_errors, resource,")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "cannot write mine: File too large"
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert rd.open_store(tmp_path / "mine").content_hash == old.content_hash


def test_read_only_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> str:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("recrl_datasets.staging.tempfile.mkdtemp", refuse)
    with pytest.raises(StorageError) as caught:
        save(frame(), tmp_path / "stores")
    assert caught.value.what == "cannot write mine: Read-only file system"
    assert caught.value.mend == "choose a folder on a writable disk"


def test_target_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write mine"):
        save(frame(), tmp_path / "file" / "stores")


@pytest.mark.parametrize(
    "moment",
    [
        "reading",
        "indexing",
        "dealing rows to ranges of users",
        "sorting and writing",
        "while a file is written",
        "while the manifest is written",
    ],
)
def test_interruption_leaves_the_old_store_alone(
    moment: str, kuairand_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, stores = kuairand_folder(), tmp_path / "stores"
    old = rd.prepare("kuairand-pure", root, stores=stores)

    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    def watch(done: float, stage: str) -> None:
        if stage == moment:
            raise KeyboardInterrupt

    if moment == "while a file is written":
        monkeypatch.setattr(pl.DataFrame, "write_parquet", stop)
    if moment == "while the manifest is written":
        monkeypatch.setattr("recrl_datasets.building.writing.write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        rd.prepare("kuairand-pure", root, stores=stores, force=True, progress=watch)
    assert [p.name for p in stores.iterdir()] == ["kuairand-pure"]
    assert rd.open_store(old.path).content_hash == old.content_hash


def test_failed_swap_puts_the_old_store_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = save(frame(50), tmp_path)
    rename = Path.rename

    def fail_once(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(StorageError, match="Permission denied"):
        save(frame(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert rd.open_store(old.path).content_hash == old.content_hash


def test_manifest_is_plain_json(tmp_path: Path) -> None:
    store = save(frame(), tmp_path)
    data = json.loads((store.path / "manifest.json").read_text())
    assert data == json.loads(json.dumps(store.manifest.to_json()))
    assert data["rows"] == 200


def test_folders_with_odd_names(tmp_path: Path) -> None:
    store = save(frame(), tmp_path / "my [best] st*res")
    assert store.scan().collect().height == len(store.log().column("item")) + store.manifest.duplicate_rows
