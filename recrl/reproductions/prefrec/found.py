"""Finished cells of one world, by method and quantity: means, paired differences with intervals, and which is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from recrl.reproductions.study import Done, mean_interval, paired

METHOD, BASE = "PrefRec", "BC"
LEAST_SEEDS = 3
"""Below, an interval that holds 0 decides nothing."""
HIGHER = {"depth": True, "gap_days": False, "day1": True, "click_rate": True, "early_depth": True}
"""Whether more of a quantity is better."""


@dataclass(frozen=True)
class Difference:
    """A mean over seeds with its Student-t interval: of a quantity, or of paired differences.

    Attributes:
        seeds: how many.
        mean: over them; NaN where there is none.
        low: of the 95 % interval, minus infinity for one seed.
        high: likewise.
    """

    seeds: int
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Difference:
        """That of one value a seed."""
        return cls(len(values), *mean_interval(values)) if values else cls(0, np.nan, -np.inf, np.inf)

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below 0, else 0."""
        return (self.low > 0.0) - (self.high < 0.0)

    @property
    def decided(self) -> bool:
        """Whether there are seeds enough to say that nothing shows, or two that agree beyond their wide interval."""
        return self.seeds >= LEAST_SEEDS or (self.seeds > 1 and self.sign != 0)

    def __format__(self, form: str) -> str:
        if not self.seeds:
            return "missing"
        mean, low, high = (format(value, f"+{form or '.2f'}") for value in (self.mean, self.low, self.high))
        return f"{mean} ({low} to {high})" if np.isfinite(self.low) else mean


class Found:
    """Finished cells of one part, by method and quantity.

    Args:
        done: all that is finished.
        part: which of them.
    """

    def __init__(self, done: Sequence[Done], part: str) -> None:
        self.done, self.part = [d for d in done if d.cell.part == part], part

    def values(self, method: str, quantity: str, within: str = "") -> list[float]:
        """One a seed that has it."""
        found = [_read(d.result, quantity, within) for d in self.done if d.cell.method == method]
        return [value for value in found if value is not None]

    def mean(self, method: str, quantity: str, within: str = "") -> float:
        """Over seeds; NaN where there is none."""
        values = self.values(method, quantity, within)
        return float(np.mean(values)) if values else float("nan")

    def over(self, method: str, against: str, quantity: str, within: str = "") -> Difference:
        """Paired differences ``method - against``."""
        having = [d for d in self.done if _read(d.result, quantity, within) is not None]
        return Difference.of(paired(having, self.part, method, against, lambda result: float(_read(result, quantity, within) or 0.0)))

    def better(self, method: str, against: str, quantity: str) -> int:
        """1 where ``method`` is better beyond the interval, -1 where it is worse, 0 where neither shows."""
        sign = self.over(method, against, quantity).sign
        return sign if HIGHER[quantity] else -sign

    def rank_correlation(self, least_policies: int, least_ess: float = 0.2) -> tuple[float, int]:
        """Spearman of NCIS of the gap with the gap among policies with enough effective rows, mean over the seeds that have enough of them;
        and the least number of them, or the most that any seed has where none has enough.
        """
        found = []
        for seed in sorted({d.cell.seed for d in self.done}):
            held = [d.result for d in self.done if d.cell.seed == seed and d.result.get("ess", 0.0) >= least_ess]
            if len(held) > 2:
                rank = stats.spearmanr([r["ncis_gap_days"] for r in held], [r["gap_days"] for r in held]).statistic
                found.append((float(rank), len(held)))
        # seeds without ablations have too few policies to rank
        enough = [(rank, n) for rank, n in found if n >= least_policies]
        if enough:
            return float(np.mean([rank for rank, _ in enough])), min(n for _, n in enough)
        return float("nan"), max((n for _, n in found), default=0)


def _read(result: Mapping[str, Any], quantity: str, within: str) -> float | None:
    held = result.get(within, {}) if within else result
    return held.get(quantity)
