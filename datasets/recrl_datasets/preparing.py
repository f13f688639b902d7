"""Preparing a dataset: read, index, write beside its place, then put it there whole."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, StorageError
from recrl_datasets.building.writing import write_store
from recrl_datasets.loaders.registry import find_source
from recrl_datasets.staging import remove_stale, staging
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
        mend = f"give --root DIR; `recrl data download {name}` fetches it ({source.title})"
        raise ConfigError(f"dataset {name!r} needs the folder it was downloaded to", where="root", mend=mend)
    return prepare_source(source, None if root is None else Path(root), stores=stores, force=force, progress=progress)


def prepare_source(
    source: DatasetSource,
    folder: Path | None,
    *,
    options: str = "",
    stores: Path | str = "stores",
    force: bool = False,
    progress: Progress | None = None,
) -> Store:
    """As :func:`prepare`, for a source that need not be registered; ``options`` is what else decides the store, for its fingerprint."""
    name = source.name
    report = progress or (lambda done, text: None)
    report(0.0, "looking at the files")
    fingerprint = source_fingerprint(source, source.files(folder), options)
    remove_stale(Path(stores) / name)
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
    source: DatasetSource | Manifest | None,
    stores: Path | str,
    fingerprint: str,
    force: bool = False,
    progress: Progress = lambda done, text: None,
    appended: tuple[str, ...] = (),
    replaces: int | None = None,
) -> Store:
    """Index ``raw`` and write it as the store ``stores/name``, replacing the store that is there once the new one is whole.

    A log handed over as a reader is sorted in bounded memory; what is stored does not depend on how it was handed over. An
    empty ``fingerprint`` stands for the content itself: an equal store that is there already is left as it is. ``source``, or the
    manifest of an earlier store of the same data, gives title, licence and citation. ``replaces`` is the inode of the only store
    that may be replaced.

    **Errors**: :class:`DataError` for what the tables hold, :class:`StorageError` for what the disk refuses.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ConfigError(f"{name!r} is not a name for a store", where="name", mend="use letters, digits, '.', '_' and '-', at most 64")
    path = Path(stores) / name
    with staging(path) as stage:
        manifest = write_store(stage, raw, name, source, fingerprint, progress, appended)
        held = None if force else _same_store(path, manifest.fingerprint)
        if held is not None:
            progress(1.0, "already prepared")
            return held
        store = Store(path, manifest, stage.part("new"))
        stage.swap(replaces)
    progress(1.0, "done")
    return store


def source_fingerprint(source: DatasetSource, files: Mapping[str, Path], options: str = "") -> str:
    """Hash of the files' names, sizes and content (beyond 64 MiB: size, modification time, first and last MiB) and of ``options``."""
    digest = hashlib.sha256(f"recrl store {FORMAT} {source.name} {options}".rstrip().encode())
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
