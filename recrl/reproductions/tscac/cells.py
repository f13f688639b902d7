"""What the reports of both parts share: cells by method, columns of an interval, and which options were chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from recrl.reproductions.study import Done

Result = Mapping[str, Any]
Value = Callable[[Result], float]


def methods(done: Sequence[Done], part: str) -> list[str]:
    """Methods with cells in a part, the primary set first."""
    return list(dict.fromkeys(d.cell.method for d in sorted(done, key=lambda d: not d.cell.primary) if d.cell.part == part))


def results_of(done: Sequence[Done], part: str, method: str) -> list[Result]:
    """Results of a method's cells."""
    return [d.result for d in done if (d.cell.part, d.cell.method) == (part, method)]


def events_of(done: Sequence[Done]) -> dict[str, int]:
    """Test rows of each behaviour; nothing before there is a cell of the log."""
    logged = results_of(done, "kuairand", "logged")
    return dict(logged[0]["events"]) if logged else {}


def columns_of(name: str, found: tuple[float, float, float] | None) -> dict[str, float | None]:
    """A value and its bounds as columns; empty where they are unknown."""
    ends = (None, None, None) if found is None else tuple(x if math.isfinite(x) else None for x in found)
    return dict(zip((name, f"{name}_lower", f"{name}_upper"), ends, strict=True))


def spread(found: tuple[float, float, float]) -> str:
    """A difference and its interval in words."""
    return "{:+.3g} [{:+.3g}, {:+.3g}]".format(*found)


def options_table(done: Sequence[Done]) -> pl.DataFrame:
    """How often each option was chosen, and in how many seeds no option of the method had enough effective rows."""
    rows = []
    for part in dict.fromkeys(d.cell.part for d in done):
        for method in methods(done, part):
            results = [r for r in results_of(done, part, method) if "tried" in r]
            for k, one in enumerate(results[0]["tried"] if results else ()):
                effective = [r["tried"][k]["validation"]["watch_seconds"]["effective_rows"] for r in results]
                rows.append(
                    {
                        "part": part,
                        "method": method,
                        "option": ", ".join(f"{name} {_plain(value)}" for name, value in one["option"].items()),
                        "seeds": len(results),
                        "chosen_in": sum(r["chosen"] == k for r in results),
                        "effective_rows": float(np.mean(effective)),
                        "none_qualified_in": sum(r["qualified"] == 0 for r in results),
                    }
                )
    return pl.DataFrame(rows, infer_schema_length=None)


def _plain(value: Any) -> str:
    return (
        ", ".join(f"{x:g}" for x in value) if isinstance(value, list | tuple) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def options_verdict(table: pl.DataFrame) -> list[str]:
    """Whose choice was not by merit: no option had enough effective rows, and the one with most of them was taken."""
    none = table.unique(["part", "method"], maintain_order=True).filter(pl.col("none_qualified_in") > 0) if table.height else table
    held = [f"{r['method']} ({r['part']}, {r['none_qualified_in']} of {r['seeds']} seeds)" for r in none.iter_rows(named=True)]
    return [f"no option with a tenth of the validation rows effective, so the one with most of them: {', '.join(held)}"] if held else []
