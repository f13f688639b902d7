"""What the pages share: choosing the run, showing a problem with its mend, facts, figures, live refresh."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from dashboards import queries
from dashboards.formats import ago, plain, prose, share
from dashboards.schema import TABLES
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder

REFRESH_SECONDS = 2
"""How often a page of a running run looks at the disk again."""

STATES = {
    "running": ":blue[:material/progress_activity: running]",
    "done": ":green[:material/check_circle: done]",
    "stopped": ":orange[:material/pause_circle: stopped]",
    "failed": ":red[:material/error: failed]",
    "broken": ":red[:material/broken_image: broken]",
}
"""State of a run with icon and word."""


def title(text: str, subtitle: str) -> None:
    """Heading of a page with one line on what it answers."""
    st.title(text, anchor=False)
    st.caption(subtitle)


def chosen_run() -> RunFolder | None:
    """The run of the URL's ``run`` parameter, else the newest; explains itself where there is none."""
    root = queries.runs_root()
    runs = queries.list_runs(root)
    if not runs:
        no_runs()
        return None
    try:
        return queries.open_run(root, st.query_params.get("run", runs[0].name))
    except RecrlError as error:
        problem(error)
        return None


def no_runs() -> None:
    """The empty state: what to run."""
    with st.container(border=True):
        st.subheader("No runs yet", anchor=False)
        st.markdown("A run appears here as soon as it starts. This one takes the whole loop on MovieLens 100K, in under ten minutes:")
        st.code("make demo", language="bash")
        st.caption(f"Looked in {plain(queries.runs_root().absolute())}. Another folder: `recrl dashboard --runs DIR`.")


def problem(error: RecrlError) -> None:
    """A problem as a quiet box: what, and the mend."""
    with st.container(border=True):
        st.markdown(f":orange[:material/info:] **{plain(_sentence(error.what))}**")
        if error.mend:
            st.caption(prose(_sentence(error.mend)))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def table(run: RunFolder, name: str) -> pl.DataFrame | None:
    """A table of the run; where it cannot be read, says so and gives None."""
    try:
        frame = queries.table(run, name)
    except RecrlError as error:
        if not queries.has_table(run, name) and queries.summary(run).state == "running":
            st.caption(f":material/hourglass_empty: {error.what}, so far: the run has not come to it.")
        else:
            problem(error)
        return None
    if frame.is_empty():
        st.caption(f":material/info: The {TABLES[name].title} table is empty.")
        return None
    return frame


def facts(items: Sequence[tuple[str, str, str]]) -> None:
    """A row of key numbers: label, value, explanation."""
    with st.container(horizontal=True):
        for name, value, explanation in items:
            st.metric(name, value, help=explanation or None, border=True, width=172)


def figure(drawn: go.Figure, key: str) -> None:
    """A figure in the page's own ink, with its words for screen readers."""
    st.plotly_chart(
        drawn,
        key=f"figure-{key}",
        theme="streamlit",
        alt=str(drawn.layout.meta["alt"]),
        config={"displaylogo": False, "displayModeBar": "hover", "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]},
    )


def side_by_side(figures: Sequence[tuple[str, go.Figure]]) -> None:
    """Figures two in a row; under each other on a narrow screen."""
    for start in range(0, len(figures), 2):
        columns = st.columns(2, gap="large")
        for column, (key, drawn) in zip(columns, figures[start : start + 2], strict=False):
            with column:
                figure(drawn, key)


def progress(run: RunFolder) -> None:
    """Stage, share done and last heartbeat of a run that is not finished."""
    now = queries.summary(run)
    if now.state == "done":
        return
    if now.state == "running":
        st.progress(now.done, text=f"{plain(now.stage) or 'starting'} · {share(now.done, 0)} · heartbeat {ago(now.updated)}")
        return
    words = {
        "stopped": "This run stopped before its end; the same command goes on.",
        "failed": "This run failed.",
        "broken": "This run cannot be read.",
    }
    message = now.problem or now.message
    st.markdown(f"{STATES.get(now.state, '')} {words.get(now.state, '')} {plain(message) if message else ''}")


def live(run: RunFolder, body: Callable[[], None]) -> None:
    """Show ``body`` below the run's progress; while the run goes on, again every :data:`REFRESH_SECONDS`."""
    running = queries.summary(run).state == "running"

    def view() -> None:
        if running and queries.summary(run).state != "running":
            st.rerun()
        progress(run)
        body()

    st.fragment(view, run_every=REFRESH_SECONDS if running else None)()
