"""A/B: what each arm did to simulated users against the baseline, and how faithful the simulator is."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dashboards import look, plots, readings, show
from dashboards.formats import change, clip, compact, count, duration, number, plain, quantity, share, signed_share, span, words
from recrl.core.runs import RunFolder


def page() -> None:
    """Draw the page."""
    show.title("A/B in the simulator", "What each arm did to simulated users against the baseline, with intervals.")
    run = show.chosen_run()
    if run is not None:
        show.live(run, lambda: body(run))


def body(run: RunFolder) -> None:
    """Verdict, effects, metrics, curves, design, fit of the simulator."""
    metrics = show.table(run, "ab_metrics")
    if metrics is None:
        return
    scenarios = metrics["scenario"].unique(maintain_order=True).to_list()
    with st.container(horizontal=True):
        scenario = st.selectbox("Scenario of the simulator", scenarios, key="scenario", format_func=clip, width=280)
        rows = metrics.filter(pl.col("scenario") == scenario)
        others = rows.filter(pl.col("arm") != pl.col("baseline"))
        arms = others["arm"].unique(maintain_order=True).to_list()
        arm = st.selectbox("Arm", arms, index=arms.index(readings.best_arm(rows)), key="arm", format_func=clip, width=280) if arms else None
    st.markdown(f"**{plain(readings.ab(metrics, scenario), 700)}**")
    if arm is None:
        return
    mine = others.filter(pl.col("arm") == arm)
    st.markdown(plain(f"{clip(arm)}: {readings.ab_arm(mine)}", 700))
    show.figure(plots.effects(mine), "effects")
    _metric_table(mine)
    st.caption(
        "A verdict allows for every metric and arm that was tried; an interval speaks for its own comparison alone, "
        "so it may leave out zero where no difference is shown."
    )
    if len(arms) > 1:
        _compare(others)
    _curves(run, scenario, [*rows["baseline"].unique().to_list(), arm])
    _design(run, scenario)
    _fit(run)


def _metric_table(rows: pl.DataFrame) -> None:
    several = rows["arm"].n_unique() > 1
    st.dataframe(
        [
            ({"arm": clip(row["arm"])} if several else {})
            | {
                "metric": f"{words(row['metric'])} {plots.arrow(row)}",
                "mean": quantity(row["mean"], clip(row["unit"])),
                "baseline": quantity(row["baseline_mean"], clip(row["unit"])),
                "effect": change(row["effect"], clip(row["unit"])),
                f"{share(row['level'], 0)} interval": span(row["lower"], row["upper"], clip(row["unit"])),
                "relative": signed_share(row["relative_effect"]),
                "p": "< 0.001" if row["p_value"] < 0.001 else f"{row['p_value']:.3f}",
                "verdict": look.verdict(row["verdict"]),
            }
            for row in rows.iter_rows(named=True)
        ],
        hide_index=True,
        height=min(38 + 35 * rows.height, 600),
    )


def _compare(rows: pl.DataFrame) -> None:
    st.subheader("All arms", anchor=False)
    names = rows["metric"].unique(maintain_order=True).to_list()
    name = st.selectbox("Metric", names, key="metric", format_func=words, width=280)
    show.figure(plots.arms(rows.filter(pl.col("metric") == name)), "arms")
    with st.expander("Every arm and metric"):
        _metric_table(rows)


def _curves(run: RunFolder, scenario: str, shown: list[str]) -> None:
    st.subheader("Over time", anchor=False)
    drawn = []
    if (daily := show.table(run, "ab_daily")) is not None:
        daily = daily.filter(pl.col("scenario") == scenario)
        names = daily["metric"].unique(maintain_order=True).to_list()
        with st.container(horizontal=True):
            name = st.selectbox("By day", names, key="daily", format_func=words, width=280) if names else None
        if name is not None:
            drawn.append(("daily", plots.ab_daily(daily.filter(pl.col("arm").is_in(shown)), name)))
    if (retention := show.table(run, "ab_retention")) is not None:
        kept = (pl.col("scenario") == scenario) & pl.col("arm").is_in(shown)
        drawn.append(("retention", plots.retention(retention.filter(kept))))
    show.side_by_side(drawn)


def _design(run: RunFolder, scenario: str) -> None:
    st.subheader("Design", anchor=False)
    if (design := show.table(run, "ab_design")) is None:
        return
    mine = design.filter(pl.col("eta_scenario") == scenario)
    row = (mine if mine.height else design).row(0, named=True)
    show.facts(
        [
            ("Users an arm", compact(row["users"]), ""),
            ("Days", count(row["days"]), "simulated days"),
            ("Pairing", "paired" if row["paired"] else "independent", "paired: each arm meets the same users with the same random numbers"),
            (
                "Satisfaction effect",
                number(row["eta"]),
                "eta: how strongly satisfaction moves the return; a log alone cannot tell, so it is a scenario",
            ),
            ("Sample ratio p", number(row["sample_ratio_p"]), "a tiny value means that the arms' sizes are off; not asked of paired users"),
        ]
    )
    arms = row["arms"].replace(",", ", ")
    st.caption(
        f"Scenario {plain(row['eta_scenario'])} · {compact(row['user_steps'])} user steps in {duration(row['seconds'])} · "
        f"arms {plain(arms)} · baseline {plain(row['baseline'])} · seed {row['seed']}"
    )


def _fit(run: RunFolder) -> None:
    st.subheader("Is the simulator faithful?", anchor=False)
    if (fit := show.table(run, "simulator_fit")) is None:
        return
    notes = fit.filter(pl.col("note") != "").select("quantity", "note").unique(maintain_order=True)
    for name, note in notes.head(12).iter_rows():
        st.caption(plain(f"{words(name)}: {note}", 400))
    compared = fit.filter(pl.col("logged").is_finite() & pl.col("lower").is_finite())
    names = compared["quantity"].unique(maintain_order=True).to_list()
    show.side_by_side([(f"fit-{name}", plots.simulator_fit(compared.filter(pl.col("quantity") == name))) for name in names[:8]])
    with st.expander("Every quantity"):
        st.dataframe(
            [
                {
                    "quantity": words(row["quantity"]),
                    "group": clip(row["group"]),
                    "simulated": number(row["simulated"]),
                    "logged": number(row["logged"]),
                    "interval of logged": f"{number(row['lower'])} to {number(row['upper'])}",
                    "note": clip(row["note"], 200),
                }
                for row in fit.iter_rows(named=True)
            ],
            hide_index=True,
        )
