"""The folder of runs: what is there, what one run holds, and how to be rid of what is not needed. Loads no torch.

Nothing outside the root is ever touched. What is removed is renamed within the root first, so that no reader sees half a run; what a
killed removal left behind is found by :func:`find_waste`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from dashboards import queries
from recrl.core.errors import ConfigError, StorageError
from recrl.core.files import alone_in, storage_error
from recrl.core.runs import RunFolder

_TRASH = ".trash-"


@dataclass(frozen=True)
class RunFacts:
    """One run: ``state`` is as it is now (a killed run is ``stopped``), ``updated`` in seconds since 1970, ``problem`` what is broken."""

    name: str
    kind: str
    state: str
    stage: str
    done: float
    updated: float | None
    bytes: int
    data: str
    seed: int | None
    message: str = ""
    problem: str = ""


@dataclass(frozen=True)
class StreamFacts:
    """A metric stream: its newest step, the step of its newest checkpoint, and each metric's values by step."""

    name: str
    step: int
    checkpoint: int | None
    curves: dict[str, list[float]]


@dataclass(frozen=True)
class Waste:
    """Something that is not needed any more, and why."""

    path: Path
    why: str
    bytes: int


def list_runs(root: Path) -> list[RunFacts]:
    """Every run of the root, the newest first; a broken one with its problem."""
    return [_facts(root, summary) for summary in queries.list_runs(root)]


def facts(root: Path, name: str) -> RunFacts:
    """The run ``name``, given by its name or by its path.

    **Errors**: :class:`StorageError` for what is no run of the root.
    """
    return _facts(root, queries.summary(open_run(root, name)))


def open_run(root: Path, name: str) -> RunFolder:
    """The run ``name`` of the root, given by its name or by its path.

    **Errors**: :class:`StorageError` for what lies elsewhere, does not exist, or is no run.
    """
    path = Path(name)
    if len(path.parts) > 1 and path.parent.resolve() == root.resolve():
        name = path.name
    run = queries.open_run(root, name)
    if not (run.path / "config.json").is_file():
        raise StorageError(f"{name!r} is no run", where=str(run.path), mend="every run folder holds a config.json; `recrl runs list`")
    return run


def _facts(root: Path, summary: queries.RunSummary) -> RunFacts:
    run = RunFolder(root / summary.name)
    try:
        config = queries.config(run)
    except StorageError:
        config = {}
    seed = config.get("seed")
    return RunFacts(
        summary.name,
        summary.kind,
        summary.state,
        summary.stage,
        summary.done,
        summary.updated,
        size_of(run.path),
        str(config.get("data", "")),
        seed if isinstance(seed, int) else None,
        summary.message,
        summary.problem,
    )


def read_metrics(run: RunFolder, stream: str) -> pl.DataFrame:
    """Rows ``step, name, value`` of a metric stream, by step; empty where there is none."""
    parts = sorted((run.path / "metrics" / stream).glob("part-*.parquet"))
    empty = pl.DataFrame(schema={"step": pl.Int64, "name": pl.String, "value": pl.Float64})
    return pl.concat([empty, *(pl.read_parquet(part).select(empty.columns).cast(empty.schema) for part in parts)]).sort("step")


def final_metrics(run: RunFolder, stream: str) -> dict[str, float]:
    """The newest value of each metric of a stream."""
    newest = read_metrics(run, stream).group_by("name", maintain_order=True).agg(pl.col("value").last())
    return dict(newest.iter_rows())


def streams_of(run: RunFolder) -> list[StreamFacts]:
    """The metric streams of a run; parts that cannot be read are passed over."""
    found = []
    for name in queries.streams(run):
        frame = queries.curves(run, name).frame
        curves = {str(metric): rows["value"].to_list() for (metric,), rows in frame.group_by("name", maintain_order=True)}
        steps = _steps(run.checkpoints / name)
        newest = frame["step"].max()
        found.append(
            StreamFacts(name, newest if isinstance(newest, int) else 0, int(steps[-1].name.split("-")[1]) if steps else None, curves)
        )
    return found


def artifacts_of(run: RunFolder) -> dict[str, int]:
    """Files and folders of ``artifacts/`` with their bytes."""
    return {path.name: size_of(path) for path in sorted((run.path / "artifacts").glob("[!.]*"))}


