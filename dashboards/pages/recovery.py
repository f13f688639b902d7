"""The training page's view of a study under drift: how soon each method is back at its level after a switch."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import streamlit as st

from dashboards import controls, show
from dashboards.figures import learners as figures
from dashboards.formats import clip, count, plain, words
from dashboards.look import Interval
from recrl.core.runs import RunFolder

_MEASURES = ("recovery_days", "regret_area")
_LINES = 5


def body(run: RunFolder) -> None:
    """One drift: over all its switches, and switch by switch."""
    over, each = (show.table(run, f"reproduction_{name}") for name in ("recovery", "switches"))
    if over is None or each is None:
        return
    st.subheader("Drift and recovery", anchor=False)
    with st.container(horizontal=True):
        part = controls.choice("Drift", each["part"].unique(maintain_order=True).to_list(), "drift")
        measure = str(controls.choice("Measure", _MEASURES, "measure", shown=words))
    over, each = (frame.filter(pl.col("part") == part) for frame in (over, each))
    if over.is_empty():
        st.caption("No method was measured under it.")
        return
    st.markdown(plain(reading(over, each), 600))
    ranked = over.sort(measure, nulls_last=True)
    rows = [Interval(row["method"], row[measure], row[f"{measure}_low"], row[f"{measure}_high"]) for row in ranked.iter_rows(named=True)]
    methods = each["method"].unique(maintain_order=True).to_list()
    lines = controls.choices("Methods, switch by switch", methods, "methods", default=methods[:_LINES])
    shown = each.filter(pl.col("method").is_in(lines)).sort("switch_day")
    drawn: list[show.Asked] = [("recovery", figures.recovery, rows[:40], measure)]
    show.side_by_side([*drawn, ("switches", figures.switches, shown, measure, clip(part, 30))] if shown.height else drawn)
    st.caption(
        "Regret: the oracle's chance of a return the next day, less the method's. Recovered: a mean of three days within .01 of that "
        "of the five days before, 5 days at most. Area: what the regret of the week after is above them."
    )
    show.download(each, f"switches-{part}", "switches")


def reading(over: pl.DataFrame, each: pl.DataFrame) -> str:
    """Who is back soonest, and where AURO stands; rows of one drift."""
    soonest = over.sort("recovery_days", nulls_last=True).row(0, named=True)
    text = f"Over {count(each['switch_day'].n_unique())} switches {clip(soonest['method'], 40)} is back soonest"
    text = f"{text}, after {_days(soonest, '')} days on average"
    mine = over.filter(pl.col("method") == "auro")
    if mine.is_empty() or soonest["method"] == "auro":
        return f"{text}."
    row = mine.row(0, named=True)
    return f"{text}; auro after {_days(row, '')} ({_days(row, '_low')} to {_days(row, '_high')})."


def _days(row: Mapping[str, float], end: str) -> str:
    return f"{row[f'recovery_days{end}']:.2f}"
