"""The run folder: what a run was asked, what it ran on, and what came out; readable while the run goes on.

::

    <runs>/<name>/
      config.json            the resolved configuration
      environment.json       versions, command, seed, data hash
      status.json            state, process, progress, heartbeat
      metrics/<stream>/part-000000.parquet ...   append-only, one part a flush
      checkpoints/           newest exact state
      artifacts/             tables (Parquet), report.html
      tensorboard/<stream>/  the same metrics for TensorBoard, where asked for

Every file appears whole: written beside its place, then moved.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError, StorageError
from recrl.core.files import alone_in, atomic_path, read_json, sweep, write_json

RunState = Literal["running", "done", "stopped", "failed"]
# boot time is a whole second, and clocks are set now and then
_CLOCK_SLACK_SECONDS = 5.0
_PACKAGES = ("torch", "numpy", "pandas", "polars", "pyarrow", "lightgbm", "recbole", "streamlit", "gymnasium", "scipy")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages results depend on; ``absent`` where one is not installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


@dataclass(frozen=True)
class Status:
    """State of a run as its last heartbeat left it."""

    state: RunState
    pid: int
    started: float
    updated: float
    stage: str = ""
    done: float = 0.0
    message: str = ""

    @property
    def effective_state(self) -> RunState:
        """``running`` only while its process is alive on this machine; a killed run reads ``stopped``."""
        return "stopped" if self.state == "running" and not _alive(self.pid, self.updated) else self.state


def _alive(pid: int, seen: float) -> bool:
    """Whether the process that was ``pid`` at time ``seen`` still runs."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        boot = next(int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
        born = boot + int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError, StopIteration):
        return True
    # a zombie still answers to signal 0, and after a restart another process may have the number
    return after_name[0] != "Z" and born <= seen + _CLOCK_SLACK_SECONDS


