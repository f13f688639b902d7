"""Commands that a page starts: children of the server that run the command line, write run folders, and can be told to stop.

A page knows its children as long as the server lives; their runs are in the runs root whatever becomes of it.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any

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
    err: IO[bytes]
    told_to_stop: bool = False
    answered_at: int = 0

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
            told = self.result()["error"]
            return RecrlError(str(told["what"]), where=str(told["where"]), mend=str(told["mend"]))
        except (ValueError, KeyError, TypeError):
            what = f"the command ended with status {self.process.returncode}"
            return RecrlError(what, mend=f"run it in a terminal: `{self.shown}`")

    def result(self) -> dict[str, Any]:
        """The JSON object that an ended command prints last; empty where it printed none."""
        lines = _tail(self.out).strip().splitlines()
        try:
            held = json.loads(lines[-1]) if lines else {}
        except ValueError:
            held = {}
        return held if isinstance(held, dict) else {}

    def said(self) -> str:
        """The last that it told its reader: progress, questions."""
        return _tail(self.err)

    def asks(self, prompt: str) -> bool:
        """Whether it waits for a reply: the last it said is ``prompt``, and that came after the last reply."""
        return self.running and _size(self.err) > self.answered_at and self.said().endswith(prompt)

    def reply(self, word: str) -> None:
        """Answer the question it waits for; without effect where it has ended meanwhile."""
        if self.process.stdin is None or not self.running:
            return
        self.answered_at = _size(self.err)
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{word}\n".encode())
            self.process.stdin.flush()

    @property
    def shown(self) -> str:
        """The command as one types it."""
        return shlex.join(("recrl", *self.command))


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _tail(file: IO[bytes]) -> str:
    # the writer's position in the file is this process's too: it must stay
    end = _size(file)
    return os.pread(file.fileno(), _TAIL, max(end - _TAIL, 0)).decode(errors="replace")


_CHILDREN: dict[Path, Child] = {}
_LOCK = threading.Lock()


def start(run: Path, command: Sequence[str], *, asks: bool = False) -> Child:
    """Start ``recrl COMMAND --json``, whose run folder is ``run``.

    One that ``asks`` takes :meth:`Child.reply`, and may go on with a run that it began.

    **Errors**: :class:`ConfigError` where the folder exists, a command is at work on it, or two are at work.
    """
    with _LOCK:
        if (last := _CHILDREN.get(run)) is not None and last.running:
            raise ConfigError(f"a command is at work on {run.name!r:.80}", where="run", mend="wait for it, or stop it")
        # one that asks mostly waits for a person
        at_work = [child for child in _CHILDREN.values() if child.running and (child.process.stdin is not None) == asks]
        if len(at_work) >= MOST_AT_WORK:
            raise ConfigError(f"{len(at_work)} commands are at work", where="dashboard", mend="wait for one, or stop it")
        if run.exists() and not asks:
            raise ConfigError(f"a run {run.name!r:.80} exists", where="run", mend="choose another name")
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - they live as long as the child
        # a group of its own: the server's Ctrl-C is not the child's, and the child's reaches its workers
        process = subprocess.Popen(
            [sys.executable, "-m", "recrl.cli", *command, "--json"],
            stdin=subprocess.PIPE if asks else subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, "PYTHONUTF8": "1"},
            start_new_session=True,
        )
        child = Child(run, tuple(command), process, out, err)
        _CHILDREN.pop(run, None)
        _CHILDREN[run] = child
        return child


def free_name(root: Path, prefix: str) -> str:
    """The first of ``PREFIX1``, ``PREFIX2``, ... that no folder of ``root`` has, and no command started from here."""
    # a command takes seconds to make its folder
    return next(name for k in count(1) if (path := root / (name := f"{prefix}{k}")) not in _CHILDREN and not path.exists())


def of(root: Path, verb: str) -> list[Child]:
    """Commands ``recrl VERB`` whose runs lie in ``root``, the newest first."""
    with _LOCK:
        return [child for run, child in reversed(_CHILDREN.items()) if run.parent == root and child.command[0] == verb]
