"""One user's rows of a prepared log, in sessions; read from the store that a run was made from, one user at a time.

Stores lie beside the runs, in ``$RECRL_STORES`` (default ``stores``), each a folder named like its dataset. A run's own words lead to
no other place: the name must be a plain one, and the content must be what the run was made from.
"""

from __future__ import annotations

from functools import lru_cache

import polars as pl

from dashboards import queries
from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import StorageError
from recrl.core.runs import RunFolder
from recrl_datasets.log import Log
from recrl_datasets.sessions import SessionRule, sessions
from recrl_datasets.store import Store, open_store

_KEPT = ("item", "timestamp_ms", "local_date", "request_id", "watch_seconds", "rating", *BEHAVIOURS)


def store_of(run: RunFolder) -> Store:
    """The store the run was made from.

    **Errors**: :class:`StorageError` where the run names none, or the store is absent, broken or of other content.
    """
    name = str(queries.config(run).get("data", ""))
    if not queries.PLAIN_NAME.fullmatch(name):
        raise StorageError("this run does not name its log", where=str(run.path), mend="runs of `recrl data describe` and `recrl demo` do")
    store = named(name)
    if store.content_hash != queries.environment(run).get("data_hash"):
        raise StorageError(f"the prepared log {name!r} is not the one this run was made from", where=str(store.path), mend=_mend(name))
    return store


def named(name: str) -> Store:
    """The prepared log of that name.

    **Errors**: :class:`StorageError` where it is absent or broken, and for a name that leads elsewhere.
    """
    root = queries.stores_root()
    absent = StorageError(f"no prepared log {name!r:.120} is here", where=str(root), mend=_mend(name))
    if not queries.PLAIN_NAME.fullmatch(name):
        raise absent
    folder = root / name
    try:
        manifest = (folder / "manifest.json").stat()
        within = folder.resolve().is_relative_to(root.resolve())
    except OSError:
        raise absent from None
    if not within:
        raise absent
    return _open(str(folder), manifest.st_mtime_ns, manifest.st_ino)


def _mend(name: str) -> str:
    return f"`recrl data prepare {name}` makes it; `RECRL_STORES` says where stores lie"


@lru_cache(maxsize=4)
def _open(folder: str, _modified: int, _inode: int) -> Store:
    return open_store(folder)


def user_ids(store: Store) -> pl.Series:
    """What the log calls its users, in the store's order."""
    return store.users["user_id"]


def user_rows(store: Store, user: int, rule: str) -> pl.DataFrame:
    """Rows of one user in time, without duplicates, with ``session`` (from 0), ``place`` (from 1 in its session) and ``started``.

    ``rule`` is the run's session rule; ``auto`` means calendar days where the log names them.
    """
    scan = store.scan().filter((pl.col("user") == user) & (pl.col("is_duplicate") == 0))
    rows = scan.collect()
    rows = rows.select(column for column in _KEPT if column in rows.columns)
    columns = {
        name: rows[name].to_physical().cast(pl.Int64).to_numpy().view("datetime64[D]") if name == "local_date" else rows[name].to_numpy()
        for name in rows.columns
        if name in ("item", "timestamp_ms", "local_date", "request_id")
    }
    cut: SessionRule = "day" if rule == "day" or (rule != "gap" and "local_date" in rows.columns) else "gap"
    log = Log.from_arrays(
        {"user": pl.zeros(rows.height, pl.Int32, eager=True).to_numpy(), **columns}, n_users=1, n_items=max(store.manifest.items, 1)
    )
    found = sessions(log, rule=cut)
    session = pl.Series("session", found.requests.through(found.rows).segment_ids(), dtype=pl.Int64)
    time = pl.from_epoch("timestamp_ms", time_unit="ms")
    return rows.with_columns(session, time=time).with_columns(
        place=pl.int_range(1, pl.len() + 1).over("session"), started=pl.col("time").min().over("session")
    )
