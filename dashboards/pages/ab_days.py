"""The A/B page's days: curves, looking every day, each day alone."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dashboards import controls, readings_ab, show
from dashboards.figures import ab as figures
from dashboards.figures import looks
from dashboards.formats import clip, plain, words
from recrl.core.runs import RunFolder


def body(run: RunFolder, scenario: str, mine: pl.DataFrame) -> None:
    """Curves of both arms, the sequential state of one metric, its trend; ``mine`` holds the arm's ``ab_metrics``."""
    arm, baseline = mine["arm"][0], mine["baseline"][0]
    show.part(lambda: _curves(run, scenario, arm, baseline))
    st.subheader("May I stop?", anchor=False)
    show.part(lambda: _may_i_stop(run, scenario, arm))


def _may_i_stop(run: RunFolder, scenario: str, arm: str) -> None:
    if (sequential := show.table(run, "ab_sequential", quiet=True)) is None:
        return
    rows = sequential.filter((pl.col("scenario") == scenario) & (pl.col("arm") == arm))
    metric = controls.choice("Metric", rows["metric"].unique(maintain_order=True).to_list(), "metric", shown=words)
    rows = rows.filter(pl.col("metric") == metric)
    if metric is None or rows.is_empty():
        return
    st.markdown(f"**{plain(readings_ab.may_stop(rows), 700)}**")
    show.side_by_side([("so-far", looks.so_far, rows), ("p-values", looks.p_values, rows)])
    _trend(run, scenario, arm, metric, clip(rows["unit"][0]))


def _curves(run: RunFolder, scenario: str, arm: str, baseline: str) -> None:
    here = (pl.col("scenario") == scenario) & pl.col("arm").is_in([baseline, arm])
    drawn: list[show.Asked] = []
    said = ""
    if (daily := show.table(run, "ab_daily")) is not None:
        daily = daily.filter(here)
        name = controls.choice("By day", daily["metric"].unique(maintain_order=True).to_list(), "daily", shown=words)
        if name is not None:
            drawn.append(("daily", figures.ab_daily, daily, name))
    if (retention := show.table(run, "ab_retention")) is not None:
        drawn.append(("retention", figures.retention, retention.filter(here)))
        said = readings_ab.log_rank(retention.filter(here), arm)
    show.side_by_side(drawn)
    if said:
        st.markdown(plain(said, 400))


def _trend(run: RunFolder, scenario: str, arm: str, metric: str, unit: str) -> None:
    here = (pl.col("scenario") == scenario) & (pl.col("arm") == arm) & (pl.col("metric") == metric)
    if (by_day := show.table(run, "ab_by_day", quiet=True)) is None or by_day.filter(here).is_empty():
        return
    trends = show.table(run, "ab_trend", quiet=True)
    found = None if trends is None else trends.filter(here)
    row = found.row(0, named=True) if found is not None and found.height else None
    st.subheader("Novelty or drift?", anchor=False)
    if row is not None:
        st.markdown(plain(readings_ab.trend(row, unit), 400))
    show.figure("each-day", looks.each_day, by_day.filter(here), row, unit)
