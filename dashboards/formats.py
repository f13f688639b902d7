"""Numbers and foreign text as people read them: units, sensible digits, nothing that a renderer could take for markup."""

from __future__ import annotations

import math
import re
import time
from datetime import UTC, datetime
from typing import TypeGuard

from recrl.core.behaviours import BEHAVIOURS

MISSING = "–"
_GAP = "\u00a0"  # a unit stays on the line of its number
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]+")
_MARKDOWN = re.compile(r"([!-/:-@\[-`{-~])")


def count(value: float | None) -> str:
    """Whole numbers with thousands separators: ``181,932``."""
    return MISSING if not _finite(value) else f"{value:,.0f}"


def compact(value: float | None) -> str:
    """A count in few characters: ``181,932``, ``1.44 M``."""
    if not _finite(value):
        return MISSING
    for bound, suffix in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= bound:
            return f"{value / bound:.3g}{_GAP}{suffix}"
    return f"{value:,.0f}"


def share(value: float | None, digits: int = 1) -> str:
    """A share of one as per cent: ``12.3 %``."""
    return MISSING if not _finite(value) else f"{100 * value:.{digits}f}{_GAP}%"


def signed_share(value: float | None, digits: int = 1) -> str:
    """A relative change: ``+3.1 %``."""
    return MISSING if not _finite(value) else f"{100 * value:+.{digits}f}{_GAP}%".replace("-", "−")


def number(value: float | None) -> str:
    """Any other number with four significant digits."""
    if not _finite(value):
        return MISSING
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3e}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def change(value: float | None, unit: str) -> str:
    """An effect with its unit; of shares and rates it is in percentage points: ``+0.66 pp``."""
    scale, shown = effect_unit(unit)
    return MISSING if not _finite(value) else f"{_signed(scale * value)}{_GAP}{shown}".strip(_GAP)


def span(lower: float | None, upper: float | None, unit: str) -> str:
    """The interval of an effect: ``+0.40 to +0.91 pp``."""
    scale, shown = effect_unit(unit)
    if not (_finite(lower) and _finite(upper)):
        return MISSING
    return f"{_signed(scale * lower)} to {_signed(scale * upper)}{_GAP}{shown}".strip(_GAP)


def quantity(value: float | None, unit: str) -> str:
    """A value with its unit; shares and rates read as per cent."""
    if unit.split(" ")[0] in {"share", "rate"}:
        return share(value, 2)
    return number(value) if unit in {"", "0 to 1"} or value is None else f"{number(value)}{_GAP}{unit}"


def between(lower: float | None, upper: float | None, unit: str) -> str:
    """The ends of a value's interval with its unit, which words follow once: ``3.312 to 3.568 a session``."""
    return f"{quantity(lower, unit).removesuffix(f'{_GAP}{unit}')} to {quantity(upper, unit)}"


def is_share(name: str) -> bool:
    """Whether a signal or metric reads as per cent."""
    return name in BEHAVIOURS or name.endswith(("_share", "_rate", "retention"))


def duration(seconds: float | None) -> str:
    """Seconds as ``42 s``, ``3 min 12 s`` or ``2 h 5 min``."""
    if not _finite(seconds) or seconds < 0:
        return MISSING
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def ago(timestamp: float | None) -> str:
    """How long a moment (seconds since 1970) lies back."""
    return MISSING if not _finite(timestamp) else f"{duration(max(time.time() - timestamp, 0))} ago"


def day(milliseconds: float | None) -> str:
    """The UTC date of a timestamp in milliseconds."""
    if not _finite(milliseconds):
        return MISSING
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).date().isoformat()
    except (OverflowError, OSError, ValueError):
        return MISSING


def clip(text: object, limit: int = 80) -> str:
    """Foreign text on one line, without control or direction characters, at most ``limit`` characters."""
    line = _CONTROL.sub(" ", str(text)).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def middle(text: object, limit: int = 24) -> str:
    """Foreign text cut in its middle: names of runs differ at their ends."""
    line = clip(text, 300)
    if len(line) <= limit:
        return line
    tail = limit // 2
    return f"{line[: limit - tail - 1]}…{line[-tail:]}"


def plain(text: object, limit: int = 300) -> str:
    """Foreign text for a Markdown place: every punctuation mark is escaped, so nothing in it is markup."""
    return _escape(clip(text, limit))


def prose(text: object, limit: int = 300) -> str:
    """Like :func:`plain`, but what stands between backticks becomes code."""
    parts = clip(text, limit).split("`")
    if len(parts) % 2 == 0:
        return plain(text, limit)
    return "".join(f"`{part}`" if k % 2 and part.strip() else _escape(part) for k, part in enumerate(parts))


def words(name: str) -> str:
    """A column-like name as words: ``long_view`` -> ``long view``."""
    return clip(name).replace("_", " ")


def effect_unit(unit: str) -> tuple[float, str]:
    """Factor and name of an effect's unit: of shares and rates percentage points."""
    return (100.0, "pp") if unit.split(" ")[0] in {"share", "rate"} else (1.0, unit)


def p_value(value: float | None) -> str:
    """A p-value: ``< 0.001``, ``0.034``."""
    return MISSING if not _finite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _escape(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def _signed(value: float) -> str:
    return (f"{value:+,.0f}" if abs(value) >= 1000 else f"{value:+.3g}").replace("-", "−")


def _finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
