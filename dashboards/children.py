"""Commands that a page starts: children of the server that run the command line, write run folders, and can be told to stop.

A page knows its children as long as the server lives; their runs are in the runs root whatever becomes of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from recrl.core.errors import ConfigError, RecrlError

MOST_AT_WORK = 2
_TAIL = 65_536


@dataclass(eq=False)
class Child:
    """One started command; its run is ``run``."""

    run: Path
    command: tuple[str, ...]
    process: subprocess.Popen[bytes]
    out: IO[bytes]
    told_to_stop: bool = False

    @property
    def running(self) -> bool:
        """Whether it is still at work."""
        return self.process.poll() is None

    def stop(self) -> None:
        """Ctrl-C, which keeps everything so far; asked again, the end of the process."""
        if not self.running:
            return
        try:
            os.killpg(self.process.pid, signal.SIGTERM if self.told_to_stop else signal.SIGINT)
        except ProcessLookupError:
            return
        self.told_to_stop = True

    def outcome(self) -> RecrlError | None:
        """What went wrong, with its mend; None while it runs, and where it is done or was told to stop."""
        if self.running or self.process.returncode == 0 or self.told_to_stop:
            return None
        try:
            told = json.loads(self._last_line())["error"]
            return RecrlError(str(told["what"]), where=str(told["where"]), mend=str(told["mend"]))
        except (ValueError, KeyError, TypeError):
            what = f"the command ended with status {self.process.returncode}"
            return RecrlError(what, mend=f"run it in a terminal: `{self.shown}`")

    def _last_line(self) -> str:
        end = self.out.seek(0, os.SEEK_END)
        self.out.seek(max(end - _TAIL, 0))
        lines = self.out.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    @property
    def shown(self) -> str:
        """The command as one types it."""
        return " ".join(("recrl", *self.command))


_CHILDREN: dict[Path, Child] = {}
_LOCK = threading.Lock()


def start(run: Path, command: Sequence[str]) -> Child:
    """Start ``recrl COMMAND --json``, whose run folder is ``run``.

    **Errors**: :class:`ConfigError` where the folder exists, or two commands are at work.
    """
    with _LOCK:
        at_work = [child for child in _CHILDREN.values() if child.running]
        if len(at_work) >= MOST_AT_WORK:
            raise ConfigError(f"{len(at_work)} commands are at work", where="dashboard", mend="wait for one, or stop it")
        if run.exists():
            raise ConfigError(f"a run {run.name!r:.80} exists", where="run", mend="choose another name")
        words = (*command, "--json")
        out = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        # a group of its own: the server's Ctrl-C is not the child's, and the child's reaches its workers
        process = subprocess.Popen(
            [sys.executable, "-m", "recrl.cli", *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        child = Child(run, words, process, out)
        _CHILDREN[run] = child
        return child


def of(root: Path) -> list[Child]:
    """Children whose runs lie in ``root``, the newest first."""
    with _LOCK:
        return [child for run, child in reversed(_CHILDREN.items()) if run.parent == root]
