"""Data-quality findings: what a log cannot show, counted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from recrl.core.behaviours import BEHAVIOURS
from recrl_datasets.log import Log
from recrl_datasets.sessions import DAY_MS, Sessions, local_offset_hours
from recrl_datasets.store import Store
from recrl_datasets.tables import Finding

_THINNED = 0.6


def quality_table(store: Store, cut: Sessions) -> pl.DataFrame:
    """All findings about a store: those its loader made and those its rows show; warnings first."""
    log = cut.log
    checks: tuple[Callable[[Store, Log, Sessions], list[Finding]], ...] = (_duplicates, _days, _thinning, _feedback, _values, _exposure)
    found = [*store.manifest.findings, *(finding for check in checks for finding in check(store, log, cut))]
    found.sort(key=lambda f: f.severity != "warning")
    schema = {"check": pl.String, "count": pl.Int64, "severity": pl.String, "note": pl.String}
    return pl.DataFrame([(f.check, f.count, f.severity, f.note) for f in found], schema=schema, orient="row")


def _duplicates(store: Store, log: Log, cut: Sessions) -> list[Finding]:
    m = store.manifest
    out = [
        Finding(
            "exact duplicate rows",
            m.duplicate_rows,
            "warning" if m.duplicate_rows else "info",
            "rows that repeat an earlier row in every column; kept in the store and flagged, left out of everything else unless asked for",
        )
    ]
    user, item, time = log.column("user"), log.column("item"), log.column("timestamp_ms")
    tied = np.zeros(log.n_rows + 1, dtype=bool)
    tied[1:-1] = (np.diff(user) == 0) & (np.diff(time) == 0)
    rows = np.flatnonzero(tied[1:] | tied[:-1])
    order = rows[np.lexsort((item[rows], time[rows], user[rows]))]
    near = int(np.sum((np.diff(item[order]) == 0) & (np.diff(time[order]) == 0) & (np.diff(user[order]) == 0)))
    if near:
        out.append(
            Finding("same user, item and time", near, "info", "rows that differ from another only in feedback or context; all are kept")
        )
    return out


def _days(store: Store, log: Log, cut: Sessions) -> list[Finding]:
    if not log.has("local_date") or log.n_rows == 0:
        return (
            []
            if log.n_rows == 0
            else [
                Finding("no local date", log.n_rows, "info", "calendar days are UTC days: users elsewhere have theirs cut at another hour")
            ]
        )
    hours = local_offset_hours(log)
    clock = (pl.col("timestamp_ms") + hours * 3_600_000) // DAY_MS
    differs = store.scan().select((pl.col("local_date").cast(pl.Int32) != clock).sum()).collect().item()
    days = log.column("local_date").astype("datetime64[D]").astype(np.int64)
    back = int(np.sum((np.diff(days) < 0) & (np.diff(log.column("user")) == 0)))
    out = [
        Finding(
            "local date differs from the clock",
            int(differs),
            "info",
            f"local_date is another day than timestamp_ms at UTC{hours:+d}; local_date is used (duplicates counted too)",
        )
    ]
    if back:
        out.append(
            Finding(
                "local date runs backwards",
                back,
                "info",
                "a row carries an earlier local_date than the row before it; it is taken to the later day",
            )
        )
    return out


def _thinning(store: Store, log: Log, cut: Sessions) -> list[Finding]:
    if cut.count == 0:
        return [Finding("no rows", 0, "warning", "the log holds no row; all rows were shown at random and stand in the random log")]
    single = int(np.sum(cut.depth == 1))
    share = single / cut.count
    note = f"{share:.1%} of sessions have a single request"
    if share > _THINNED:
        note += ": the log is thinned (or shows one item a visit), depth is an artefact of what was kept; consider calendar-day sessions"
    lone = int(np.sum(cut.rows.lengths == 1))
    slates = f"{lone / cut.rows.count:.1%} of requests hold a single item"
    if lone / cut.rows.count > 0.9:
        slates += ": the log shows no real slates"
    return [
        Finding("sessions of one request", single, "warning" if share > _THINNED else "info", note),
        Finding("requests of one item", lone, "info", slates),
        Finding(
            "sessions censored",
            int(cut.censored.sum()),
            "info",
            "last session of each user: whether the user came back after the log's end is unknown",
        ),
    ]


def _feedback(store: Store, log: Log, cut: Sessions) -> list[Finding]:
    out = []
    for name in BEHAVIOURS:
        if log.has(name) and log.n_rows and not log.column(name).any():
            out.append(Finding("behaviour never happens", log.n_rows, "warning", f"{name} is 0 in every row"))
    if not any(log.has(name) for name in BEHAVIOURS) and not log.has("rating") and not log.has("reward"):
        out.append(
            Finding(
                "no feedback",
                log.n_rows,
                "warning",
                "there is neither a behaviour nor a rating nor a reward: nothing can be learnt from this log",
            )
        )
    return out


def _values(store: Store, log: Log, cut: Sessions) -> list[Finding]:
    out = []
    for name in ("watch_seconds", "duration_seconds", "rating"):
        if log.has(name) and (missing := int(np.isnan(log.column(name)).sum())):
            out.append(Finding("missing values", missing, "info", f"{name} is missing"))
    if log.has("watch_seconds") and log.has("duration_seconds"):
        watch, duration = log.column("watch_seconds"), log.column("duration_seconds")
        over = int(np.sum((duration > 0) & (watch > 1.05 * duration)))
        if over:
            out.append(
                Finding("watched longer than the item", over, "info", "watch time exceeds 1.05 durations: repeats or a player left open")
            )
    return out


def _exposure(store: Store, log: Log, cut: Sessions) -> list[Finding]:
    out = []
    if not log.has("propensity"):
        out.append(
            Finding(
                "no propensities",
                log.n_rows,
                "warning",
                "the logging policy's probabilities are unknown: off-policy estimates stand on an estimated behaviour policy",
            )
        )
    if store.manifest.random_rows == 0 and not (log.has("is_random_exposure") and log.column("is_random_exposure").any()):
        out.append(
            Finding("no random exposure", 0, "info", "no rows shown at random: there is no unbiased check of an off-policy estimate")
        )
    return out
