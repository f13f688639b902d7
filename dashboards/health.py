"""How the runs and the disk below them are: what hangs, what failed, what room is left."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dashboards.formats import clip, count, duration
from dashboards.queries import RunSummary

SILENT_SECONDS = 600.0
"""A run at work tells of itself at every step of its progress; beyond this it is looked at."""

LITTLE_BYTES = 2e9
_UNWELL = ("failed", "broken")


def summary(runs: Sequence[RunSummary], root: Path) -> str:
    """Runs by state, and the room left: ``12 runs: 9 done, 1 running, 2 failed; 41.2 GB free``."""
    states = Counter(run.state for run in runs)
    parts = ", ".join(f"{count(number)} {clip(state)}" for state, number in states.most_common())
    room = "" if (free := free_bytes(root)) is None else f"; {_gigabytes(free)} free"
    return f"{count(len(runs))} run{'s' if len(runs) != 1 else ''}: {parts}{room}."


def problems(runs: Sequence[RunSummary], root: Path) -> list[str]:
    """What somebody should look at, the worst first; empty where all is well."""
    found = []
    free = free_bytes(root)
    if free is not None and free < LITTLE_BYTES:
        found.append(f"Only {_gigabytes(free)} are free where runs are written; a run that cannot write fails.")
    for run in runs:
        silent = time.time() - (run.updated or 0.0)
        if run.state == "running" and silent > SILENT_SECONDS:
            found.append(f"{clip(run.name, 60)} is at work but has told nothing for {duration(silent)}: it may hang.")
    unwell = [run for run in runs if run.state in _UNWELL]
    if unwell:
        names = ", ".join(clip(run.name, 40) for run in unwell[:3]) + (f" and {count(len(unwell) - 3)} more" if len(unwell) > 3 else "")
        found.append(f"{count(len(unwell))} of the runs failed or cannot be read: {names}. The table tells why.")
    return found


def free_bytes(root: Path) -> int | None:
    """Room on the disk of ``root``; none where it cannot be asked."""
    try:
        return shutil.disk_usage(root).free
    except OSError:
        return None


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f}\u00a0GB"
