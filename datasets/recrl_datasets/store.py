"""The prepared dataset on disk: sorted Parquet, feature tables, and a manifest with the content hash.

::

    <stores>/<name>/
      manifest.json          counts, columns, content hash, findings; written last: without it there is no store
      log.parquet            rows sorted by (user, timestamp_ms, source order); exact duplicates flagged, after all others
      random.parquet         rows shown at random, kept apart (may be empty)
      users.parquet          user, user_id, features; row k is user k
      items.parquet          item, item_id, features; row k is item k
      categories/<column>.parquet   texts behind the codes of a text column
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recrl.core.config import from_dict, to_dict
from recrl.core.errors import ConfigError, StorageError
from recrl.core.files import read_json
from recrl_datasets.log import AnyArray, ColumnBlock, Log
from recrl_datasets.staging import remove_stale, standing_still
from recrl_datasets.tables import Finding

FORMAT = 2
"""Version of the layout; a store of another one is made again."""
_AGAIN = "prepare the dataset again"


@dataclass(frozen=True)
class Manifest:
    """What a store holds.

    ``rows`` counts the log with its duplicates; ``users`` and ``items`` also those of the random log. ``separate_random`` says
    whether rows shown at random are kept apart, also where there are none yet. ``appended`` are the fingerprints of what
    `recrl data append` put in since.
    """

    format: int
    name: str
    title: str
    licence: str
    citation: str
    rows: int
    users: int
    items: int
    duplicate_rows: int
    random_rows: int
    random_duplicate_rows: int
    separate_random: bool
    first_ms: int
    last_ms: int
    content_hash: str
    fingerprint: str
    columns: tuple[str, ...]
    random_columns: tuple[str, ...]
    categories: tuple[str, ...]
    leaky_items: tuple[str, ...]
    findings: tuple[Finding, ...]
    files: Mapping[str, int]
    appended: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``manifest.json`` and ``--json``."""
        return to_dict(self)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read ``manifest.json``.

        **Errors**: :class:`StorageError` where it is missing, broken or of another format.
        """
        data = read_json(path)
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise StorageError(f"the store has format {found!r}, this version reads {FORMAT}", where=str(path), mend=_AGAIN)
        try:
            return from_dict(cls, data)
        except ConfigError as error:
            raise StorageError(f"the store is broken: manifest.json: {error.what}", where=str(path), mend=_AGAIN) from None


class Store:
    """A prepared dataset, opened for reading; columns are decoded when they are first used.

    Its files stay open: who has a store goes on reading it when a newer one takes its place.

    Args:
        path: where the store stands.
        manifest: what it holds.
        folder: where its files are now, if they are about to be moved to ``path``.
    """

    def __init__(self, path: Path, manifest: Manifest, folder: Path | None = None) -> None:
        self.path, self.manifest = path, manifest
        self._files = _OpenFiles(path, manifest.files, folder or path)

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.manifest.name

    @property
    def content_hash(self) -> str:
        """Hash of the content, whatever the order of the source's rows and however it is stored."""
        return self.manifest.content_hash

    def __repr__(self) -> str:
        m = self.manifest
        return f"Store({m.name!r}: {m.rows:,} rows, {m.users:,} users, {m.items:,} items at {self.path})"

    def log(self, *, include_duplicates: bool = False) -> Log:
        """The logged rows; exact duplicates only where asked for.

        Without them the view shares the store's memory; with them rows are put in order once more.
        """
        return self._view("log", self.manifest.duplicate_rows, include_duplicates)

    def random_log(self, *, include_duplicates: bool = False) -> Log:
        """The rows shown at random, kept apart from the log; without rows where the dataset has none."""
        return self._view("random", self.manifest.random_duplicate_rows, include_duplicates)

    @cached_property
    def users(self) -> pl.DataFrame:
        """One row a user, in index order: ``user``, ``user_id`` and features."""
        return self._table("users.parquet")

    @cached_property
    def items(self) -> pl.DataFrame:
        """One row an item, in index order: ``item``, ``item_id`` and features."""
        return self._table("items.parquet")

    def scan(self) -> pl.LazyFrame:
        """The log's file as a lazy Polars scan, duplicates included (``is_duplicate``), text columns as codes."""
        return self.scan_file("log.parquet")

    def scan_file(self, name: str) -> pl.LazyFrame:
        """One of the store's files (``log.parquet``, ``items.parquet``, ...) as a lazy Polars scan."""
        with reading(self.path / name):
            return pl.scan_parquet(self._files[name])

    def _table(self, name: str) -> pl.DataFrame:
        with reading(self.path / name):
            return pl.read_parquet(self._files[name])

    @cached_property
    def _blocks(self) -> dict[str, ColumnBlock]:
        m, files = self.manifest, self._files
        return {
            "log": ColumnBlock(m.rows, m.columns, lambda name: files.column("log.parquet", name)),
            "random": ColumnBlock(m.random_rows, m.random_columns, lambda name: files.column("random.parquet", name)),
        }

    def _view(self, part: str, duplicates: int, include_duplicates: bool) -> Log:
        block, m = self._blocks[part], self.manifest
        index: slice | np.ndarray | None = slice(0, block.rows - duplicates)
        content_hash = m.content_hash
        if include_duplicates and duplicates:
            index = np.lexsort((block["timestamp_ms"], block["user"]))
        if include_duplicates or part == "random":
            content_hash = hashlib.sha256(f"{m.content_hash} {part} {include_duplicates}".encode()).hexdigest()
        return Log(
            block,
            n_users=m.users,
            n_items=m.items,
            content_hash=content_hash,
            observed_until_ms=m.last_ms,
            categories=self._categories,
            user_keys=lambda: _stable_keys(self.users["user_id"]),
            index=index,
        )

    @cached_property
    def _categories(self) -> dict[str, list[str]]:
        return {name: self._table(f"categories/{name}.parquet")["text"].to_list() for name in self.manifest.categories}


