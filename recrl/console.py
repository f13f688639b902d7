"""How the command line talks: progress on stderr, results on stdout, one JSON object last when asked, errors with their mend."""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from recrl.core.contracts import Progress
from recrl.core.errors import RecrlError

if TYPE_CHECKING:
    # half a second that a help page need not wait for
    from recrl.core.runs import RunFolder

_PLAIN_EVERY_SECONDS = 5.0
_PIPE_WIDTH = 160
_BARS = "▁▂▃▄▅▆▇█"


class Talk:
    """Output of one command.

    Args:
        as_json: print one JSON object as the last line of stdout and nothing else there.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        # a pipe has no width: leave tables whole
        self._out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
        self._err = Console(stderr=True, soft_wrap=True)
        self._bar: Bars | None = None

    def say(self, text: str) -> None:
        """A line for a reader."""
        (self._err if self.as_json else self._out).print(text, markup=False, highlight=False)

    def warn(self, text: str) -> None:
        """A line for a reader, beside the results."""
        self._err.print(text, markup=False, highlight=False)

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """A table for a reader."""
        if self.as_json:
            return
        table = Table(title=title, title_justify="left")
        for k, column in enumerate(columns):
            numbers = all(_is_number(row[k]) for row in rows)
            table.add_column(column, justify="right" if numbers else "left")
        for row in rows:
            table.add_row(*row)
        self._out.print(table, markup=False)

    def result(self, data: Mapping[str, Any]) -> None:
        """The result; printed only with ``--json``."""
        if self.as_json:
            print(json.dumps(finite(data), sort_keys=True, allow_nan=False, default=str), flush=True)

    def progress(self, stage: str) -> Progress:
        """A reporter of one stage: a bar on a terminal, a line every few seconds elsewhere."""
        if self._err.is_terminal:
            return self._bar_reporter(stage)
        last = -math.inf

        def report(done: float, text: str) -> None:
            nonlocal last
            if time.monotonic() - last >= _PLAIN_EVERY_SECONDS or done >= 1.0:
                last = time.monotonic()
                print(f"{stage}: {done:4.0%}  {text}", file=sys.stderr, flush=True)

        return report

    def _bar_reporter(self, stage: str) -> Progress:
        if self._bar is None:
            columns = (
                TextColumn("{task.description:<24}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:3.0f}%"),
                TimeElapsedColumn(),
            )
            self._bar = Bars(*columns, console=self._err)
            self._bar.start()
        bar, task = self._bar, self._bar.add_task(stage, total=1.0)
        return lambda done, text: bar.update(task, completed=done)

    def close(self) -> None:
        """Stop drawing bars."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def error(self, error: RecrlError) -> None:
        """A mistake and its mend."""
        self.close()
        print(f"recrl: {error}", file=sys.stderr, flush=True)
        self.failure(error.what, where=error.where, mend=error.mend)

    def failure(self, what: str, *, where: str = "", mend: str = "") -> None:
        """What went wrong, as the result; printed only with ``--json``."""
        self.result({"error": {"what": what, "where": where, "mend": mend}})


def stages_of(run: RunFolder, talk: Talk, start: float = 0.0, end: float = 1.0) -> Callable[[str, float, float], Progress]:
    """Reporters of stages that draw on the terminal and write the run's heartbeat; together they span ``start`` to ``end`` of the run."""

    def stage(label: str, first: float, last: float) -> Progress:
        show = talk.progress(label)

        def report(done: float, text: str) -> None:
            show(done, text)
            share = start + (end - start) * (first + (last - first) * done)
            run.set_status("running", stage=f"{label}: {text}", done=share)

        return report

    return stage


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """A curve in one line of text: means of ``width`` stretches, from the least to the largest.

    >>> sparkline([0, 1, 2, 3, 2, 1])
    '▁▃▆█▆▃'
    """
    known = [value for value in values if math.isfinite(value)]
    count = min(width, len(known))
    edges = [k * len(known) // count for k in range(count + 1)] if count else []
    means = [math.fsum(known[low:high]) / (high - low) for low, high in itertools.pairwise(edges)]
    low, high = (min(means), max(means)) if means else (0.0, 0.0)
    return "".join(_BARS[round((mean - low) / (high - low) * (len(_BARS) - 1)) if high > low else 0] for mean in means)


def human_bytes(count: int) -> str:
    """A size as people say it: ``1.5 MB``."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "") or "0")
    except ValueError:
        return False
    return True


def finite(node: Any) -> Any:
    """JSON has no NaN: such numbers become null."""
    if isinstance(node, Mapping):
        return {str(key): finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [finite(value) for value in node]
    if isinstance(node, float) and not math.isfinite(node):
        return None
    return node
