"""A/B: what each arm did to simulated users against the baseline."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dashboards import controls, look, readings, readings_ab, show
from dashboards.figures import ab as figures
from dashboards.formats import change, clip, compact, count, duration, number, p_value, plain, quantity, share, signed_share, span, words
from dashboards.pages import ab_days, ab_parts, ab_scenarios
from recrl.core.runs import RunFolder

_VIEWS = ("Effects", "Day by day", "Segments and guardrails", "Scenarios")


def page() -> None:
    """Draw the page."""
    show.title("A/B in the simulator", "What each arm did to simulated users against the baseline, with intervals.")
    run = show.chosen_run()
    if run is not None:
        show.live(run, lambda: body(run))


def body(run: RunFolder) -> None:
    """Scenario, arm, and one part of the page."""
    metrics = show.table(run, "ab_metrics")
    if metrics is None:
        return
    scenarios = metrics["scenario"].unique(maintain_order=True).to_list()
    with st.container(horizontal=True):
        scenario = controls.choice("Scenario of the simulator", scenarios, "scenario")
        rows = metrics.filter(pl.col("scenario") == scenario)
        others = rows.filter(pl.col("arm") != pl.col("baseline"))
        arms = others["arm"].unique(maintain_order=True).to_list()
        arm = controls.choice("Arm", arms, "arm", default=readings.best_arm(rows))
    st.markdown(f"**{plain(readings.ab(metrics, str(scenario)), 700)}**")
    if arm is None or scenario is None:
        return
    mine = others.filter(pl.col("arm") == arm)
    view = controls.view(_VIEWS)
    if view == "Effects":
        _effects(run, scenario, others, mine)
    elif view == "Day by day":
        ab_days.body(run, scenario, mine)
    elif view == "Scenarios":
        ab_scenarios.body(run, metrics, arm)
    else:
        ab_parts.body(run, scenario, mine)


def _effects(run: RunFolder, scenario: str, others: pl.DataFrame, mine: pl.DataFrame) -> None:
    st.markdown(plain(f"{clip(mine['arm'][0])}: {readings.ab_arm(mine)}", 700))
    show.figure("effects", figures.effects, mine)
    _metric_table(mine)
    st.caption(
        "A verdict allows for every metric and arm that was tried; an interval speaks for its own comparison alone, "
        "so it may leave out zero where no difference is shown."
    )
    if others["arm"].n_unique() > 1:
        show.part(lambda: _compare(others))
    _design(run, scenario)


def _metric_table(rows: pl.DataFrame) -> None:
    several = rows["arm"].n_unique() > 1
    show.rows(
        [
            ({"arm": clip(row["arm"])} if several else {})
            | {
                "metric": f"{words(row['metric'])} {figures.arrow(row)}",
                "verdict": look.verdict(row["verdict"]),
                "relative": signed_share(row["relative_effect"]),
                "effect": change(row["effect"], clip(row["unit"])),
                f"{share(row['level'], 0)} interval": span(row["lower"], row["upper"], clip(row["unit"])),
                "p": p_value(row["p_value"]),
                "mean": quantity(row["mean"], clip(row["unit"])),
                "baseline": quantity(row["baseline_mean"], clip(row["unit"])),
            }
            for row in rows.iter_rows(named=True)
        ],
        height=min(38 + 35 * rows.height, 600),
    )


def _compare(rows: pl.DataFrame) -> None:
    st.subheader("All arms", anchor=False)
    names = rows["metric"].unique(maintain_order=True).to_list()
    name = controls.choice("Metric", names, "metric", shown=words)
    show.figure("arms", figures.arms, rows.filter(pl.col("metric") == name))
    with st.expander("Every arm and metric"):
        _metric_table(rows)
        show.download(rows, "ab_metrics", "metrics")


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
        ]
    )
    st.markdown(plain(readings_ab.sample_ratio(row), 400))
    arms = row["arms"].replace(",", ", ")
    st.caption(
        f"Scenario {plain(row['eta_scenario'])} · {compact(row['user_steps'])} user steps in {duration(row['seconds'])} · "
        f"arms {plain(arms)} · baseline {plain(row['baseline'])} · seed {row['seed']}"
    )
    st.caption("How faithful the simulated users are stands on the Simulator page; how large a test must be, on the Plan page.")