class _OpenFiles:
    """The files of a store, open until nobody reads them any more."""

    def __init__(self, path: Path, sizes: Mapping[str, int], folder: Path) -> None:
        self._path = path
        self._files: dict[str, BinaryIO] = {}
        weakref.finalize(self, _close, self._files)
        for name, size in sizes.items():
            try:
                self._files[name] = (folder / name).open("rb")
                found = os.fstat(self._files[name].fileno()).st_size
            except OSError as error:
                what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
                raise StorageError(f"the store is broken: {name} {what}", where=str(path), mend=_AGAIN) from None
            if found != size:
                raise StorageError(f"the store is broken: {name} has {found} bytes instead of {size}", where=str(path), mend=_AGAIN)

    def __getitem__(self, name: str) -> BinaryIO:
        return self._files[name]

    def column(self, file: str, name: str) -> AnyArray:
        """One column of a file as an array."""
        with reading(self._path / file):
            series = pl.read_parquet(self._files[file], columns=[name])[name].rechunk()
        if series.dtype == pl.Date:
            return series.to_physical().cast(pl.Int64).to_numpy().view("datetime64[D]")
        return series.to_numpy(allow_copy=False)


def _close(files: dict[str, BinaryIO]) -> None:
    for file in files.values():
        file.close()


def open_store(path: Path | str) -> Store:
    """Open a prepared store.

    **Errors**: :class:`StorageError` where there is none, or it is broken or half there.
    """
    folder = Path(path)
    store = _read_store(folder)
    if store is None:
        # a process that was killed while it replaced the store left it aside
        remove_stale(folder)
        store = _read_store(folder)
    if store is None:
        raise StorageError(
            f"no store in {folder}: manifest.json is missing",
            where=str(folder),
            mend="check the path, or make it with `recrl data prepare`",
        )
    return store


def _read_store(folder: Path) -> Store | None:
    with standing_still(folder):
        return Store(folder, Manifest.read(folder / "manifest.json")) if (folder / "manifest.json").is_file() else None


def _stable_keys(ids: pl.Series) -> NDArray[np.int64]:
    """Numbers stand for themselves, texts for 64 bits of their hash."""
    if ids.dtype != pl.String:
        return ids.to_numpy()
    words = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in ids)
    return np.frombuffer(words, dtype="<i8").astype(np.int64)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Failures to read a file of a store as errors that say so.

    **Errors**: :class:`StorageError`.
    """
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StorageError(f"the store is broken: cannot read {path.name} ({first:.120})", where=str(path.parent), mend=_AGAIN) from None
