"""Data: what was logged, how deep sessions are, who comes back."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import streamlit as st

from dashboards import controls, queries, readings, show
from dashboards.figures import data as figures
from dashboards.formats import clip, compact, count, number, plain, quantity, words
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder

OF_RUN = "of the chosen run"


def page() -> None:
    """Draw the page."""
    show.title("Data", "What was logged, how deep sessions are, and who comes back.")
    logs = queries.stores()
    log = controls.choice("Log", [OF_RUN, *logs], "log", help="that of the chosen run, or any prepared log") if logs else OF_RUN
    if log is not None and log != OF_RUN:
        # loads the reader of stores, which the other pages do without
        from dashboards.pages import prepared

        prepared.body(log)
        return
    run = show.chosen_run()
    if run is not None:
        show.live(run, lambda: body(run))


def body(run: RunFolder) -> None:
    """Everything the run knows of its log."""
    summary = show.table(run, "data_summary")
    if summary is None:
        return
    row = summary.row(0, named=True)
    show.facts(
        [
            ("Rows", compact(row["rows"]), "one row: one item shown to one user"),
            ("Users", compact(row["users"]), ""),
            ("Items", compact(row["items"]), ""),
            ("Sessions", compact(row["sessions"]), f"cut by: {plain(row['session_rule'])}"),
            ("Requests", compact(row["requests"]), "one request: items shown at one time"),
        ]
    )
    st.markdown(plain(readings.data(summary, _quiet(run, "data_depth"), _quiet(run, "data_gaps")), 700))
    _figures(run)
    _quality(run)
    more(lambda: _cohorts(run), lambda: _one_user(run))
    st.caption(
        f"Sessions by {plain(row['session_rule'])} · {count(row['duplicate_rows'])} duplicate rows, left out of training and evaluation · "
        f"{count(row['random_rows'])} rows shown at random, kept apart · content hash {plain(str(row['content_hash'])[:16])}"
    )


def _figures(run: RunFolder) -> None:
    drawn: list[show.Asked] = []
    if (depth := show.table(run, "data_depth")) is not None:
        drawn.append(("depth", figures.depth, depth))
    if (gaps := show.table(run, "data_gaps")) is not None:
        drawn += [("gaps", figures.gaps, gaps), ("survival", figures.survival, gaps)]
    if (daily := show.table(run, "data_daily")) is not None:
        drawn.append(("daily", figures.daily, daily))
    if (rates := show.table(run, "data_rates")) is not None:
        shares = rates.filter(pl.col("unit").str.starts_with("share"))
        if shares.height:
            drawn.append(("rates", figures.rates, shares))
    if (popularity := show.table(run, "data_popularity")) is not None:
        drawn.append(("popularity", figures.popularity, popularity))
    show.side_by_side(drawn)
    if rates is not None:
        for row in rates.filter(~pl.col("unit").str.starts_with("share")).iter_rows(named=True):
            mean = quantity(row["rate"], clip(row["unit"]))
            st.caption(plain(f"Mean {words(row['signal'])}: {mean}, 95 % interval {number(row['lower'])} to {number(row['upper'])}."))


def _quality(run: RunFolder) -> None:
    st.subheader("Data quality", anchor=False)
    if (quality := show.table(run, "data_quality")) is None:
        return
    for row in quality.filter(pl.col("severity") == "warning").iter_rows(named=True):
        st.markdown(f":material/warning: **{plain(row['check'])}**: {plain(row['note'], 600)}")
    signs = {"warning": "△ warning", "info": "i info"}
    show.rows(
        [
            {
                "check": clip(row["check"]),
                "rows or users": row["count"],
                "severity": signs.get(row["severity"], clip(row["severity"])),
                "note": clip(row["note"], 200),
            }
            for row in quality.iter_rows(named=True)
        ],
        column_config={
            "rows or users": st.column_config.NumberColumn(format="localized"),
            "note": st.column_config.TextColumn(width="large"),
        },
    )


def more(cohorts: Callable[[], None], one_user: Callable[[], None]) -> None:
    """What is read from the log itself, once it is asked for."""
    st.subheader("Cohorts", anchor=False)
    if st.toggle("Compare groups of users", key="cohorts", bind="query-params"):
        show.part(cohorts)
    st.subheader("One user", anchor=False)
    if st.toggle("Look at one user's sessions", key="timeline", bind="query-params"):
        show.part(one_user)


def _cohorts(run: RunFolder) -> None:
    # loads the reader of stores, which the other pages do without
    from dashboards.pages import cohort_rates

    cohort_rates.body(run)


def _one_user(run: RunFolder) -> None:
    from dashboards.pages import user_timeline

    user_timeline.body(run)


def _quiet(run: RunFolder, name: str) -> pl.DataFrame | None:
    try:
        return queries.table(run, name)
    except RecrlError:
        return None
