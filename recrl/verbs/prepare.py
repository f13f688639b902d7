"""``recrl data prepare | append``: official files, atomic files or a log of one's own into a store."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import recrl_datasets as rd
from recrl.console import Talk
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError
from recrl_datasets.loaders.atomic_log import TimeUnit
from recrl_datasets.own_file import OwnRows, read_own_rows


@dataclass(frozen=True)
class PrepareOptions:
    """Official files, atomic files, or a log of one's own to a store.

    Attributes:
        data: name of a dataset, see `recrl data list`; with --log or --atomic, a name for the store.
        root: folder of the dataset's official files, where it needs one.
        log: a log of your own: .parquet, .csv or .tsv with a header.
        atomic: folder with the atomic files of RecBole of a dataset that is not on the list (`NAME.inter`, `.user`, `.item`).
        columns: with --log or --atomic, columns with other names than the schema's: `timestamp_ms=time` (with --atomic,
            `timestamp_ms=` leaves one out).
        feedback: with --log or --atomic, what makes a behaviour: `click=label` (0 or 1), or `click=rating:3` (at least 3).
        users: with --log, a file of features by `user_id`.
        items: with --log, a file of features by `item_id`.
        timestamp_unit: with --log or --atomic, unit of the times; `auto` tells it by the first row; with --atomic, `rows` makes times
            of the rows' order.
        stores: where prepared stores live.
        force: prepare again although an up-to-date store is there.
    """

    data: Annotated[str, tyro.conf.Positional]
    root: Path | None = None
    log: Path | None = None
    atomic: Path | None = None
    columns: tuple[str, ...] = ()
    feedback: tuple[str, ...] = ()
    users: Path | None = None
    items: Path | None = None
    timestamp_unit: TimeUnit = "auto"
    stores: Path = Path("stores")
    force: bool = False


@dataclass(frozen=True)
class AppendOptions:
    """New rows into a store.

    Attributes:
        store: name of a store, or its path.
        root: folder with new files of the registered dataset that the store holds.
        log: new rows of your own: .parquet, .csv or .tsv with a header.
        columns: with --log, columns with other names than the schema's: `timestamp_ms=time`.
        feedback: with --log, what makes a behaviour: `click=label` (0 or 1), or `click=rating:3` (at least 3).
        users: with --log, a file of features by `user_id`, new ones or others than before.
        items: with --log, a file of features by `item_id`, likewise.
        timestamp_unit: with --log, unit of the times; `auto` tells it by the first row.
        stores: where prepared stores live.
    """

    store: Annotated[str, tyro.conf.Positional]
    root: Path | None = None
    log: Path | None = None
    columns: tuple[str, ...] = ()
    feedback: tuple[str, ...] = ()
    users: Path | None = None
    items: Path | None = None
    timestamp_unit: Literal["auto", "s", "ms", "us"] = "auto"
    stores: Path = Path("stores")


def prepare_dataset(options: PrepareOptions, talk: Talk) -> None:
    """Prepare a store and print its counts."""
    progress = talk.progress("prepare")
    _refuse_together(options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rd.RowsAsClustersWarning)  # it is among the findings
        if options.log is not None:
            rows = _own_rows(options, options.log)
            store = rd.from_frame(rows.frame, options.data, stores=options.stores, progress=progress, **rows.arguments)
        elif options.atomic is not None:
            store = _from_atomic(options, options.atomic, progress)
        else:
            store = rd.prepare(options.data, root=options.root, stores=options.stores, force=options.force, progress=progress)
    talk.result(show_store(store, talk))


def append_rows(options: AppendOptions, talk: Talk) -> None:
    """Append to a store, and print what that changed."""
    _refuse_together(options)
    path = next((p for p in (options.stores / options.store, Path(options.store)) if p.is_dir()), options.stores / options.store)
    before = rd.open_store(path).manifest
    progress = talk.progress("append")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rd.RowsAsClustersWarning)
        if options.log is None:
            store = rd.append(path, root=options.root, progress=progress, caller=rd.Caller("recrl data append"))
        else:
            rows = _own_rows(options, options.log)
            store = rd.append(path, rows.frame, progress=progress, **rows.arguments)
    talk.close()
    after = store.manifest
    told = ("rows", "random_rows", "duplicate_rows", "users", "items")
    counts = {name: (getattr(before, name), getattr(after, name)) for name in told}
    changed = before.appended != after.appended
    if changed:
        rows_shown = [[name.replace("_", " "), f"{old:,}", f"{new:,}", f"{new - old:+,}"] for name, (old, new) in counts.items()]
        talk.table(after.title, ["", "before", "now", ""], rows_shown)
    else:
        talk.say("appended before: nothing to do")
    talk.say(f"store: {store.path}")
    result = {"path": str(store.path), "changed": changed, "content_hash": after.content_hash}
    talk.result({"name": after.name, **result, "before": _named(counts, 0), "now": _named(counts, 1)})


def _named(counts: Mapping[str, tuple[int, int]], which: int) -> dict[str, int]:
    return {name: pair[which] for name, pair in counts.items()}


_WITH = {
    "columns": ("log", "atomic"),
    "feedback": ("log", "atomic"),
    "timestamp_unit": ("log", "atomic"),
    "users": ("log",),
    "items": ("log",),
}


def _refuse_together(options: PrepareOptions | AppendOptions) -> None:
    """At most one source, and no option that is not about it."""
    given = [name for name in ("root", "log", "atomic") if getattr(options, name, None) is not None]
    if len(given) > 1:
        raise ConfigError(f"--{given[0]} and --{given[1]} are both given", where=f"--{given[0]}", mend="give one of them")
    for name, sources in _WITH.items():
        if getattr(options, name) != getattr(type(options), name) and not set(sources) & set(given):
            option, kinds = f"--{name.replace('_', '-')}", [f"--{source}" for source in sources if hasattr(options, source)]
            raise ConfigError(f"{option} goes with {' or '.join(kinds)}", where=option, mend=f"give {' or '.join(kinds)}, or leave it out")


def _own_rows(options: PrepareOptions | AppendOptions, log: Path) -> OwnRows:
    return read_own_rows(
        log,
        columns=_pairs(options.columns, "--columns"),
        feedback=_pairs(options.feedback, "--feedback"),
        users=options.users,
        items=options.items,
        timestamp_unit=options.timestamp_unit,
    )


def _from_atomic(options: PrepareOptions, folder: Path, progress: Progress) -> rd.Store:
    return rd.from_atomic(
        folder,
        options.data,
        columns=_pairs(options.columns, "--columns"),
        feedback=_pairs(options.feedback, "--feedback"),
        timestamp_unit=options.timestamp_unit,
        stores=options.stores,
        force=options.force,
        progress=progress,
    )


def _pairs(words: tuple[str, ...], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in words:
        ours, equals, theirs = word.partition("=")
        if not equals or ours in pairs:
            what = f"{ours!r} is given twice" if equals else f"{word!r} is not a pair"
            raise ConfigError(what, where=option, mend="write our name, `=`, the field, each name once")
        pairs[ours] = theirs
    return pairs


def show_store(store: rd.Store, talk: Talk) -> dict[str, Any]:
    """Print a store's counts and findings, and return them."""
    talk.close()
    m = store.manifest
    counts = {name: getattr(m, name) for name in ("rows", "users", "items", "duplicate_rows", "random_rows", "content_hash")}
    talk.table(
        m.title, ["", ""], [[name.replace("_", " "), f"{value:,}" if isinstance(value, int) else value] for name, value in counts.items()]
    )
    for finding in m.findings:
        talk.say(f"{finding.severity}: {finding.check}: {finding.note} ({finding.count:,})")
    talk.say(f"store: {store.path}")
    return {"name": m.name, "path": str(store.path), **counts, "findings": [vars(f) for f in m.findings]}
