"""``recrl runs list | show | rm | gc``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dashboards import queries
from recrl.console import Talk, human_bytes, sparkline
from recrl.core.errors import ConfigError, StorageError
from recrl.core.runs import RunFolder
from recrl.pipeline import runs as folder

_VERSIONS_SHOWN = ("python", "torch", "numpy", "polars")
_OPTIONS_SHOWN = 120


@dataclass(frozen=True)
class ListOptions:
    """The runs of a folder.

    Attributes:
        kind: only runs of this kind: `demo`, `train`, `online`, `ope`, `ab`, `simulator`, ...
        state: only runs in this state; a killed run is `stopped`.
        data: only runs on this data.
        name: only runs whose name contains this.
        sort: by the last sign of life (newest first), by name, or by size (largest first).
        runs: where runs live.
    """

    kind: str = ""
    state: Literal["any", "running", "done", "stopped", "failed", "broken"] = "any"
    data: str = ""
    name: str = ""
    sort: Literal["age", "name", "size"] = "age"
    runs: Path = Path("runs")


@dataclass(frozen=True)
class ShowOptions:
    """One run.

    Attributes:
        run: its name, or its path.
        runs: where runs live.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    runs: Path = Path("runs")


@dataclass(frozen=True)
class RemoveOptions:
    """Runs to remove.

    Attributes:
        run: their names, or their paths.
        yes: do not ask; needed where no terminal is there to ask.
        runs: where runs live.
    """

    run: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    yes: bool = False
    runs: Path = Path("runs")


@dataclass(frozen=True)
class CollectOptions:
    """What no run needs any more.

    Attributes:
        checkpoints: remove every checkpoint of finished runs, not only those before the newest.
        dry_run: only say what would be removed.
        runs: where runs live.
    """

    checkpoints: bool = False
    dry_run: bool = False
    runs: Path = Path("runs")


def list_runs(options: ListOptions, talk: Talk) -> None:
    """Print the runs."""
    wanted = {"kind": options.kind, "state": options.state.removeprefix("any"), "data": options.data}
    found = [
        run
        for run in folder.list_runs(options.runs)
        if options.name in run.name and all(not value or getattr(run, field) == value for field, value in wanted.items())
    ]
    if options.sort != "age":
        found.sort(key=lambda run: (-run.bytes if options.sort == "size" else 0, run.name))
    columns = ["name", "kind", "state", "done", "age", "size", "data", "seed"]
    rows = [
        [r.name, r.kind, r.state, f"{r.done:.0%}", _age(r.updated), human_bytes(r.bytes), r.data, "" if r.seed is None else str(r.seed)]
        for r in found
    ]
    talk.table(f"{len(found)} runs in {options.runs}", columns, rows)
    for run in found:
        if run.problem or (run.state == "failed" and run.message):
            talk.say(f"{run.name}: {run.problem or run.message.splitlines()[0]}")
    talk.result({"runs": [asdict(run) for run in found]})


