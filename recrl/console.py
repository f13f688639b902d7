"""How the command line talks: progress on stderr, results on stdout, one JSON object last when asked, errors with their mend."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from recrl.core.errors import RecrlError

_PLAIN_EVERY_SECONDS = 5.0
_PIPE_WIDTH = 160


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
        self._last_plain = 0.0
        self._bar: Progress | None = None

    def say(self, text: str) -> None:
        """A line for a reader."""
        (self._err if self.as_json else self._out).print(text, markup=False, highlight=False)

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

    def progress(self, stage: str) -> Callable[[float, str], None]:
        """A reporter of one stage: a bar on a terminal, a line every few seconds elsewhere."""
        if self._err.is_terminal:
            return self._bar_reporter(stage)

        def report(done: float, text: str) -> None:
            if time.monotonic() - self._last_plain >= _PLAIN_EVERY_SECONDS or done >= 1.0:
                self._last_plain = time.monotonic()
                print(f"{stage}: {done:4.0%}  {text}", file=sys.stderr, flush=True)

        return report

    def _bar_reporter(self, stage: str) -> Callable[[float, str], None]:
        if self._bar is None:
            columns = (
                TextColumn("{task.description:<24}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:3.0f}%"),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=self._err)
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
