"""Home: every run with its state, and what the chosen one found."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import polars as pl
import streamlit as st

from dashboards import health, queries, readings, show
from dashboards.figures import ab as ab_figures
from dashboards.figures import estimates as estimate_figures
from dashboards.formats import ago, clip, duration, plain, share
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder

_WORDS = {"running": "▶ running", "done": "✓ done", "stopped": "■ stopped", "failed": "✕ failed", "broken": "⚠ broken"}


def page(pages: Sequence[Any] = ()) -> None:
    """Draw the page; ``pages`` are linked below the findings."""
    show.title("recrl", "Replay logs, train, estimate off-policy, A/B-simulate: what ran, what runs now, what was found.")
    run = show.chosen_run()
    if run is not None:
        show.live(run, lambda: findings(run))
        _links(pages, run)
    if queries.list_runs(queries.runs_root()):
        st.fragment(runs, run_every=3)()


def findings(run: RunFolder) -> None:
    """What the chosen run found, a sentence a stage."""
    st.subheader(plain(run.name, 60), anchor=False)
    now = queries.summary(run)
    st.markdown(f"{show.STATES.get(now.state, plain(now.state))} · {plain(now.kind) or 'run'} · started {ago(now.started)}")
    for stage, draw in {"Data": _data, "Off-policy estimate": _estimates, "A/B in the simulator": _ab}.items():
        with suppress(RecrlError):
            sentences, *figure = draw(run)
            with st.container(border=True):
                st.markdown(f"**{stage}**")
                for sentence in sentences:
                    st.markdown(plain(sentence, 700))
                if figure:
                    show.figure(f"home-{stage}", *figure)


def runs() -> None:
    """The table of runs, refreshed by itself."""
    root = queries.runs_root()
    found = queries.list_runs(root)
    st.subheader("Runs", anchor=False)
    running = [run for run in found if run.state == "running"]
    for run in running[:5]:
        st.progress(
            run.done,
            text=f"**{plain(run.name, 60)}** · {plain(run.stage) or 'starting'} · {share(run.done, 0)} · heartbeat {ago(run.updated)}",
        )
    show.rows(
        [
            {
                "run": clip(run.name),
                "state": _WORDS.get(run.state, clip(run.state)),
                "progress": 100 * run.done,
                "kind": clip(run.kind),
                "stage": clip(run.stage),
                "started": datetime.fromtimestamp(run.started, UTC) if run.started else None,
                "took": duration(run.updated - run.started) if run.updated and run.started else "",
                "message": clip(run.problem or run.message, 160),
            }
            for run in found
        ],
        height=min(38 + 35 * len(found), 460),
        column_config={
            "progress": st.column_config.ProgressColumn("progress", format="%.0f %%", min_value=0, max_value=100),
            "started": st.column_config.DatetimeColumn("started (UTC)", format="YYYY-MM-DD HH:mm"),
        },
    )
    st.caption(plain(f"{health.summary(found, root)} Choose a run in the sidebar."))
    for problem in health.problems(found, root):
        st.markdown(f":orange[:material/warning:] {plain(problem, 500)}")


def _links(pages: Sequence[Any], run: RunFolder) -> None:
    with st.container(horizontal=True):
        for target in pages:
            st.page_link(target, query_params={"run": run.name})


def _data(run: RunFolder) -> tuple[Any, ...]:
    summary, depth, gaps = (queries.table(run, name) for name in ("data_summary", "data_depth", "data_gaps"))
    return ([readings.data(summary, depth, gaps)],)


def _estimates(run: RunFolder) -> tuple[Any, ...]:
    frame = queries.table(run, "estimates")
    signal = queries.main_signal(run, frame)
    shown = queries.main_estimates(frame.filter(pl.col("signal") == signal))
    sentences = [readings.estimates(rows, signal) for rows in shown]
    return (sentences, estimate_figures.estimates, shown[0], signal) if shown else (["No policy was estimated."],)


def _ab(run: RunFolder) -> tuple[Any, ...]:
    frame = queries.table(run, "ab_metrics")
    if frame.is_empty():
        return (["No metric was compared."],)
    scenarios = frame["scenario"].unique(maintain_order=True).to_list()
    rows = frame.filter(pl.col("scenario") == scenarios[0])
    sentences = [f"Scenario {clip(scenario, 40)}: {readings.ab(frame, scenario)}" for scenario in scenarios[:4]]
    return sentences, ab_figures.effects, rows.filter(pl.col("arm") == readings.best_arm(rows))
