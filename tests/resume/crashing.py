"""Processes that die at a chosen moment of their work on a folder, and what is left of it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

import recrl.core.runs
from recrl.core.errors import StorageError
from recrl.training import checkpoints

Work = Callable[[Path], object]
"""A command on a folder; given again it goes on."""

KILLED, FULL, BROKEN = -signal.SIGKILL, 28, 1
"""Exit status of a killed process, of one that said that the disk is full, of any other error."""

_REMOVALS = ("os.remove", "os.rmdir")
_CHANGES = (*_REMOVALS, "os.rename", "os.mkdir", "os.truncate", "test.half")


def forked(act: Callable[[], object]) -> int:
    """Exit status of a fork of this process that does ``act``."""
    return finished(begun(act))


def begun(act: Callable[[], object]) -> int:
    """Process id of a fork that does ``act``."""
    child = os.fork()
    if child:
        return child
    status = BROKEN
    try:
        act()
        status = 0
    except StorageError as error:
        status = FULL if "free some disk space" in error.mend else BROKEN
        if status == BROKEN:
            traceback.print_exc()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def finished(child: int) -> int:
    """Exit status of a fork."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(work: Work, folder: Path, number: int) -> int:
    """A fork that does ``work`` and kills itself before the ``number``-th change below ``folder``, counted from 1."""

    def kill(count: int, event: str) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return forked(lambda: (_watch(folder, kill), work(folder)))


def full_at(work: Work, folder: Path, number: int) -> int:
    """A fork that does ``work`` on a disk that is full from the ``number``-th change below ``folder`` on: files can only be removed."""

    def refuse(count: int, event: str) -> None:
        if count >= number and event not in _REMOVALS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return forked(lambda: (_watch(folder, refuse), work(folder)))


def changes_of(work: Work, folder: Path, log: Path, before: Callable[[int], object] = lambda number: None) -> list[str]:
    """The changes below ``folder`` that an uninterrupted ``work`` makes, in order, noted in ``log``; ``before`` gets their numbers."""

    def note(count: int, event: str) -> None:
        before(count)
        with log.open("a") as file:
            file.write(f"{event}\n")

    assert forked(lambda: (_watch(folder, note), work(folder))) == 0
    return log.read_text().splitlines()


def images_of(work: Work, folder: Path, images: Path) -> list[str]:
    """:func:`changes_of`; before change ``k`` a copy of ``folder`` goes to ``images/k``.

    A copy is what a kill at that moment leaves: a killed process takes along what it has not yet given to the kernel, and nothing else.
    """
    return changes_of(work, folder, images.with_suffix(".events"), lambda number: shutil.copytree(folder, images / str(number)))


def _watch(folder: Path, on_change: Callable[[int, str], object]) -> None:
    """Call ``on_change`` with the number and name of each change below ``folder`` before it happens, in this process for good.

    Files that other languages write, tensors and Parquet, are written half, which is a change of its own, and then whole.
    """
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        writes = event == "open" and bool(int(str(arguments[2])) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if (writes or event in _CHANGES) and str(arguments[0]).startswith(f"{folder}/"):
            count += 1
            on_change(count, event)

    save_file, write_table = checkpoints.save_file, recrl.core.runs.pq.write_table

    def save_in_halves(tensors: object, path: Path) -> None:
        save_file(tensors, path)
        _halve(path)

    def write_in_halves(table: object, path: Path, **options: object) -> None:
        write_table(table, path, **options)
        _halve(path)

    checkpoints.save_file, recrl.core.runs.pq.write_table = save_in_halves, write_in_halves
    sys.addaudithook(hook)


def _halve(path: Path) -> None:
    whole = Path(path).read_bytes()
    os.truncate(path, len(whole) // 2)
    sys.audit("test.half", str(path))
    Path(path).write_bytes(whole)


def left_by(folder: Path) -> dict[str, object]:
    """Everything that a run holds but times: weights, replay and counters in its checkpoints, metric rows, saved policies, stray files."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_file() and not name.startswith(("status.json", "environment.json", "metrics/")):
            found[name] = path.read_bytes()
        if path.name.startswith("."):
            found[name] = "stray"
    for stream in (folder / "metrics").iterdir():
        rows = pq.read_table(stream).to_pylist()
        found[f"metrics of {stream.name}"] = sorted((row["step"], row["name"], row["value"]) for row in rows)
    return found
