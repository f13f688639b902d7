"""Runs of one command that differ by their seed alone, and their curves as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from dashboards import queries
from recrl.core.runs import RunFolder

_SEED = re.compile(r"-seed\d+$")


def without_seed(name: str) -> str:
    """A run's name without the seed behind it."""
    return _SEED.sub("", name)


def seed_family(root: Path, name: str) -> list[RunFolder]:
    """Runs that differ from ``name`` by the seed in their names alone, by seed; the run itself where it has none."""
    if not _SEED.search(name):
        return [RunFolder(root / name)]
    base = without_seed(name)
    names = [run.name for run in queries.list_runs(root) if _SEED.search(run.name) and without_seed(run.name) == base]
    return [RunFolder(root / found) for found in sorted(names, key=lambda found: (len(found), found))]


def of_stream(curves: queries.Curves, stream: str) -> pl.DataFrame:
    """The curves of one stream, named."""
    return curves.frame.with_columns(stream=pl.lit(stream, pl.String))


def over_seeds(curves: Sequence[queries.Curves], stream: str, points: int = 200) -> pl.DataFrame:
    """Curves of several seeds of one learner as one: the mean over seeds, and the least and largest seed, in bins of steps.

    Bins without a value of each seed are left out, so that a line does not jump where a seed ends.
    """
    if not curves:
        return pl.DataFrame(
            schema={"name": pl.String, "step": pl.Int64, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64} | {"stream": pl.String}
        )
    rows = pl.concat([found.frame.with_columns(seed=pl.lit(k)) for k, found in enumerate(curves)])
    reached = pl.col("step").max().over("name", "seed").min().over("name")
    rows = rows.filter(pl.col("step") <= reached)
    # as many bins as the sparsest seed has points
    bins = pl.min_horizontal(pl.lit(points), pl.len().over("name", "seed").min().over("name"))
    last, seeds = pl.col("step").max().over("name"), pl.col("seed").n_unique().over("name")
    return (
        rows.with_columns((pl.col("step") * bins // (last + 1)).alias("bin"), seeds.alias("seeds"))
        .group_by("name", "bin", "seed", "seeds")
        .agg(pl.col("step").max(), pl.col("value").mean())
        .group_by("name", "bin", "seeds")
        .agg(pl.col("step").max(), pl.col("value").mean(), low=pl.col("value").min(), high=pl.col("value").max(), found=pl.len())
        .filter(pl.col("found") == pl.col("seeds"))
        .select("name", "step", "value", "low", "high", stream=pl.lit(stream, pl.String))
        .sort("name", "step")
    )
