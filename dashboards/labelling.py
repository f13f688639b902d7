"""Questions of ``recrl prefer`` as a page shows them, and the command that asks them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from dashboards import queries
from dashboards.children import Child
from recrl.core.errors import ConfigError, RecrlError
from recrl.core.runs import RunFolder

SIMULATED = "simulated users"
PROMPT = "better? "
_PAIR = re.compile(r"^pair (\d+) of (\d+)$", re.MULTILINE)
_SIDE = re.compile(r"^  \[([12])\]  user (\S+)$")
# bars only: a page sets them into a table, whose cells are markup
_SESSION = re.compile(r"^ +(\d{1,9}) requests  ([·▂▃▄▅▆▇█]+) +(.*?)  (back after \d{1,9}\.\d days|goes on)$", re.ASCII)
_SIGNAL = re.compile(r"([a-z_]+) (-?\d+\.\d+)", re.ASCII)


@dataclass(frozen=True)
class Session:
    """One line of a timeline: requests, a bar of the first signal for each, means of the signals, when the user came back."""

    requests: int
    bars: str
    means: dict[str, float]
    came_back: str


@dataclass(frozen=True)
class Question:
    """Which of two timelines is better? Pair ``number`` of ``of``."""

    number: int
    of: int
    users: tuple[str, str]
    left: tuple[Session, ...]
    right: tuple[Session, ...]


@dataclass(frozen=True)
class Request:
    """Pairs to label: of which log, how many, cut how."""

    source: str
    pairs: int
    within: float
    length: int
    seed: int
    name: str
    users: int = 200


def command(root: Path, asked: Request) -> list[str]:
    """The words behind ``recrl``.

    **Errors**: :class:`ConfigError` for a name that is no plain one, and for a log that is not here.
    """
    if not queries.PLAIN_NAME.fullmatch(asked.name):
        raise ConfigError("a run's name is made of letters, digits, dots, dashes", where="Name of the run", mend="say, my-labels")
    if asked.source == SIMULATED:
        source = [f"--simulated={asked.users}"]
    elif asked.source in queries.stores():
        source = [f"--data={asked.source}", f"--stores={queries.stores_root()}"]
    else:
        raise ConfigError(f"no prepared log {asked.source!r:.80}", where="Timelines of", mend="`recrl data prepare` makes one")
    sizes = [f"--pairs={asked.pairs}", f"--within={asked.within}", f"--windows.length={asked.length}", f"--windows.stride={asked.length}"]
    return ["prefer", *source, *sizes, f"--seed={asked.seed}", f"--runs={root}", f"--run={asked.name}"]


def unfinished(root: Path) -> dict[str, Request]:
    """Runs of labelling by a person that were stopped, with what they were asked."""
    found = {}
    for run in queries.list_runs(root):
        if run.kind == "preferences" and run.state == "stopped":
            try:
                found[run.name] = _request(run.name, queries.config(RunFolder(root / run.name)))
            except (RecrlError, KeyError, TypeError, ValueError):
                continue
    return found


def _request(name: str, held: dict[str, Any]) -> Request:
    label, windows = held["label"], held["label"]["windows"]
    if held["by"] != "person" or (windows["kind"], windows["stride"]) != ("requests", windows["length"]):
        raise ValueError("not made by this page")
    source = SIMULATED if int(held["simulated"]) else str(held["data"])
    numbers = int(label["pairs"]), float(label["within"]), int(windows["length"]), int(held["seed"])
    return Request(source, *numbers, name, int(held["simulated"]) or 200)


def waiting(child: Child) -> Question | None:
    """The question that a labelling command waits with; none while it works, and where it has ended."""
    return question(child.said()) if child.asks(PROMPT) else None


def question(said: str) -> Question | None:
    """The last question in what ``recrl prefer`` said."""
    places = list(_PAIR.finditer(said))
    if not places:
        return None
    sides: dict[str, tuple[str, list[Session]]] = {}
    current = ""
    for text in said[places[-1].end() :].splitlines():
        if side := _SIDE.match(text):
            current = side[1]
            sides[current] = side[2], []
        elif current and (found := _SESSION.match(text)):
            sides[current][1].append(_session(found))
    if set(sides) != {"1", "2"}:
        return None
    (first, left), (second, right) = sides["1"], sides["2"]
    return Question(int(places[-1][1]), int(places[-1][2]), (first, second), tuple(left), tuple(right))


def sessions_of(timeline: str) -> tuple[Session, ...]:
    """The sessions of a timeline as ``reward_pairs`` holds it, a line each; lines that are none are left out."""
    return tuple(_session(found) for text in timeline.splitlines() if (found := _SESSION.match(text)))


def _session(found: re.Match[str]) -> Session:
    return Session(int(found[1]), found[2], {name: float(value) for name, value in _SIGNAL.findall(found[3])}, found[4])


def answers(run: RunFolder) -> dict[str, int] | None:
    """Answers that lie in a run's folder by kind; ``None`` where there are none to read."""
    path = run.path / "artifacts" / "preferences.parquet"
    try:
        queries.confine(run, path)
        metadata = pl.read_parquet_metadata(path)
        given = pl.read_parquet(path, columns=["preferred"])["preferred"].head(int(metadata["answered"]))
    except (RecrlError, OSError, KeyError, ValueError, pl.exceptions.PolarsError):
        return None
    kinds = {"left": (given == 1.0), "right": (given == 0.0), "equal": (given == 0.5)}
    found = {name: int(rows.fill_null(False).sum()) for name, rows in kinds.items()}
    return {**found, "skipped": len(given) - sum(found.values())}
