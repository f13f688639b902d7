"""Feedback rates of groups of users: by activity, week of the first visit, or a feature of the log's users."""

from __future__ import annotations

import math
from functools import lru_cache

import polars as pl

from recrl.core.behaviours import BEHAVIOURS
from recrl_datasets.describe import share_bounds
from recrl_datasets.store import Store, open_store

_Z95 = 1.959963984540054
ACTIVITY, FIRST_WEEK = "activity", "week of the first visit"
MOST_GROUPS = 12
_THIRDS = ("rare", "usual", "frequent")
_WEEK_MS = 7 * 86_400_000


def kinds(store: Store) -> list[str]:
    """What users can be grouped by; features of more than :data:`MOST_GROUPS` values are left out."""
    users = store.users
    features = [name for name in users.columns if name not in ("user", "user_id") and 1 < users[name].n_unique() <= MOST_GROUPS]
    return [ACTIVITY, FIRST_WEEK, *features]


def signals(store: Store) -> list[str]:
    """Feedback that the log holds."""
    held = store.scan().collect_schema().names()
    return [name for name in BEHAVIOURS if name in held]


def rates(store: Store, by: str, signal: str) -> pl.DataFrame:
    """Rate of ``signal`` in each cohort: ``cohort, users, rows, rate, lower, upper``; 95 % intervals over users.

    Intervals are those of ``recrl data describe``: rows of one user are taken as dependent, ends lie in 0..1, one user has none.
    """
    users = _by_user(str(store.path), store.content_hash, signal)
    if by == ACTIVITY:
        place = pl.col("rows").rank("ordinal") * 3 // (pl.len() + 1)
        names = [f"{name} (third by rows)" for name in _THIRDS]
        grouped = users.with_columns(order=place, cohort=place.replace_strict([0, 1, 2], names, return_dtype=pl.String))
    elif by == FIRST_WEEK:
        week = (pl.col("first_ms") - pl.col("first_ms").min()) // _WEEK_MS
        # late weeks hold few newcomers: the last group is open
        week = pl.min_horizontal(week, pl.lit(MOST_GROUPS - 1))
        named = pl.format("week {}{}", week + 1, pl.when(week == MOST_GROUPS - 1).then(pl.lit(" and later")).otherwise(pl.lit("")))
        grouped = users.with_columns(order=week, cohort=named)
    else:
        feature = store.users.select(pl.int_range(pl.len(), dtype=pl.Int64).alias("user"), pl.col(by).alias("order"))
        grouped = users.join(feature, on="user").with_columns(cohort=pl.col("order").cast(pl.String).fill_null("not known"))
    rate = pl.col("given").sum() / pl.col("rows").sum()
    squares = (pl.col("given") - rate * pl.col("rows")).pow(2).sum()
    found = grouped.group_by("cohort").agg(pl.col("order").first(), users=pl.len(), total=pl.col("rows").sum(), rate=rate, squares=squares)
    found = found.sort("order", nulls_last=True)
    ends = [_ends(*row) for row in found.select("rate", "squares", "total", "users").iter_rows()]
    return found.select("cohort", "users", pl.col("total").alias("rows"), "rate").with_columns(
        pl.Series(name, [pair[k] for pair in ends], dtype=pl.Float64) for k, name in enumerate(("lower", "upper"))
    )


def _ends(rate: float, squares: float, rows: int, users: int) -> tuple[float, float]:
    """The interval that `recrl data describe` gives a rate; of a single user none."""
    if users < 2:
        return math.nan, math.nan
    return share_bounds(rate, _Z95 * math.sqrt(squares * users / (users - 1)) / rows, users)


@lru_cache(maxsize=16)
def _by_user(folder: str, _content: str, signal: str) -> pl.DataFrame:
    """Rows, rows with the signal and first row of each user; read once a content and signal."""
    scan = open_store(folder).scan().filter(pl.col("is_duplicate") == 0)
    sums = {"rows": pl.len(), "given": (pl.col(signal) > 0).sum(), "first_ms": pl.col("timestamp_ms").min()}
    # in the store's order, so that ties fall the same way each time
    return scan.group_by("user").agg(**sums).select(pl.all().cast(pl.Int64)).sort("user").collect()