class RunFolder:
    """One run on disk. Make it with :meth:`create`, look at it with :meth:`open`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        kind: str,
        config: Mapping[str, Any],
        seed: int,
        data_hash: str = "",
        device: str = "cpu",
        command: Sequence[str] | None = None,
    ) -> RunFolder:
        """Start a run in ``path``, or go on with the one there if it was asked the same.

        **Errors**: :class:`ConfigError` when the folder holds a run with another configuration, or one that another process is at.
        """
        run = cls(Path(path))
        # through JSON, so that a tuple asked for equals the list read back
        wanted = json.loads(json.dumps({"kind": kind, "seed": seed, **config}))
        with alone_in(run.path):
            run._refuse_company()
            sweep(run.path)
            run._settle_config(wanted)
            run._settle_environment(seed, data_hash, device, command)
            run.set_status("running", started=time.time())
        return run

    def _settle_config(self, wanted: dict[str, Any]) -> None:
        path = self.path / "config.json"
        held = read_json(path) if path.exists() else None
        if held == wanted:
            return
        if held is not None and self.holds_work:
            changed = sorted(k for k in held.keys() | wanted.keys() if held.get(k) != wanted.get(k))
            raise ConfigError(
                f"run {self.name!r} was started with other options: {', '.join(changed)}",
                where=str(self.path),
                mend="choose another run name, or remove the folder",
            )
        write_json(path, wanted)

    def _settle_environment(self, seed: int, data_hash: str, device: str, command: Sequence[str] | None) -> None:
        path = self.path / "environment.json"
        first = read_json(path) if path.exists() and self.holds_work else None
        if first is None:
            environment = {
                "versions": package_versions(),
                "seed": seed,
                "data_hash": data_hash,
                "device": device,
                "command": list(command or sys.argv),
                "platform": platform.platform(),
            }
            write_json(path, environment)
        # a run that goes on keeps the environment it was started in
        elif first["data_hash"] != data_hash:
            raise ConfigError(
                f"run {self.name!r} was made from other data (hash {first['data_hash'][:12]}, now {data_hash[:12]})",
                where=str(self.path),
                mend="choose another run name, or remove the folder",
            )

    def _refuse_company(self) -> None:
        try:
            held = self.status
        except (StorageError, TypeError):
            return
        if held.effective_state == "running" and held.pid != os.getpid():
            raise ConfigError(
                f"process {held.pid} is at work in run {self.name!r}",
                where=str(self.path),
                mend="wait for it, stop it, or choose another run name",
            )

    @property
    def holds_work(self) -> bool:
        """Whether there is any result; a run that failed before its first one may be started again with other options."""
        for part in ("checkpoints", "metrics", "artifacts"):
            # os.walk passes over what another process removes meanwhile
            for _, folders, files in os.walk(self.path / part):
                # a name with a leading dot was never finished
                folders[:] = [name for name in folders if not name.startswith(".")]
                if any(not name.startswith(".") for name in files):
                    return True
        return False

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """An existing run, for reading.

        **Errors**: :class:`StorageError` when there is no run.
        """
        run = cls(Path(path))
        if not (run.path / "config.json").is_file():
            raise StorageError(f"no run in {run.path}", where=str(run.path), mend="check the name; every run folder holds a config.json")
        return run

    @property
    def name(self) -> str:
        """Folder name of the run."""
        return self.path.name

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration the run was started with."""
        data: dict[str, Any] = read_json(self.path / "config.json")
        return data

    @property
    def status(self) -> Status:
        """State and progress."""
        return Status(**read_json(self.path / "status.json"))

    def set_status(self, state: RunState, *, stage: str = "", done: float = 0.0, message: str = "", started: float | None = None) -> None:
        """Write the heartbeat; ``done`` is the finished share of the run, 0 to 1."""
        if started is None:
            started = self.status.started
        write_json(
            self.path / "status.json",
            {
                "state": state,
                "pid": os.getpid(),
                "started": started,
                "updated": time.time(),
                "stage": stage,
                "done": done,
                "message": message,
            },
        )

    def heartbeats(self, show: Progress) -> Progress:
        """A reporter that tells ``show`` and writes the heartbeat."""

        def report(done: float, text: str) -> None:
            show(done, text)
            self.set_status("running", stage=text, done=done)

        return report

    @contextmanager
    def running(self) -> Iterator[RunFolder]:
        """Mark the run stopped (Ctrl-C) or failed when the block ends so, else done, unless the block itself has set another state."""
        try:
            yield self
        except KeyboardInterrupt:
            last = self.status
            self.set_status("stopped", stage=last.stage, done=last.done, message="interrupted; run the same command to go on")
            raise
        except BaseException as error:
            # a full disk may refuse this too; the first error is the one to show
            with suppress(StorageError):
                last = self.status
                self.set_status("failed", stage=last.stage, done=last.done, message=str(error))
            raise
        if self.status.state == "running":
            self.set_status("done", done=1.0)

    def write_table(self, name: str, table: pa.Table) -> Path:
        """Write a result table to ``artifacts/<name>.parquet``, atomically."""
        return _write_parquet(self.path / "artifacts" / f"{name}.parquet", table)

    def append_metrics(self, stream: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append ``rows`` (``step``, ``name``, ``value`` and any labels) as one more part of a metric stream."""
        if not rows:
            return
        folder = self.path / "metrics" / stream
        parts = sorted(folder.glob("part-*.parquet"))
        number = int(parts[-1].stem.split("-")[1]) + 1 if parts else 0
        _write_parquet(folder / f"part-{number:06d}.parquet", pa.Table.from_pylist([dict(row) for row in rows]))

    def truncate_metrics(self, stream: str, after_step: int) -> None:
        """Drop metric rows beyond ``after_step``: a resumed run writes them again."""
        for part in sorted((self.path / "metrics" / stream).glob("part-*.parquet")):
            table = pq.read_table(part)
            kept = table.filter(pa.compute.less_equal(table["step"], after_step))
            if kept.num_rows == 0:
                part.unlink()
            elif kept.num_rows < table.num_rows:
                _write_parquet(part, kept)

    def artifact(self, name: str) -> Path:
        """Path of an artifact (its folder exists)."""
        path = self.path / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.path / "checkpoints"


def _write_parquet(path: Path, table: pa.Table) -> Path:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return path
