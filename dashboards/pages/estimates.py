"""Off-policy estimates: what each policy would have earned on the log, and whether to believe it."""

from __future__ import annotations

import math

import polars as pl
import streamlit as st

from dashboards import look, plots, queries, readings, show
from dashboards.formats import clip, is_share, plain, quantity, share, words
from recrl.core.runs import RunFolder

_ALL = "all estimators"


def page() -> None:
    """Draw the page."""
    show.title(
        "Off-policy estimates", "What each policy would have earned on the logged users, how sure that is, and whether to believe it."
    )
    run = show.chosen_run()
    if run is not None:
        show.live(run, lambda: body(run))


def body(run: RunFolder) -> None:
    """Forest plot, effective sample size, weights, verdicts with reasons."""
    frame = show.table(run, "estimates")
    if frame is None:
        return
    signals = frame["signal"].unique(maintain_order=True).to_list()
    main = queries.main_signal(run, frame)
    with st.container(horizontal=True):
        signal = st.selectbox("Signal", signals, index=signals.index(main), key="signal", format_func=words, width=280)
        rows = frame.filter(pl.col("signal") == signal)
        names = rows.filter(pl.col("policy") != "logged")["estimator"].unique(maintain_order=True).to_list()
        best = queries.main_estimator(rows)
        choices = [*names, _ALL]
        estimator = st.selectbox(
            "Estimator", choices, index=choices.index(best) if best else 0, key="estimator", format_func=clip, width=280
        )
    if estimator != _ALL:
        rows = queries.by_estimator(rows, estimator)
    st.markdown(plain(readings.estimates(rows, signal), 700))
    show.figure(plots.estimates(rows, signal), "forest")
    drawn = [("ess", plots.effective_sample(rows))]
    if (weights := show.table(run, "estimates_weights")) is not None:
        drawn.append(("weights", plots.weights(weights)))
    show.side_by_side(drawn)
    st.subheader("Verdicts", anchor=False)
    _verdicts(rows, signal)
    methods = ", ".join(clip(method) for method in rows["interval"].unique(maintain_order=True))
    st.caption(f"Intervals: {plain(methods)}. ✓ trust, △ caution: read the reasons, ✕ do not use: too little of the log stands behind it.")


def _verdicts(rows: pl.DataFrame, signal: str) -> None:
    unit = "share" if is_share(signal) else ""
    st.dataframe(
        [
            {
                "policy": clip(row["policy"]),
                "estimator": clip(row["estimator"]),
                "value": quantity(row["value"], unit),
                "interval": f"{quantity(row['lower'], unit)} to {quantity(row['upper'], unit)}",
                "verdict": look.verdict(row["verdict"]),
                "effective rows": round(row["ess"]) if math.isfinite(row["ess"]) else None,
                "of all": share(row["ess_share"], 0),
                "largest weight": share(row["max_weight_share"], 2),
                "users": row["users"],
            }
            for row in rows.iter_rows(named=True)
        ],
        hide_index=True,
        column_config={
            "effective rows": st.column_config.NumberColumn(format="localized"),
            "users": st.column_config.NumberColumn(format="localized"),
        },
    )
    doubted = rows.filter((pl.col("verdict") != "trust") & (pl.col("reasons") != ""))
    for row in doubted.iter_rows(named=True):
        who = plain(f"{row['policy']} by {row['estimator']}")
        st.markdown(f"**{who}**, {plain(look.verdict(row['verdict']))}: {plain(row['reasons'], 600)}")
