"""What a log looks like: the ``data_*`` tables of ``docs/artifacts.md`` and their figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import polars as pl
import pyarrow as pa

from recrl.core.behaviours import BEHAVIOURS
from recrl_datasets import figures
from recrl_datasets.log import AnyArray, Log
from recrl_datasets.quality import quality_table
from recrl_datasets.sessions import SessionRule, Sessions, row_days, sessions
from recrl_datasets.store import Store

_Z95 = 1.959963984540054
_MAX_DEPTH = 50
_UNITS = {"watch_seconds": "seconds a row", "rating": "points a row", "reward": "reward a row"}


@dataclass(frozen=True, eq=False)
class Description:
    """Tables by name, with the columns and types of ``docs/artifacts.md``: ``data_summary``, ``data_depth``, ``data_gaps``, ``data_rates``,
    ``data_popularity``, ``data_daily``, ``data_quality``.
    """

    tables: Mapping[str, pa.Table]

    def __getitem__(self, name: str) -> pl.DataFrame:
        """One table as a Polars frame."""
        return pl.DataFrame(pl.from_arrow(self.tables[name]))

    def figures(self) -> dict[str, go.Figure]:
        """One figure a table that has one: ``depth``, ``gaps``, ``rates``, ``popularity``, ``daily``."""
        return figures.all_figures({name: self[name] for name in self.tables})


def describe(store: Store, session_rule: SessionRule = "gap", gap_minutes: float = 30.0) -> Description:
    """Summarise a store, exact duplicates left out.

    Depth follows ``session_rule``. Return gaps are always those between the days on which a user was active, whatever the rule.

    **Errors**: :class:`recrl.core.errors.ConfigError` for an unknown rule.
    """
    log = store.log()
    cut = sessions(log, session_rule, gap_minutes)
    by_day = cut if session_rule == "day" else sessions(log, "day")
    tables = {
        "data_summary": _summary(store, cut),
        "data_depth": _depth(cut),
        "data_gaps": gap_table(by_day),
        "data_rates": rate_table(log),
        "data_popularity": _popularity(log),
        "data_daily": _daily(log),
        "data_quality": quality_table(store, cut),
    }
    return Description({name: _arrow(frame) for name, frame in tables.items()})


_ARROW_TYPES = {pl.String: pa.string(), pl.Int64: pa.int64(), pl.Float64: pa.float64(), pl.Date: pa.date32()}


def _arrow(frame: pl.DataFrame) -> pa.Table:
    """The frame with the plain Arrow types of the artifact tables."""
    return frame.to_arrow().cast(pa.schema([(name, _ARROW_TYPES[dtype.base_type()]) for name, dtype in frame.schema.items()]))


def _summary(store: Store, cut: Sessions) -> pl.DataFrame:
    m = store.manifest
    rule = "calendar day" if cut.rule == "day" else f"{cut.gap_minutes:g} min gap"
    return pl.DataFrame(
        {
            "name": [m.name],
            "rows": [m.rows],
            "users": [m.users],
            "items": [m.items],
            "sessions": [cut.count],
            "requests": [cut.rows.count],
            "duplicate_rows": [m.duplicate_rows],
            "random_rows": [m.random_rows],
            "first_ms": [m.first_ms],
            "last_ms": [m.last_ms],
            "content_hash": [m.content_hash],
            "session_rule": [rule],
        }
    )


def _depth(cut: Sessions) -> pl.DataFrame:
    counts = np.bincount(np.minimum(cut.depth, _MAX_DEPTH))[1:]
    return pl.DataFrame({"depth": np.arange(1, counts.size + 1), "sessions": counts, "share": counts / max(cut.count, 1)})


def gap_table(by_day: Sessions) -> pl.DataFrame:
    """Both laws of the return gap, in whole days between active days.

    The *completed* law counts gaps whose end the log holds: short gaps are over-represented, since a long one that began late
    is cut off. The *hazard* is the chance to return on day k among those not back before and still observed on day k; its
    interval is Greenwood's on log(1 - hazard), with the variance summed by user (sessions of one user are dependent):
    ``var(h) = sum_u (returned_u - h at_risk_u)^2 / at_risk^2``. ``survival`` is the Kaplan-Meier product of 1 - hazard.

    **Assumption**: censoring does not depend on the gap, given the user's day of activity.
    """
    gap, exposure, censored = by_day.gap_whole_days, by_day.exposure_whole_days, by_day.censored
    watched = np.where(censored, exposure, gap)
    order = np.argsort(-watched, kind="stable")
    watched, back, user = watched[order], np.where(censored, 0, gap)[order], by_day.user[order]
    columns: dict[str, list[float]] = {
        name: [] for name in ("completed", "at_risk", "returned", "hazard", "hazard_lower", "hazard_upper", "survival")
    }
    survival = 1.0
    for day in range(1, int(watched.max(initial=0)) + 1):
        at_risk = int(np.searchsorted(-watched, -day, side="right"))
        event = back[:at_risk] == day
        returned = int(event.sum())
        hazard = returned / at_risk
        residual = np.bincount(user[:at_risk], weights=event - hazard)
        error = float(np.sqrt(np.sum(residual**2))) / at_risk
        spread = np.exp(_Z95 * error / (1 - hazard)) if hazard < 1 else 1.0
        survival *= 1 - hazard
        row = (returned, at_risk, returned, hazard, max(1 - (1 - hazard) * spread, 0.0), 1 - (1 - hazard) / spread, survival)
        for name, value in zip(columns, row, strict=True):
            columns[name].append(value)
    completed = np.array(columns["completed"], dtype=np.int64)
    return pl.DataFrame(
        {
            "day": np.arange(1, completed.size + 1),
            "completed": completed,
            "completed_share": completed / max(int(completed.sum()), 1),
            "at_risk": np.array(columns["at_risk"], dtype=np.int64),
            "returned": np.array(columns["returned"], dtype=np.int64),
            **{name: np.array(columns[name], dtype=np.float64) for name in ("hazard", "hazard_lower", "hazard_upper", "survival")},
        }
    )


def rate_table(log: Log) -> pl.DataFrame:
    """Mean of each signal with its 95 % interval, rows of one user taken as dependent (ratio of user sums, delta method).

    Shares get their interval on the logit scale, so that a rare behaviour's stays inside 0..1; a behaviour that never or
    always happened gets the exact binomial bound over users. NaN bounds where a single user leaves nothing to compare.
    """
    rows = []
    for name in (*BEHAVIOURS, "watch_seconds", "rating", "reward"):
        if log.has(name) and log.n_rows:
            rate, half, count, users = _clustered_mean(log.column(name), log)
            bounds = share_bounds(rate, half, users) if name in BEHAVIOURS else (rate - half, rate + half)
            rows.append((name, rate, *bounds, count, _UNITS.get(name, "share of rows")))
    schema = {"signal": pl.String, "rate": pl.Float64, "lower": pl.Float64, "upper": pl.Float64, "rows": pl.Int64, "unit": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _clustered_mean(values: AnyArray, log: Log) -> tuple[float, float, int, int]:
    """Mean of the known values, half width of its interval, known rows, users with a known row."""
    known = np.isfinite(values)
    totals = log.user_offsets.sum(np.where(known, values, 0))
    numbers = log.user_offsets.sum(known)
    count, users = int(known.sum()), int((numbers > 0).sum())
    mean = float(totals.sum()) / count if count else float("nan")
    if users < 2:
        return mean, float("nan"), count, users
    half = _Z95 * float(np.sqrt(np.sum((totals - mean * numbers) ** 2) * users / (users - 1))) / count
    return mean, half, count, users


def share_bounds(rate: float, half: float, users: int) -> tuple[float, float]:
    """Ends of a share's 95 % interval, of half width ``half``, on the logit scale; of 0 and 1 the exact binomial bound over users."""
    if rate in (0.0, 1.0):
        edge = 1 - 0.025 ** (1 / users)
        return max(rate - edge, 0.0), min(rate + edge, 1.0)
    odds, width = np.log(rate / (1 - rate)), half / (rate * (1 - rate))
    return float(1 / (1 + np.exp(width - odds))), float(1 / (1 + np.exp(-odds - width)))


