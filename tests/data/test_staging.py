"""Stores that several processes and threads make, replace and open at the same time."""

from __future__ import annotations

import fcntl
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

import recrl_datasets as rd
from recrl.core.errors import StorageError
from recrl_datasets.staging import standing_still

NOW = 1_700_000_000_000


def rows(first: int, count: int = 6) -> pl.DataFrame:
    at = range(first, first + count)
    return pl.DataFrame({"user_id": [k % 3 for k in at], "item_id": list(at), "timestamp_ms": [NOW + k for k in at]})


def save(stores: Path, first: int = 0) -> rd.Store:
    return rd.from_frame(rows(first), "mine", stores=stores)


def test_many_readers_after_a_killed_writer_all_find_the_store(tmp_path: Path) -> None:
    held, together = save(tmp_path), threading.Barrier(4)

    def read() -> str:
        together.wait(60)
        return rd.open_store(held.path).content_hash

    with ThreadPoolExecutor(4) as pool:
        for k in range(10):
            # where a kill between the two renames of a swap leaves it
            (tmp_path / f".mine.{k}.tmp").mkdir()
            held.path.rename(tmp_path / f".mine.{k}.tmp" / "old")
            assert {job.result() for job in [pool.submit(read) for _ in range(4)]} == {held.content_hash}
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_store_behind_a_link_stands_still_too(tmp_path: Path) -> None:
    held, opened = save(tmp_path / "there"), threading.Event()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine").symlink_to(held.path)

    def read() -> None:
        rd.open_store(tmp_path / "here" / "mine")
        opened.set()

    with standing_still(held.path, fcntl.LOCK_EX):
        reader = threading.Thread(target=read)
        reader.start()
        assert not opened.wait(0.3), "opened while it was being replaced"
    assert opened.wait(60)
    reader.join()


def test_a_path_that_leads_through_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="no store in"):
        rd.open_store(tmp_path / "file" / "b" / "c")


def test_append_from_within_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(save(tmp_path).path)
    assert rd.append(".", rows(6)).log().n_rows == 12
    assert rd.open_store(tmp_path / "mine").log().n_rows == 12


def test_append_does_not_replace_a_store_that_was_made_again_meanwhile(tmp_path: Path) -> None:
    held = save(tmp_path)

    def make_again(done: float, text: str) -> None:
        if done == 0.0:
            save(tmp_path, first=50)

    with pytest.raises(StorageError, match="mine was made again meanwhile, and stays"):
        rd.append(held.path, rows(6), progress=make_again)
    assert rd.open_store(held.path).items["item_id"].min() == 50
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_vanishes_while_a_store_is_begun_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recrl_datasets import staging

    make, gone = staging.tempfile.mkdtemp, []

    def vanish(**asked: str) -> str:
        if not gone:
            gone.append(shutil.rmtree(asked["dir"]))
        return make(**asked)

    monkeypatch.setattr(staging.tempfile, "mkdtemp", vanish)
    assert save(tmp_path / "stores").log().n_rows == 6
    assert gone
