"""Runs side by side."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import polars as pl

from dashboards import estimated, units
from dashboards.formats import middle, share, words
from dashboards.look import Interval, forest


def estimates(frame: pl.DataFrame, signal: str) -> go.Figure:
    """Estimated values of every run's policies; ``frame`` holds rows of ``estimates`` of one kind, with their ``run``."""
    kind = estimated.kind_in(frame, signal)
    rows = [Interval(_of(row["run"], row["policy"]), row["value"], row["lower"], row["upper"], row["verdict"]) for row in _rows(frame)]
    return forest(
        rows,
        title=f"Estimated {estimated.name(signal, kind)}",
        subtitle="policy · run; intervals over users",
        axis=estimated.axis(signal, kind),
        percent=estimated.unit(signal, kind) == "share",
    )


def effects(frame: pl.DataFrame, metric: str) -> go.Figure:
    """Relative effects of every run's arms on one metric; rows of ``ab_metrics`` with their ``run``."""
    rows = []
    for row in _rows(frame):
        base = abs(row["baseline_mean"])
        if base:
            ends = row["lower"] / base, row["upper"] / base
            rows.append(Interval(_of(row["run"], row["arm"]), row["relative_effect"], *ends, row["verdict"]))
    level = share(frame["level"][0], 0) if frame.height else ""
    return forest(
        rows,
        title=f"{words(metric)}, each arm against its run's baseline",
        subtitle=f"arm · run; {level} intervals",
        axis="relative change",
        percent=True,
        zero=True,
    )


def ends(frame: pl.DataFrame, metric: str) -> go.Figure:
    """Where each learner's metric ended: the mean of the last tenth of its curve, and its least and largest value there."""
    rows = [Interval(_of(row["run"], row["learner"]), row["value"], row["low"], row["high"]) for row in _rows(frame)]
    return forest(
        rows,
        title=f"{words(metric)} at the end of training",
        subtitle="mean of the last tenth; bar: least to largest there",
        axis=units.axis(metric),
        percent=False,
    )


def _rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return frame.head(40).to_dicts()


def _of(run: object, part: object) -> str:
    return f"{middle(part, 14)} · {middle(run, 19)}"