def _popularity(log: Log) -> pl.DataFrame:
    counts = np.sort(np.bincount(log.column("item"), minlength=log.n_items))[::-1]
    counts = counts[counts > 0]
    shares = np.cumsum(counts) / max(int(counts.sum()), 1)
    spaced = np.geomspace(100, max(counts.size, 100), 101).round().astype(np.int64)
    ranks = np.unique(np.concatenate([np.arange(1, min(counts.size, 100) + 1), spaced[spaced <= counts.size]]))
    return pl.DataFrame({"rank": ranks, "rows": counts[ranks - 1].astype(np.int64), "cumulative_share": shares[ranks - 1]})


def _daily(log: Log) -> pl.DataFrame:
    days, user = row_days(log), log.column("user")
    # days never decrease within a user: each change opens one active day
    opens = np.ones(days.size, dtype=bool)
    opens[1:] = (np.diff(days) != 0) | (np.diff(user) != 0)
    first = int(days.min()) if days.size else 0
    rows, users = np.bincount(days - first), np.bincount(days[opens] - first)
    shown = np.flatnonzero(rows)
    date = pl.Series((shown + first).astype(np.int32)).cast(pl.Date)
    return pl.DataFrame({"date": date, "rows": rows[shown].astype(np.int64), "active_users": users[shown].astype(np.int64)})
