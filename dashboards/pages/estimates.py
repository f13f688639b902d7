"""Off-policy estimates: what each policy would have earned on the log, and whether to believe it."""

from __future__ import annotations

import math

import polars as pl
import streamlit as st

from dashboards import controls, estimated, look, queries, readings, show
from dashboards.figures import estimates as figures
from dashboards.formats import between, clip, number, plain, quantity, share, words
from recrl.core.runs import RunFolder

_ALL = "all estimators"

_GUIDE = """
1. **Propensities first.** Were they not logged, they are estimated: look at the reliability figure. Ratios off 1 by half: no
   estimator that weighs rows will do.
2. **One decision at a time matters**: `snips`; with a good reward model `sndr` beside it. The two apart by more than their intervals:
   believe neither before you know why.
3. **The verdict is *do not use***: ask for a policy nearer to the log, or for more of it. `dm` gives a number all the same; it is the
   model's opinion.
4. **Whole sessions matter, and they are short** (five requests, moderate weights): `wpdis`, with fitted values `seq_wdr`. Longer: the
   weights die out, and `seq_dm` beside the simulator is what is left, neither with an honest interval.
5. **Return of users**: `kaplan_meier`; `ipcw` where the end of the log cuts some groups more than others; `survival_dr` where predictions
   are good.
6. **A published short-video figure**: `ncis`, with its effective sample size.
7. **A constant policy beside yours**: where actions are vectors, it can win by sitting where the log is dense.

`recrl ope RUN --estimators snips sndr wpdis seq_wdr` computes several at once.
"""


def page() -> None:
    """Draw the page."""
    show.title(
        "Off-policy estimates", "What each policy would have earned on the logged users, how sure that is, and whether to believe it."
    )
    run = show.chosen_run()
    if run is not None:
        show.live(run, lambda: body(run))


def body(run: RunFolder) -> None:
    """Forest plot, effective sample size, weights, verdicts with reasons; below them what they rest on."""
    frame = show.table(run, "estimates")
    if frame is None:
        return
    show.part(lambda: _of_a_signal(run, frame))
    st.subheader("What the estimates rest on", anchor=False)
    show.part(lambda: _diagnostics(run))
    with st.expander("Which estimator?"):
        st.markdown(_GUIDE)


def _of_a_signal(run: RunFolder, frame: pl.DataFrame) -> None:
    signals = frame["signal"].unique(maintain_order=True).to_list()
    main = queries.main_signal(run, frame)
    with st.container(horizontal=True):
        signal = controls.choice("Signal", signals, "signal", default=main, shown=words)
        rows = frame.filter(pl.col("signal") == signal)
        names = rows.filter(pl.col("policy") != "logged")["estimator"].unique(maintain_order=True).to_list()
        estimator = controls.choice("Estimator", [*names, _ALL], "estimator", default=queries.main_estimator(rows) or _ALL)
    if signal is None or estimator is None:
        return
    if estimator != _ALL:
        rows = queries.by_estimator(rows, estimator)
    kinds = estimated.apart(rows)
    if not kinds:
        st.caption(plain(readings.estimates(rows, signal)))
        return
    for kind, part in kinds.items():
        st.markdown(plain(readings.estimates(part, signal), 700))
        show.figure(f"forest-{kind.name}", figures.estimates, part, signal)
    drawn: list[show.Asked] = [(f"ess-{kind.name}", figures.effective_sample, part) for kind, part in kinds.items()]
    if (weights := show.table(run, "estimates_weights")) is not None:
        drawn.append(("weights", figures.weights, weights))
    show.side_by_side(drawn)
    st.subheader("Verdicts", anchor=False)
    _verdicts(rows, signal)
    methods = ", ".join(clip(method) for method in rows["interval"].unique(maintain_order=True))
    st.caption(f"Intervals: {plain(methods)}. ✓ trust, △ caution: read the reasons, ✕ do not use: too little of the log stands behind it.")
    show.download(rows, f"estimates-{signal}", "estimates")


def _verdicts(rows: pl.DataFrame, signal: str) -> None:
    show.rows(
        [
            {
                "policy": clip(row["policy"]),
                "estimator": clip(row["estimator"]),
                "value": quantity(row["value"], unit),
                "interval": between(row["lower"], row["upper"], unit),
                "verdict": look.verdict(row["verdict"]),
                "effective sample": float(round(row["ess"])) if math.isfinite(row["ess"]) else None,
                "of all": share(row["ess_share"], 0),
                "largest weight": share(row["max_weight_share"], 2),
                "users": row["users"],
            }
            for row in rows.iter_rows(named=True)
            for unit in [estimated.unit(signal, estimated.kind_of(signal, row["estimator"]))]
        ],
        column_config={
            "effective sample": st.column_config.NumberColumn(format="localized"),
            "users": st.column_config.NumberColumn(format="localized"),
        },
    )
    doubted = rows.filter((pl.col("verdict") != "trust") & (pl.col("reasons") != ""))
    for row in doubted.iter_rows(named=True):
        who = plain(f"{row['policy']} by {row['estimator']}")
        st.markdown(f"**{who}**, {plain(look.verdict(row['verdict']))}: {plain(row['reasons'], 600)}")


def _diagnostics(run: RunFolder) -> None:
    reliability = show.table(run, "estimates_reliability", quiet=True)
    overlap = show.table(run, "estimates_overlap", quiet=True)
    cohorts = show.table(run, "estimates_cohorts", quiet=True)
    if reliability is not None:
        st.markdown(plain(readings.reliability(reliability), 500))
    drawn: list[show.Asked] = [] if reliability is None else [("reliability", figures.reliability, reliability)]
    if cohorts is not None:
        drawn.append(("cohorts", figures.cohorts, cohorts))
    show.side_by_side(drawn)
    if overlap is not None:
        show.part(lambda: _overlap(overlap))
    if cohorts is not None:
        _cohorts(cohorts)


def _overlap(overlap: pl.DataFrame) -> None:
    policies = overlap["policy"].unique(maintain_order=True).to_list()
    holed = overlap.filter(pl.col("hole"))["policy"].unique(maintain_order=True).to_list()
    policy = controls.choice("Policy", policies, "policy", default=holed[0] if holed else policies[-1])
    rows = overlap.filter(pl.col("policy") == policy)
    st.markdown(plain(readings.overlap(rows), 500))
    show.figure("overlap", figures.overlap, rows)


def _cohorts(cohorts: pl.DataFrame) -> None:
    with st.expander("Every cohort"):
        show.rows(
            [
                {
                    "policy": clip(row["policy"]),
                    "cohort": figures.cohort(row["cohort"]),
                    "rows": row["rows"],
                    "users": row["users"],
                    "effective rows": number(row["ess"]),
                    "effective users": number(row["effective_users"]),
                    "mean weight": number(row["mean_weight"]),
                    "of all weight": share(row["weight_share"]),
                    "verdict": look.verdict(row["verdict"]),
                    "reasons": clip(row["reasons"], 200),
                }
                for row in cohorts.iter_rows(named=True)
            ],
        )
        st.caption("Known users have rows in the training part; new ones are scored from averages. The mean weight is 1 where all is well.")