def policies_of(run: RunFolder) -> list[str]:
    """Names of the saved policies."""
    return sorted(path.parent.name for path in (run.path / "artifacts" / "policies").glob("*/policy.json"))


def how_to_go_on(state: str, environment: dict[str, Any]) -> str:
    """The command that goes on with a run, or a word why there is none."""
    command = environment.get("command")
    again = f"recrl {shlex.join(str(word) for word in command[1:])}" if isinstance(command, list) and command else ""
    if state == "running":
        return "it runs now"
    if state == "done":
        return f"it is done; the same command loads what is there: {again}" if again else "it is done"
    return again or "the command is not known"


def removable(root: Path, names: list[str]) -> list[RunFacts]:
    """The runs that these names stand for, each of which may be removed.

    **Errors**: :class:`StorageError` for what is no run of the root, :class:`ConfigError` for one that is running.
    """
    found = [facts(root, name) for name in names]
    for run in found:
        if run.state == "running":
            pid = queries.status(RunFolder(root / run.name)).pid
            raise ConfigError(
                f"run {run.name!r} is running (process {pid})", where=str(root / run.name), mend=f"stop it first: kill -INT {pid}"
            )
    return found


def find_waste(root: Path, *, checkpoints: bool = False) -> list[Waste]:
    """What no run needs any more; runs that are running or broken are left alone.

    Files that were never finished, checkpoints of finished runs (all but the newest, or all with ``checkpoints``), runs that ended
    without any result, and what a killed removal left behind.
    """
    found = [(path, "a removal that was interrupted") for path in sorted(root.glob(f"{_TRASH}*"))]
    for summary in queries.list_runs(root):
        run = RunFolder(root / summary.name)
        if summary.problem or summary.state == "running":
            continue
        if summary.state in ("failed", "stopped") and not run.holds_work:
            found.append((run.path, "a run without any result"))
            continue
        found += [(path, "never finished") for path in _unfinished(run.path)]
        if summary.state == "done":
            for stream in sorted(run.checkpoints.glob("[!.]*")):
                steps = _steps(stream)
                found += [(path, "a checkpoint of a finished run") for path in (steps if checkpoints else steps[:-1])]
    inside = root.resolve()
    return [Waste(path, why, size_of(path)) for path, why in found if path.parent.resolve().is_relative_to(inside)]


def discard(root: Path, path: Path) -> None:
    """Remove a file or folder of the root: it is gone at once, and then its bytes; what is gone already is well.

    **Errors**: :class:`StorageError` where the disk refuses, :class:`ConfigError` where its run goes on again.
    """
    owner = root / path.relative_to(root).parts[0]
    # a run that starts meanwhile waits, and finds it gone
    with alone_in(owner) if owner.is_dir() else contextlib.nullcontext():
        if queries.summary(RunFolder(owner)).state == "running":
            raise ConfigError(f"run {owner.name!r} runs again: nothing of it was removed", where=str(owner), mend="stop it first")
        try:
            trash = root / f"{_TRASH}{os.getpid()}-{secrets.token_hex(4)}"
            path.rename(trash)
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error(error, path) from None
    try:
        if trash.is_dir() and not trash.is_symlink():
            shutil.rmtree(trash)
        else:
            trash.unlink()
    except FileNotFoundError:
        # another process collects what it takes for an interrupted removal
        return
    except OSError as error:
        raise storage_error(error, path) from None


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        try:
            return path.lstat().st_size
        except OSError:
            return 0
    total = 0
    for folder, _, files in os.walk(path):
        for file in files:
            try:
                total += os.lstat(os.path.join(folder, file)).st_size
            except OSError:
                # a run goes on while it is looked at
                continue
    return total


def _unfinished(folder: Path) -> Iterator[Path]:
    for base, folders, files in os.walk(folder):
        for name in [n for n in (*folders, *files) if n.startswith(".") and n.endswith(".tmp")]:
            yield Path(base) / name
        folders[:] = [n for n in folders if not n.startswith(".")]


def _steps(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal())
    except FileNotFoundError:
        # the run was removed while it was looked at
        return []
