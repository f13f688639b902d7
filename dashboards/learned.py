"""What learners' metrics and tables say, in numbers: trade-offs, falls and recoveries, shares with intervals, means over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl
from scipy.special import stdtrit

_Z = 1.96
_PARTS = 12


@dataclass(frozen=True)
class Point:
    """Where the training of ``who`` ended: ``x`` the other response, ``y`` the main one; ``symbol`` filled where none beats it in both."""

    who: str
    x: float
    y: float
    symbol: str = ""


@dataclass(frozen=True)
class Fall:
    """The deepest fall below the best so far: its peak, its bottom, and the step at which nine tenths of it were made good."""

    peak_step: int
    step: int
    peak: float
    bottom: float
    recovered_step: int | None


def of_kind(names: Iterable[str], prefix: str) -> list[str]:
    """What stands behind ``prefix`` in the metrics that begin with it."""
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def main_response(names: Sequence[str]) -> str | None:
    """The response that is maximised: the one with a rate and no multiplier, distance or slack of its own."""
    held = {name for prefix in ("kl_", "lambda_", "slack_", "distance_") for name in of_kind(names, prefix)}
    free = [name for name in of_kind(names, "rate_") if name not in held]
    return free[0] if free else None


def bound_of(frame: pl.DataFrame, response: str) -> float | None:
    """The bound on a response's rate, which ``rate`` and ``slack`` give together; none without a slack."""
    both = [frame.filter(pl.col("name") == f"{kind}_{response}").select("step", pl.col("value").alias(kind)) for kind in ("rate", "slack")]
    joined = both[0].join(both[1], on="step")
    if joined.is_empty():
        return None
    # slack is rate - bound or bound - rate: the one that stays the same tells the bound
    found = joined.select(least=pl.col("rate") - pl.col("slack"), most=pl.col("rate") + pl.col("slack"))
    spread = found.select(pl.all().max() - pl.all().min()).row(0)
    return float(found[:, int(spread[1] < spread[0])].mean())  # type: ignore[arg-type]


def way(frame: pl.DataFrame, who: str, main: str, auxiliary: str) -> pl.DataFrame:
    """Both rates of one learner over twelfths of its updates: ``who, step, x, y``."""
    x, y = (
        frame.filter(pl.col("name") == f"rate_{name}").select("step", pl.col("value").alias(axis))
        for name, axis in ((auxiliary, "x"), (main, "y"))
    )
    both = x.join(y, on="step").sort("step")
    # single batches are a tangle of noise
    part = pl.int_range(pl.len()) * _PARTS // pl.len()
    means = both.group_by(part.alias("part"), maintain_order=True).agg(pl.col("step").max(), pl.col("x", "y").mean())
    return means.select(pl.lit(who, pl.String).alias("who"), "step", "x", "y")


def ends(ways: pl.DataFrame, least: bool = False) -> list[Point]:
    """Each learner's mean over the last twelfth of its way; with ``least`` a small other response is the better one."""
    found = [Point(*row) for row in ways.group_by("who", maintain_order=True).agg(pl.col("x", "y").last()).rows()]
    sign = -1.0 if least else 1.0

    def beaten(one: Point) -> bool:
        return any(sign * other.x >= sign * one.x and other.y >= one.y and (other.x, other.y) != (one.x, one.y) for other in found)

    return [Point(one.who, one.x, one.y, "diamond-open" if beaten(one) else "diamond") for one in found]


def deepest_fall(steps: Sequence[int], values: Sequence[float]) -> Fall | None:
    """The deepest fall below the best so far; none where a curve only rises.

    >>> deepest_fall([0, 1, 2, 3, 4], [1.0, 3.0, 1.0, 2.0, 2.9])
    Fall(peak_step=1, step=2, peak=3.0, bottom=1.0, recovered_step=4)
    """
    best, deepest = 0, None
    for k, value in enumerate(values):
        if value > values[best]:
            best = k
        elif values[best] - value > (0.0 if deepest is None else values[deepest[0]] - values[deepest[1]]):
            deepest = best, k
    if deepest is None:
        return None
    top, low = deepest
    good = values[top] - 0.1 * (values[top] - values[low])
    back = next((steps[k] for k in range(low, len(values)) if values[k] >= good), None)
    return Fall(steps[top], steps[low], values[top], values[low], back)


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of ``count`` (Wilson's).

    >>> [round(end, 3) for end in wilson(0.8, 50)]
    [0.67, 0.888]
    """
    if count < 1 or not math.isfinite(share):
        return math.nan, math.nan
    z = _Z**2 / count
    middle = (share + z / 2) / (1 + z)
    half = math.sqrt(max(share * (1 - share) / count + z / (4 * count), 0.0)) * _Z / (1 + z)
    return middle - half, middle + half


def over_seeds(cells: pl.DataFrame) -> pl.DataFrame:
    """Mean and 95 % t interval over seeds of each method: ``method, mean, lower, upper, seeds``; of one seed without an interval."""
    finite = cells.filter(pl.col("value").is_finite())
    found = finite.group_by("method", maintain_order=True).agg(mean=pl.col("value").mean(), spread=pl.col("value").std(), seeds=pl.len())
    half = [
        math.nan if n < 2 else float(stdtrit(n - 1, 0.975)) * (spread or 0.0) / math.sqrt(n)
        for spread, n in found.select("spread", "seeds").rows()
    ]
    width = pl.Series(half, dtype=pl.Float64)
    return found.with_columns(lower=pl.col("mean") - width, upper=pl.col("mean") + width).drop("spread")
