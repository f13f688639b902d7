"""New rows into a store: what is there is read back with its raw ids, the new rows follow, and the store is made again beside its place.

Appending in any number of pieces gives the store that preparing everything at once gives: the same rows, indices and content hash.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, DataError, StorageError
from recrl_datasets.building.digests import TableDigest
from recrl_datasets.building.merging import merged_features
from recrl_datasets.fitting import OWN_CLUSTERS, Fit
from recrl_datasets.frame import Caller, frame_tables
from recrl_datasets.loaders.registry import REGISTRY
from recrl_datasets.preparing import save, source_fingerprint
from recrl_datasets.staging import standing_still
from recrl_datasets.store import Manifest, Store, open_store
from recrl_datasets.tables import Finding, PieceReader, RawTables

_APPEND = Caller("append")
_COUNTED_ANEW = ("features of unknown users", "features of unknown items", "users without features", "items without features")
_OF_ROWS = (OWN_CLUSTERS, "clusters stand for users", "behaviours are a surrogate")


def append(
    store: Store | Path | str,
    frame: Any = None,
    *,
    root: Path | str | None = None,
    columns: Mapping[str, str] | None = None,
    feedback: Mapping[str, str | pl.Expr] | None = None,
    users: Any = None,
    items: Any = None,
    timestamp_unit: str = "ms",
    progress: Progress | None = None,
    caller: Caller = _APPEND,
) -> Store:
    """Put new rows into a store, and return the store as it is then; what was appended before is recognised and left alone.

    The result is the store that preparing all rows at once would have given: new users and items get in, dense indices are numbered
    anew, rows that repeat earlier ones exactly are flagged. It takes the old store's place whole; until then that one is in force.

    Args:
        store: a prepared store, or its path.
        frame: new rows of one's own, as for :func:`recrl_datasets.from_frame`. They must have the columns of the store; only
            ``watch_seconds``, ``duration_seconds`` and ``rating`` may be missing on either side (missing values).
        root: instead, a folder with new files of the registered dataset that the store holds, in its official layout.
        columns: schema name -> column of ``frame``, where they differ.
        feedback: behaviour -> column of ``frame`` or expression.
        users: features by ``user_id``: a row replaces what it names of that user; other users, and features not named, stay.
        items: features by ``item_id``, likewise.
        timestamp_unit: unit of a timestamp column of numbers: ``ms``, ``s`` or ``us``.
        progress: called with the finished share and a line of text.
        caller: how errors are worded.

    **Errors**: :class:`DataError` for rows that do not fit, :class:`ConfigError` for a bad option, :class:`StorageError` for what the
    disk refuses or where another process appends to the same store. The store is then as it was.

    >>> import polars as pl, tempfile
    >>> import recrl_datasets as rd
    >>> monday = pl.DataFrame({"user_id": ["bob"], "item_id": [7], "timestamp_ms": [1_700_000_000_000]})
    >>> tuesday = pl.DataFrame({"user_id": ["ann"], "item_id": [5], "timestamp_ms": [1_700_090_000_000]})
    >>> store = append(rd.from_frame(monday, "mine", stores=tempfile.mkdtemp()), tuesday)
    >>> store.users["user_id"].to_list(), store.log().n_rows
    (['ann', 'bob'], 2)
    """
    # a path like `.` has no name to put the new store under
    path = Path(os.path.abspath(store.path if isinstance(store, Store) else store))
    report = progress or (lambda done, text: None)
    with _alone(path) as (held, inode):
        _refuse_wrong_source(held.manifest, frame is not None, root is not None, caller)
        if root is not None and any(given is not None for given in (columns, feedback, users, items)):
            raise ConfigError(
                "columns, feedback and features are for rows of one's own", where=caller.place("root"), mend="give root=DIR alone"
            )
        report(0.0, "looking at the new rows")
        if root is not None:
            source = REGISTRY[held.name]
            fingerprint = source_fingerprint(source, source.files(Path(root)))
            new = None if _has(held, fingerprint) else source.load(Path(root))
            caller = Caller(file=str(root))
        else:
            new = frame_tables(
                frame, columns=columns, feedback=feedback, users=users, items=items, timestamp_unit=timestamp_unit, caller=caller
            )
            _refuse_other_users(held.manifest, new.findings, caller)
            fingerprint = _rows_fingerprint(new)
        if new is None or _has(held, fingerprint):
            report(1.0, "already appended")
            return held
        return _append(held, new, fingerprint, caller, report, replaces=inode)


def _append(held: Store, new: RawTables, fingerprint: str, caller: Caller, progress: Progress, replaces: int) -> Store:
    m = held.manifest
    findings = list(m.findings)
    fit = Fit(held, caller)

    def note() -> None:
        # readers add to their findings until they have ended
        findings[:] = _joined(m.findings, (*new.findings, *fit.left_out.values()))

    def rows() -> Iterator[pl.DataFrame]:
        pieces = iter((new.log,)) if isinstance(new.log, pl.DataFrame) else new.log()
        head = fit.new(next(pieces))
        yield from fit.old()
        yield head
        yield from map(fit.new, pieces)
        note()

    def noted(reader: PieceReader) -> PieceReader:
        def read() -> Iterator[pl.DataFrame]:
            yield from reader()
            note()

        return read

    merged = [merged_features(held, what, table) for what, table in (("user", new.users), ("item", new.items))]
    users, items = (None if readers is None else [noted(reader) for reader in readers] for readers in merged)
    leaky = tuple(dict.fromkeys((*m.leaky_items, *new.leaky_items)))
    # items that no row of the store shows stay in its catalogue
    raw = RawTables(rows, m.separate_random, users, items, findings, leaky, held.items["item_id"])
    return save(
        raw,
        held.path.name,
        source=m,
        stores=held.path.parent,
        fingerprint="" if m.fingerprint.startswith("content ") else m.fingerprint,
        force=True,
        progress=progress,
        appended=(*m.appended, fingerprint),
        replaces=replaces,
    )


def _has(held: Store, fingerprint: str) -> bool:
    return fingerprint in (held.manifest.fingerprint, *held.manifest.appended)


def _rows_fingerprint(new: RawTables) -> str:
    """Hash of rows and feature rows, whatever their order."""
    digest = hashlib.sha256()
    for name, table in (("log", new.log), ("users", new.users), ("items", new.items)):
        if isinstance(table, pl.DataFrame):
            table = table.select(sorted(table.columns))
            ordered = table.sort([n for n, dtype in table.schema.items() if not dtype.is_nested()], maintain_order=True)
            columns = TableDigest(name, ordered.schema)
            columns.update(ordered)
            digest.update(columns.digest())
    return f"rows {digest.hexdigest()}"


def _joined(held: Sequence[Finding], new: Sequence[Finding]) -> list[Finding]:
    """Findings of both; counts of rows add up, others say the larger."""
    out: dict[tuple[str, str, str], Finding] = {}
    for finding in (*held, *new):
        if finding.check in _COUNTED_ANEW:
            continue
        key = (finding.check, finding.severity, finding.note)
        before = out[key].count if key in out else 0
        count = before + finding.count if finding.check in _OF_ROWS else max(before, finding.count)
        out[key] = Finding(finding.check, count, finding.severity, finding.note)
    return list(out.values())


def _refuse_wrong_source(m: Manifest, frame: bool, root: bool, caller: Caller) -> None:
    if frame == root:
        raise ConfigError(
            "there is nothing to append" if not frame else "both rows and a folder are given",
            where=caller.call,
            mend="give new rows (--log FILE; in Python a frame), or the folder of new files of a registered dataset (--root DIR)",
        )
    if root and m.name not in REGISTRY:
        raise ConfigError(f"{m.name!r} is not a registered dataset", where=caller.place("root"), mend="give new rows of your own")
    if frame and m.name in REGISTRY:
        raise ConfigError(
            f"{m.name!r} is a registered dataset: rows of one's own do not belong to it",
            where=caller.place("frame"),
            mend="give root=DIR with new files of it, or make a store of your own",
        )


def _refuse_other_users(m: Manifest, new: Sequence[Finding], caller: Caller) -> None:
    before, now = (any(f.check == OWN_CLUSTERS for f in findings) for findings in (m.findings, new))
    if before != now:
        what = "the new rows have a user_id, the store's rows are" if before else "the store has a user_id, the new rows are"
        raise DataError(f"{what} their own clusters", where=caller.place("frame"), mend="give both a user_id, or neither")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[tuple[Store, int]]:
    """The store and its inode, for one appending process at a time.

    **Errors**: :class:`StorageError` where there is no store, or another process appends to it.
    """
    while True:
        open_store(path)
        with standing_still(path):
            handle = os.open(path, os.O_RDONLY) if path.exists() else -1
        if handle < 0:
            continue
        try:
            inode = os.fstat(handle).st_ino
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(
                    "another process is appending to the store", where=str(path), mend="wait until it is done, then run the command again"
                ) from None
            # where the store was made again in between, the new one is locked
            store = open_store(path)
            with standing_still(path):
                same = path.exists() and inode == path.stat().st_ino
            if same:
                yield store, inode
                return
        finally:
            os.close(handle)
