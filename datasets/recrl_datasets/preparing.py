"""Preparing a dataset: read, index, write beside its place, then put it there whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, StorageError
from recrl.core.files import storage_error, write_json
from recrl_datasets.indexing import IndexedTables, index_tables
from recrl_datasets.registry import find_source
from recrl_datasets.store import FORMAT, Manifest, Store, open_store
from recrl_datasets.tables import DatasetSource, RawTables

SMALL_FILE = 64 << 20
"""Source files up to this size (bytes) are recognised by their whole content."""


def prepare(
    name: str, root: Path | str | None = None, *, stores: Path | str = "stores", force: bool = False, progress: Progress | None = None
) -> Store:
    """Read a registered dataset and store it in ``stores/name``; when the same files are there already, only open it.

    The source's fingerprint covers names, sizes and content (beyond 64 MiB: size, modification time, first and last MiB).
    ``force`` makes the store again all the same.

    **Errors**: :class:`ConfigError` for an unknown name or a missing root; :class:`DataError` and :class:`StorageError` for
    what is wrong with the files or the disk. Nothing half-written is left.
    """
    source = find_source(name)
    if source.needs_root and root is None:
        raise ConfigError(f"dataset {name!r} needs the folder it was downloaded to", where="root", mend=f"give --root DIR ({source.title})")
    folder = None if root is None else Path(root)
    report = progress or (lambda done, text: None)
    report(0.0, "looking at the files")
    fingerprint = _fingerprint(source, source.files(folder))
    held = None if force else _same_store(Path(stores) / name, fingerprint)
    if held is not None:
        report(1.0, "already prepared")
        return held
    report(0.05, "reading")
    raw = source.load(folder)
    return save(raw, name, source=source, stores=stores, fingerprint=fingerprint, force=force, progress=report)


def save(
    raw: RawTables,
    name: str,
    *,
    source: DatasetSource | None,
    stores: Path | str,
    fingerprint: str,
    force: bool = False,
    progress: Progress = lambda done, text: None,
) -> Store:
    """Index ``raw`` and write it as the store ``stores/name``, replacing the store that is there once the new one is whole.

    An empty ``fingerprint`` stands for the content itself: an equal store that is there already is left as it is.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ConfigError(f"{name!r} is not a name for a store", where="name", mend="use letters, digits, '.', '_' and '-', at most 64")
    progress(0.5, "sorting and indexing")
    tables = index_tables(raw)
    fingerprint = fingerprint or f"content {tables.content_hash}"
    path = Path(stores) / name
    held = None if force else _same_store(path, fingerprint)
    if held is not None:
        progress(1.0, "already prepared")
        return held
    progress(0.7, "writing")
    with _replacing(path) as folder:
        manifest = _write(folder, tables, name, source, fingerprint)
    progress(1.0, "done")
    return Store(path, manifest)


def _fingerprint(source: DatasetSource, files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256(f"recrl store {FORMAT} {source.name}".encode())
    for name in sorted(files):
        path = files[name]
        try:
            stat = path.stat()
            digest.update(f"\n{name} {stat.st_size} ".encode())
            with path.open("rb") as file:
                if stat.st_size <= SMALL_FILE:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
                else:
                    digest.update(f"{stat.st_mtime_ns} ".encode() + file.read(1 << 20))
                    file.seek(max(stat.st_size - (1 << 20), 0))
                    digest.update(file.read(1 << 20))
        except OSError as error:
            raise StorageError(
                f"cannot read {path.name}: {error.strerror}", where=str(path), mend="check the path and its permissions"
            ) from None
    return digest.hexdigest()


def _same_store(path: Path, fingerprint: str) -> Store | None:
    """The whole store in ``path`` if it was made from the same source."""
    with contextlib.suppress(StorageError):
        store = open_store(path)
        if store.manifest.fingerprint == fingerprint:
            return store
    return None


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling folder that takes the place of ``path`` when the block succeeds, and vanishes when it does not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        folder.chmod(0o755)
    except OSError as error:
        raise storage_error(error, path) from None
    try:
        yield folder
        _swap(folder, path)
    except OSError as error:
        raise storage_error(error, path) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _swap(folder: Path, path: Path) -> None:
    """Put ``folder`` in the place of ``path``; another process may do the same at the same time."""
    for attempt in range(10):
        aside = folder.with_suffix(f".old{attempt}")
        try:
            with contextlib.suppress(FileNotFoundError):
                path.rename(aside)
            folder.rename(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            if aside.exists() and not path.exists():
                aside.rename(path)
            shutil.rmtree(aside, ignore_errors=True)
    raise OSError(errno.EBUSY, "other processes keep replacing it")


def _write_parquet(frame: pl.DataFrame, path: Path) -> None:
    try:
        # one row group up to four million rows: a column is then one piece of memory
        frame.write_parquet(path, compression="zstd", compression_level=1, row_group_size=1 << 22)
    except pl.exceptions.PolarsError as error:
        code = re.search(r"os error (\d+)", str(error))
        number = int(code.group(1)) if code else errno.EIO
        raise OSError(number, os.strerror(number)) from None


def _write(folder: Path, tables: IndexedTables, name: str, source: DatasetSource | None, fingerprint: str) -> Manifest:
    frames = {"log.parquet": tables.log, "random.parquet": tables.random, "users.parquet": tables.users, "items.parquet": tables.items}
    frames |= {f"categories/{column}.parquet": texts.to_frame("text") for column, texts in tables.categories.items()}
    sizes = {}
    for file, frame in frames.items():
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        _write_parquet(frame, path)
        sizes[file] = path.stat().st_size
    times = [frame["timestamp_ms"] for frame in (tables.log, tables.random) if frame.height]
    manifest = Manifest(
        format=FORMAT,
        name=name,
        title=source.title if source else name,
        licence=source.licence if source else "the user's own data",
        citation=source.citation if source else "",
        rows=tables.log.height,
        users=tables.users.height,
        items=tables.items.height,
        duplicate_rows=tables.duplicate_rows,
        random_rows=tables.random.height,
        random_duplicate_rows=int(tables.random["is_duplicate"].sum()),
        first_ms=min(int(t.min()) for t in times),  # type: ignore[arg-type]
        last_ms=max(int(t.max()) for t in times),  # type: ignore[arg-type]
        content_hash=tables.content_hash,
        fingerprint=fingerprint,
        columns=tuple(tables.log.columns),
        random_columns=tuple(tables.random.columns),
        categories=tuple(tables.categories),
        leaky_items=tables.leaky_items,
        findings=tables.findings,
        files=sizes,
    )
    write_json(folder / "manifest.json", manifest.to_json())
    return manifest
