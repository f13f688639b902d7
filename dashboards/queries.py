"""What the pages ask of run folders: confined to the runs root, cached by path and modification time, never torch.

Frames are immutable, so a small in-process cache shares them between pages and browser tabs without copies.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl
from polars import selectors

from dashboards.estimated import OF_SESSIONS, apart
from dashboards.schema import TABLES
from recrl.core.errors import StorageError
from recrl.core.files import read_json
from recrl.core.runs import RunFolder, Status

MAX_ROWS = 2_000_000
"""Tables beyond this are no page material; metric streams are thinned and have no such limit."""

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Names that are no path, no option of a command and no markup."""

_MAX_JSON_BYTES = 4_000_000
_LAST_SECOND = datetime.max.replace(tzinfo=UTC).timestamp() - 86_400
_LAST_PID = 2**31 - 1
_PARTS = ("config.json", "status.json", "environment.json", "artifacts", "metrics")
_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError)


@dataclass(frozen=True)
class RunSummary:
    """One line of the runs list; ``problem`` says what keeps it from being read."""

    name: str
    kind: str = ""
    state: str = "unknown"
    stage: str = ""
    done: float = 0.0
    started: float | None = None
    updated: float | None = None
    message: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Curves:
    """A metric stream thinned for drawing.

    ``frame`` holds ``name, step, value, low, high`` (mean, least and largest of each bin of steps); ``broken`` parts could
    not be read; ``not_finite`` values were NaN or infinite.
    """

    frame: pl.DataFrame
    broken: int
    not_finite: int


def runs_root(arguments: Sequence[str] | None = None) -> Path:
    """The folder of runs: ``--runs DIR``, else ``$RECRL_RUNS``, else ``runs``."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--runs", default=os.environ.get("RECRL_RUNS") or "runs")
    known, _ = parser.parse_known_args(sys.argv[1:] if arguments is None else list(arguments))
    return Path(known.runs)


def stores_root() -> Path:
    """The folder of prepared logs: ``$RECRL_STORES``, else ``stores``."""
    return Path(os.environ.get("RECRL_STORES") or "stores").absolute()


def stores() -> list[str]:
    """Prepared logs by name; what leads out of their folder is none."""
    root = stores_root()
    try:
        with os.scandir(root) as entries:
            return sorted(
                entry.name
                for entry in entries
                if PLAIN_NAME.fullmatch(entry.name) and _inside(entry, root) and (root / entry.name / "manifest.json").is_file()
            )
    except OSError:
        return []


def open_run(root: Path, name: str) -> RunFolder:
    """The run ``name`` of the runs root.

    **Errors**: :class:`StorageError` for an unknown name, and for one that leads out of the root (``..``, absolute paths, links).
    """
    folder = root / name
    if not name or len(name) > 255 or Path(name).name != name or "\x00" in name or not _lies_in(folder, root):
        raise StorageError(
            f"no run named {name!r:.80}", where=str(root), mend="choose a run from the list; a run is named by its folder, without a path"
        )
    if not folder.is_dir():
        raise StorageError(f"no run named {name!r:.80}", where=str(root), mend="choose a run from the list, or make one with `recrl demo`")
    return RunFolder(folder)


def list_runs(root: Path) -> list[RunSummary]:
    """Every run of the root, the newest first; a broken one is listed with its problem."""
    try:
        with os.scandir(root) as entries:
            folders = [Path(entry.path) for entry in entries if not entry.name.startswith(".") and _inside(entry, root)]
    except OSError:
        return []
    runs = [summary(RunFolder(folder)) for folder in folders if any((folder / part).exists() for part in _PARTS)]
    return sorted(runs, key=lambda run: (-(run.updated or 0.0), run.name))


def summary(run: RunFolder) -> RunSummary:
    """Kind, state and progress of a run; never raises."""
    try:
        kind, now = _heartbeat(str(run.path), stamp(run.path / "config.json"), stamp(run.path / "status.json"))
    except StorageError as error:
        return RunSummary(run.name, state="broken", problem=error.what)
    # whether its process lives is asked anew each time
    return RunSummary(run.name, kind, now.effective_state, now.stage, now.done, now.started, now.updated, now.message)


@lru_cache(maxsize=4096)
def _heartbeat(path: str, _config: tuple[int, int], _status: tuple[int, int]) -> tuple[str, Status]:
    run = RunFolder(Path(path))
    return str(config(run).get("kind", "")), status(run)


def stamp(path: Path) -> tuple[int, int]:
    """Modification time and size; what is not there has none."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)


