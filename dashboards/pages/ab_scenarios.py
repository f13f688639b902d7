"""The A/B page's scenarios: the same test under each assumed effect of satisfaction on return, and under other fits of the simulator."""

from __future__ import annotations

from typing import Any

import polars as pl
import streamlit as st

from dashboards import controls, look, readings_ab, show
from dashboards.figures import ab as figures
from dashboards.formats import clip, effect_unit, number, plain, signed_share, words
from recrl.core.runs import RunFolder


def body(run: RunFolder, metrics: pl.DataFrame, arm: str) -> None:
    """One arm's effects, a column a scenario, and one metric with the simulator's own uncertainty."""
    st.caption(
        "A short log does not tell how strongly satisfaction moves return (eta). So it is assumed, under names; "
        "a decision that holds under each of them does not hang on the assumption."
    )
    mine = metrics.filter(pl.col("arm") == arm)
    _side_by_side(mine)
    st.subheader("With the simulator's own uncertainty", anchor=False)
    if (uncertainty := show.table(run, "ab_uncertainty", quiet=True)) is None:
        return
    rows = uncertainty.filter(pl.col("arm") == arm)
    metric = controls.choice("Metric", rows["metric"].unique(maintain_order=True).to_list(), "metric", shown=words)
    rows = rows.filter(pl.col("metric") == metric)
    st.markdown(f"**{plain(readings_ab.over_scenarios(rows), 700)}**")
    if rows.is_empty():
        return
    show.figure("scenarios", figures.scenarios, rows)
    _spread(rows)
    show.download(uncertainty.filter(pl.col("arm") == arm), "ab_uncertainty", "uncertainty")


def _side_by_side(rows: pl.DataFrame) -> None:
    scenarios = rows["scenario"].unique(maintain_order=True).to_list()
    shown: list[dict[str, Any]] = []
    for (metric,) in rows.select("metric").unique(maintain_order=True).iter_rows():
        of_metric = {row["scenario"]: row for row in rows.filter(pl.col("metric") == metric).iter_rows(named=True)}
        line = {"metric": f"{words(metric)} {figures.arrow(next(iter(of_metric.values())))}"}
        for scenario in scenarios:
            row = of_metric.get(scenario)
            line[clip(scenario, 40)] = f"{signed_share(row['relative_effect'])}  {look.verdict(row['verdict'])}" if row else ""
        shown.append(line)
    show.rows(shown, height=min(38 + 35 * len(shown), 600))


def _spread(rows: pl.DataFrame) -> None:
    members = int(rows["members"].max() or 0)  # type: ignore[arg-type]
    if not members:
        st.caption(
            "One simulator was asked, so these intervals are about more simulated users of the same fit. "
            "`recrl simulate fit --members 10`, then `recrl ab --members 10`, adds what the log leaves open of the fit."
        )
        return
    scale, unit = effect_unit(clip(rows["unit"][0]))
    parts = [
        f"{clip(row['scenario'], 40)}: {number(scale * row['within'])} from sampling users, {number(scale * row['between'])} between fits"
        for row in rows.filter(pl.col("scenario") != figures.SPAN).iter_rows(named=True)
    ]
    st.caption(plain(f"Standard deviations over {members} simulators ({unit}). {'; '.join(parts)}.", 700))
