"""Arms of an A/B test against the baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import polars as pl

from dashboards.drawing import Drawing
from dashboards.formats import clip, compact, effect_unit, is_share, number, share, words
from dashboards.look import Interval, blank, forest, legend_below, line

SPAN = "all"
"""The scenario of ``ab_uncertainty`` whose rows span the others."""


def effects(frame: pl.DataFrame) -> go.Figure:
    """Relative effect of one arm on each metric of one scenario; arrows say which way is better."""
    rows = [_effect(row, f"{words(row['metric'])} {arrow(row)}") for row in _measured(frame).iter_rows(named=True)]
    title = f"{clip(frame['arm'][0], 40)} against {clip(frame['baseline'][0], 40)}" if frame.height else "Effects"
    return forest(rows, title=title, subtitle=_scenario(frame), axis="relative change", percent=True, zero=True)


def arms(frame: pl.DataFrame) -> go.Figure:
    """Relative effect of each arm on one metric of one scenario, the best arm first."""
    measured = _measured(frame)
    ranked = measured.sort("relative_effect", descending=bool(measured["higher_is_better"].any()))
    rows = [_effect(row, row["arm"]) for row in ranked.iter_rows(named=True)]
    first = frame.row(0, named=True) if frame.height else None
    title = f"{words(first['metric'])} {arrow(first)}, each arm against {clip(first['baseline'], 40)}" if first else "Arms"
    return forest(rows, title=title, subtitle=_scenario(frame), axis="relative change", percent=True, zero=True)


def arrow(row: Mapping[str, Any]) -> str:
    """Which way is better for a row of ``ab_metrics``."""
    return "↑" if row["higher_is_better"] else "↓"


def _measured(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter((pl.col("arm") != pl.col("baseline")) & pl.col("relative_effect").is_finite())


def _effect(row: Mapping[str, Any], name: str) -> Interval:
    base = abs(row["baseline_mean"]) or math.nan
    return Interval(name, row["relative_effect"], row["lower"] / base, row["upper"] / base, row["verdict"])


def _scenario(frame: pl.DataFrame) -> str:
    if frame.is_empty():
        return "nothing measured"
    first = frame.row(0, named=True)
    return f"scenario {clip(first['scenario'], 40)}; {share(first['level'], 0)} intervals; arrow: the better direction"


def ab_daily(frame: pl.DataFrame, metric: str) -> go.Figure:
    """A daily metric of each arm, with bands."""
    unit = {"daily_active_share": "share of users", "watch_seconds_per_user": "seconds a user", "requests_per_user": "requests a user"}.get(
        metric, words(metric)
    )
    figure = blank(words(metric).removesuffix(" share"), "each day of the experiment; band: 95 % interval", "day of the experiment", unit)
    _arms(figure, frame.filter(pl.col("metric") == metric), "value", "day %{x}: %{y:.1%}" if is_share(metric) else "day %{x}: %{y:.4g}")
    return figure.update_layout(yaxis_tickformat=".0%" if is_share(metric) else None)


def retention(frame: pl.DataFrame) -> go.Figure:
    """Share of sessions followed by a return within so many days."""
    figure = blank("Returned within", "first return after a session; band: 95 % interval", "days since the session", "share returned")
    _arms(figure, frame, "returned_share", "within %{x} days: %{y:.1%}")
    return figure.update_layout(yaxis_tickformat=".0%")


def _arms(figure: Drawing, frame: pl.DataFrame, column: str, hover: str) -> None:
    for k, (arm,) in enumerate(frame.select("arm").unique(maintain_order=True).iter_rows()):
        rows = frame.filter(pl.col("arm") == arm).sort("day")
        line(figure, k, arm, rows["day"], rows[column], rows["lower"], rows["upper"], hover)
    legend_below(figure)


def effect_axis(unit: str) -> tuple[float, str]:
    """Factor of an effect and the title of its axis."""
    scale, shown = effect_unit(unit)
    return scale, "effect (percentage points)" if shown == "pp" else f"effect ({shown})" if shown else "effect"


def segments(frame: pl.DataFrame, whole: Mapping[str, Any] | None) -> go.Figure:
    """One metric's effect in each group of a segment; shaded: over all users (a row of ``ab_metrics``)."""
    first = frame.row(0, named=True)
    scale, axis = effect_axis(first["unit"])
    rows = [_scaled(row, f"{clip(row['group'], 22)} ({compact(row['users'])})", scale) for row in frame.iter_rows(named=True)]
    shaded = {"value": "effect", "lower": "lower", "upper": "upper"}
    return forest(
        rows,
        title=f"{words(first['metric'])} {arrow(first)} by {clip(first['segment'], 40)}",
        subtitle="users in brackets; shaded: the effect over all users",
        axis=axis,
        percent=False,
        zero=True,
        reference=None if whole is None else {name: scale * whole[column] for name, column in shaded.items()},
    )