def status(run: RunFolder) -> Status:
    """The last heartbeat, with its values checked.

    **Errors**: :class:`StorageError` for a missing or foreign ``status.json``.
    """
    held = _json(run, "status.json")
    try:
        done = float(held.get("done", 0.0))
        return Status(
            state=held["state"] if held["state"] in ("running", "done", "stopped", "failed") else "stopped",
            pid=int(_in_range(int(held["pid"]), 1, _LAST_PID)),
            started=_in_range(float(held["started"]), 0.0, _LAST_SECOND),
            updated=_in_range(float(held["updated"]), 0.0, _LAST_SECOND),
            stage=str(held.get("stage", "")),
            done=min(max(done, 0.0), 1.0) if math.isfinite(done) else 0.0,
            message=str(held.get("message", "")),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        raise StorageError("status.json is not a run's heartbeat", where=str(run.path), mend="run the command of this run again") from None


def _in_range(value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        raise ValueError("not in range")
    return value


def config(run: RunFolder) -> dict[str, Any]:
    """The options the run was started with."""
    return _json(run, "config.json")


def environment(run: RunFolder) -> dict[str, Any]:
    """Versions, command, seed and data hash of the run."""
    return _json(run, "environment.json")


def simulator_law(run: RunFolder) -> dict[str, Any]:
    """The law of return of the run's fitted simulator.

    **Errors**: :class:`StorageError` where it holds none.
    """
    law = _json(run, "artifacts/simulator/world.json").get("retention")
    if not isinstance(law, dict):
        raise StorageError("the simulator names no law of return", where=str(run.path), mend="fit it again: `recrl simulate fit`")
    return law


def has_table(run: RunFolder, name: str) -> bool:
    """Whether the run holds the table."""
    return _table_path(run, name).is_file()


def table(run: RunFolder, name: str) -> pl.DataFrame:
    """A table of ``artifacts/`` with the columns and types of :data:`dashboards.schema.TABLES`.

    Absent decimal numbers are NaN, absent text is empty.

    **Errors**: :class:`StorageError` when it is missing, half-written, too long, or lacks a column.
    """
    path = _table_path(run, name)
    confine(run, path)
    try:
        found = path.stat()
    except OSError:
        raise StorageError(
            f"this run holds no {TABLES[name].title}",
            where=f"artifacts/{name}.parquet",
            mend=f"`{TABLES[name].made_by}` writes it; `recrl demo` goes through the whole loop",
        ) from None
    return _load_table(str(path), name, found.st_mtime_ns, found.st_size)


def other_tables(run: RunFolder, prefix: str) -> dict[str, pl.DataFrame]:
    """Readable tables of ``artifacts/`` that begin with ``prefix`` and have no schema here, by name."""
    found = {}
    for path in sorted((run.path / "artifacts").glob(f"{prefix}*.parquet")):
        try:
            confine(run, path)
            if path.stem not in TABLES:
                found[path.stem] = _load_any(str(path), *stamp(path))
        except (StorageError, *_UNREADABLE):
            continue
    return found


@lru_cache(maxsize=32)
def _load_any(path: str, _modified: int, _size: int) -> pl.DataFrame:
    return pl.scan_parquet(path, glob=False).head(1000).collect()


def streams(run: RunFolder) -> list[str]:
    """Names of the metric streams, those of learners (``train-*``) first."""
    folder = run.path / "metrics"
    confine(run, folder)
    try:
        names = [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return []
    return sorted(names, key=lambda name: (not name.startswith("train-"), name))


def curves(run: RunFolder, stream: str, points: int = 400) -> Curves:
    """A metric stream, thinned to at most ``points`` bins of steps a metric."""
    folder = run.path / "metrics" / stream
    confine(run, folder)
    parts = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not fnmatch(entry.name, "part-*.parquet"):
                continue
            # what is no link lies in its folder, which was looked at: following each of many parts takes longer than all else
            if entry.is_symlink():
                confine(run, Path(entry.path))
            with contextlib.suppress(OSError):
                found = entry.stat()
                parts.append((entry.path, found.st_mtime_ns, found.st_size))
    return _load_curves(tuple(sorted(parts)), points)


def main_signal(run: RunFolder, estimates: pl.DataFrame) -> str:
    """The signal the run optimises where it was estimated, else the first estimated one."""
    estimated = estimates["signal"].unique(maintain_order=True).to_list()
    try:
        options = config(run)
    except StorageError:
        options = {}
    objective = options.get("objective")
    main = objective.get("main") if isinstance(objective, dict) else None
    wanted = main.get("name") if isinstance(main, dict) else options.get("signal")
    return str(wanted) if wanted in estimated else str(estimated[0]) if estimated else ""


def main_estimator(estimates: pl.DataFrame) -> str:
    """The estimator whose verdicts are the best; of equals the last, as the more careful ones stand later.

    Estimators of a session answer another question than those of a shown item, so they are chosen only where there are no others.
    """
    worth = pl.col("verdict").replace_strict({"trust": 2, "caution": 1}, default=0, return_dtype=pl.Int64).mean()
    policies = estimates.filter(pl.col("policy") != "logged")
    of_items = policies.filter(~pl.col("estimator").is_in(OF_SESSIONS))
    ranked = (
        (of_items if of_items.height else policies)
        .group_by("estimator", maintain_order=True)
        .agg(worth=worth)
        .reverse()
        .sort("worth", descending=True, maintain_order=True)
    )
    return str(ranked["estimator"][0]) if ranked.height else ""


def by_estimator(estimates: pl.DataFrame, estimator: str) -> pl.DataFrame:
    """The rows of one estimator, with the log's own value of the same kind: a shown item's, or a session's."""
    same_kind = pl.col("estimator").is_in(OF_SESSIONS) == (estimator in OF_SESSIONS)
    return estimates.filter((pl.col("estimator") == estimator) | ((pl.col("policy") == "logged") & same_kind))


def main_estimates(estimates: pl.DataFrame) -> list[pl.DataFrame]:
    """Of one signal's rows those of the main estimator, with the log's own; of items first, then of sessions."""
    return [by_estimator(part, main_estimator(part)) for part in apart(estimates).values()]


def clear() -> None:
    """Forget every cached frame."""
    _heartbeat.cache_clear()
    _load_table.cache_clear()
    _load_curves.cache_clear()


def _table_path(run: RunFolder, name: str) -> Path:
    return run.path / "artifacts" / f"{name}.parquet"


@lru_cache(maxsize=128)
def _load_table(path: str, name: str, _modified: int, _size: int) -> pl.DataFrame:
    spec = TABLES[name]
    again = "run the command of this run again; it writes the table anew"
    try:
        scan = pl.scan_parquet(path, glob=False)
        held = scan.collect_schema().names()
        scan = scan.with_columns(pl.lit(None).alias(column) for column in spec.later if column not in held)
        lacking = [column for column in spec.columns if column not in held and column not in spec.later]
        if lacking:
            raise StorageError(
                f"the {spec.title} table lacks the columns {', '.join(lacking)}", where=f"artifacts/{name}.parquet", mend=again
            )
        rows = scan.select(pl.len()).collect().item()
        if rows > MAX_ROWS:
            raise StorageError(
                f"the {spec.title} table has {rows:,} rows; pages show up to {MAX_ROWS:,}", where=path, mend="read it with polars"
            )
        columns = [pl.col(column).cast(kind) for column, kind in spec.columns.items()]
        return scan.select(columns).with_columns(selectors.float().fill_null(math.nan), selectors.string().fill_null("")).collect()
    except _UNREADABLE as error:
        raise StorageError(
            f"the {spec.title} table cannot be read: {str(error).splitlines()[0]:.160}", where=f"artifacts/{name}.parquet", mend=again
        ) from None


@lru_cache(maxsize=64)
def _load_curves(parts: tuple[tuple[str, int, int], ...], points: int) -> Curves:
    scans = [_scan_part(path) for path, _, _ in parts]
    broken = 0
    try:
        return _thin(scans, points, 0)
    except _UNREADABLE:
        readable = [scan for scan in scans if _reads(scan)]
        broken = len(scans) - len(readable)
    return _thin(readable, points, broken)


def _scan_part(path: str) -> pl.LazyFrame:
    return pl.scan_parquet(path, glob=False).select(
        pl.col("step").cast(pl.Int64), pl.col("name").cast(pl.String), pl.col("value").cast(pl.Float64)
    )


def _reads(scan: pl.LazyFrame) -> bool:
    try:
        scan.collect()
    except _UNREADABLE:
        return False
    return True


def _thin(scans: list[pl.LazyFrame], points: int, broken: int) -> Curves:
    empty = pl.LazyFrame(schema={"step": pl.Int64, "name": pl.String, "value": pl.Float64})
    rows = pl.concat([empty, *scans]).drop_nulls(["step", "name"])
    finite = pl.col("value").is_finite().fill_null(False)
    first, last = pl.col("step").min().over("name"), pl.col("step").max().over("name")
    bins = (
        rows.filter(finite)
        .with_columns(((pl.col("step") - first) * points // (last - first + 1)).alias("bin"))
        .group_by("name", "bin")
        .agg(pl.col("step").max(), pl.col("value").mean(), low=pl.col("value").min(), high=pl.col("value").max())
        .drop("bin")
        .sort("name", "step")
    )
    frame, odd = pl.collect_all([bins, rows.select((~finite).sum())])
    return Curves(frame, broken, int(odd.item()))


def _json(run: RunFolder, name: str) -> dict[str, Any]:
    path = run.path / name
    confine(run, path)
    if stamp(path)[1] > _MAX_JSON_BYTES:
        raise StorageError(f"{name} is larger than any run writes", where=str(path), mend="run the command of this run again")
    held = read_json(path)
    if not isinstance(held, dict):
        raise StorageError(f"{name} holds no object", where=str(path), mend="run the command of this run again")
    return held


def confine(run: RunFolder, path: Path) -> None:
    """Refuse a path that leads out of the run's folder by a link.

    **Errors**: :class:`StorageError` naming it.
    """
    if not _lies_in(path, run.path):
        raise StorageError(f"{path.name} leads out of the run folder", where=str(run.path), mend="replace the link by the file itself")


def confine_folder(run: RunFolder, folder: Path) -> None:
    """Refuse a folder that leads out of the run's, or holds what does.

    **Errors**: :class:`StorageError` naming it.
    """
    for path in (folder, *folder.rglob("*")):
        confine(run, path)


def policies(run: RunFolder) -> list[str]:
    """Saved policies of the run that lie in its folder, by name."""
    folder = run.path / "artifacts" / "policies"
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if PLAIN_NAME.fullmatch(entry.name) and _inside(entry, run.path)]
    except OSError:
        return []
    # asked each time: a policy's folder stands before its last file does
    held = sorted(name for name in found if (folder / name / "policy.json").is_file())
    return held if held and _lies_in(folder, run.path) else []


def has_simulator(run: RunFolder) -> bool:
    """Whether a fitted simulator lies in the run's folder."""
    world = run.path / "artifacts" / "simulator" / "world.json"
    return world.is_file() and _lies_in(world, run.path)


def _inside(entry: os.DirEntry[str], root: Path) -> bool:
    """Whether a folder's entry is a folder that lies in it; one that is no link does."""
    try:
        return entry.is_dir() and (not entry.is_symlink() or _lies_in(Path(entry.path), root))
    except OSError:
        return False


def _lies_in(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        return False