def show_run(options: ShowOptions, talk: Talk) -> None:
    """Print what a run was asked, how far it is, and what it holds."""
    run, facts = folder.open_run(options.runs, options.run), folder.facts(options.runs, options.run)
    config, environment = (_or_empty(read, run) for read in (queries.config, queries.environment))
    streams, artifacts, policies = folder.streams_of(run), folder.artifacts_of(run), folder.policies_of(run)
    talk.say(f"{facts.name}: {facts.kind or 'run'}, {facts.state}, {facts.done:.0%} {facts.stage}".rstrip())
    talk.say(f"{run.path}, {human_bytes(facts.bytes)}, last sign of life {_age(facts.updated)} ago")
    for line in (facts.problem, facts.message):
        if line:
            talk.say(line)
    talk.table("Options", ["", ""], [[name, _short(value)] for name, value in _flat(config)])
    told = {name: environment[name] for name in ("data_hash", "device", "platform") if environment.get(name)}
    versions = environment.get("versions")
    if isinstance(versions, dict):
        told["versions"] = ", ".join(f"{name} {versions[name]}" for name in _VERSIONS_SHOWN if name in versions)
    talk.table("Environment", ["", ""], [[name, _short(value)] for name, value in told.items()])
    for stream in streams:
        kept = "no checkpoint" if stream.checkpoint is None else f"checkpoint of step {stream.checkpoint:,}"
        rows = [[name, f"{values[-1]:.4g}", sparkline(values)] for name, values in stream.curves.items() if values]
        talk.table(f"{stream.name}: step {stream.step:,}, {kept}", ["metric", "newest", "by step"], rows)
    talk.table("Artifacts", ["", "size"], [[name, human_bytes(size)] for name, size in artifacts.items()])
    if policies:
        talk.say(f"policies: {', '.join(policies)}")
    go_on = folder.how_to_go_on(facts.state, environment)
    talk.say(f"go on:    {go_on}")
    talk.result(
        {
            **asdict(facts),
            "config": config,
            "environment": environment,
            "streams": [
                {**asdict(stream), "curves": {name: values[-1] for name, values in stream.curves.items() if values}} for stream in streams
            ],
            "artifacts": artifacts,
            "policies": policies,
            "go_on": go_on,
        }
    )


def remove_runs(options: RemoveOptions, talk: Talk) -> None:
    """Ask, then remove."""
    names = list(dict.fromkeys(options.run))
    if not names:
        raise ConfigError("no run is named", where="recrl runs rm", mend="recrl runs list")
    found = folder.removable(options.runs, names)
    size = human_bytes(sum(run.bytes for run in found))
    if not options.yes:
        if talk.as_json or not sys.stdin.isatty():
            raise ConfigError(f"nobody to ask whether {len(found)} runs ({size}) may go", where="recrl runs rm", mend="say --yes")
        talk.warn("\n".join(f"{run.name}  {run.kind}, {run.state}, {human_bytes(run.bytes)}" for run in found))
        if input(f"remove {len(found)} runs ({size}) for good? [y/N] ").strip().lower() not in ("y", "yes"):
            talk.say("nothing was removed")
            talk.result({"removed": [], "bytes": 0})
            return
    for run in found:
        folder.discard(options.runs, options.runs / run.name)
        talk.say(f"removed {run.name} ({human_bytes(run.bytes)})")
    talk.result({"removed": [run.name for run in found], "bytes": sum(run.bytes for run in found)})


def collect_waste(options: CollectOptions, talk: Talk) -> None:
    """Remove what no run needs any more, or say what that would be."""
    found = folder.find_waste(options.runs, checkpoints=options.checkpoints)
    if not options.dry_run:
        found = [waste for waste in found if _removed(options.runs, waste.path)]
    rows = [[str(waste.path.relative_to(options.runs)), waste.why, human_bytes(waste.bytes)] for waste in found]
    if rows:
        talk.table("Would be removed" if options.dry_run else "Removed", ["path", "why", "size"], rows)
    total = sum(waste.bytes for waste in found)
    talk.say(f"{len(found)} things, {human_bytes(total)}" + (" (nothing was touched)" if options.dry_run else ""))
    told = [{"path": str(waste.path), "why": waste.why, "bytes": waste.bytes} for waste in found]
    talk.result({"dry_run": options.dry_run, "waste": told, "bytes": total})


def _removed(root: Path, path: Path) -> bool:
    try:
        folder.discard(root, path)
    except ConfigError:
        # its run was started again since
        return False
    return True


def _or_empty(read: Any, run: RunFolder) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read(run)
    except StorageError:
        return {}
    return found


def _flat(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _OPTIONS_SHOWN else f"{text[: _OPTIONS_SHOWN - 3]}..."


def _age(updated: float | None) -> str:
    if updated is None:
        return "?"
    seconds = max(0.0, time.time() - updated)
    for limit, unit, name in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} d"