def exposure(frame: pl.DataFrame) -> go.Figure:
    """Change of each provider's share of what was shown."""
    rows = [
        _scaled(row, f"{clip(row['provider'], 16)} ({share(row['baseline_mean'])} → {share(row['mean'])})", 100.0)
        for row in frame.iter_rows(named=True)
    ]
    return forest(
        rows,
        title="Exposure by provider",
        subtitle="share of shown items, baseline → arm; 95 % intervals",
        axis="change of the share (percentage points)",
        percent=False,
        zero=True,
    )


def guardrails(frame: pl.DataFrame) -> go.Figure:
    """Relative change of each guardrail; those of an arm as a whole have no interval."""
    rows = []
    for row in _measured(frame).iter_rows(named=True):
        bare = row["relative_effect"]
        drawn = _effect(row, f"{words(row['metric'])} {arrow(row)}")
        rows.append(drawn if math.isfinite(drawn.lower) else replace(drawn, lower=bare, upper=bare))
    return forest(rows, title="Guardrails", subtitle=_scenario(frame), axis="relative change", percent=True, zero=True)


def cuped(frame: pl.DataFrame) -> go.Figure:
    """Relative effects with CUPED (thick) and without (thin)."""
    rows = []
    for row in _measured(frame).iter_rows(named=True):
        base = abs(row["baseline_mean"]) or math.nan
        drawn = _effect(row, f"{words(row['metric'])} {arrow(row)}")
        rows.append(replace(drawn, lower=row["plain_lower"] / base, upper=row["plain_upper"] / base, inner=(drawn.lower, drawn.upper)))
    return forest(
        rows, title="With and without CUPED", subtitle="thick: with CUPED; thin: without", axis="relative change", percent=True, zero=True
    )


def scenarios(frame: pl.DataFrame) -> go.Figure:
    """One metric and arm of ``ab_uncertainty`` under each scenario: thick for one simulator, thin with the fit's own uncertainty."""
    first = frame.row(0, named=True)
    scale, axis = effect_axis(first["unit"])
    rows = []
    for row in frame.iter_rows(named=True):
        name = "all scenarios" if row["scenario"] == SPAN else f"{clip(row['scenario'], 20)} (eta {number(row['eta'])})"
        middle = row["effect"] if math.isfinite(row["effect"]) else (row["lower"] + row["upper"]) / 2
        inner = (scale * row["plain_lower"], scale * row["plain_upper"]) if row["members"] else None
        ends = scale * row["lower"], scale * row["upper"]
        rows.append(Interval(name, scale * middle, *ends, row["verdict"], inner))
    members = first["members"]
    how = f"thick: one simulator; thin: {members} simulators fitted to resampled users" if members else "one simulator, no ensemble"
    return forest(rows, title=f"{words(first['metric'])} under each scenario", subtitle=how, axis=axis, percent=False, zero=True)


def _scaled(row: Mapping[str, Any], name: str, scale: float) -> Interval:
    return Interval(name, scale * row["effect"], scale * row["lower"], scale * row["upper"], row.get("verdict", ""))
