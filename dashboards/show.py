"""What the pages share: choosing the run, showing a problem with its mend, facts, figures, live refresh."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import plotly.graph_objects as go
import polars as pl
import pyarrow as pa
import streamlit as st

from dashboards import queries
from dashboards.formats import ago, plain, prose, share
from dashboards.schema import TABLES
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder

REFRESH_SECONDS = 2
"""How often a page of a running run looks at the disk again."""

_INK = {"light": "#4a4f59", "dark": "#c3c8d1"}
"""Small print of figures: Streamlit's own is too pale to read."""

STATES = {
    "running": ":blue[:material/progress_activity: running]",
    "done": ":green[:material/check_circle: done]",
    "stopped": ":orange[:material/pause_circle: stopped]",
    "failed": ":red[:material/error: failed]",
    "broken": ":red[:material/broken_image: broken]",
}
"""State of a run with icon and word."""


Asked = tuple[Any, ...]
"""The arguments of :func:`figure`."""


def title(text: str, subtitle: str) -> None:
    """Heading of a page with one line on what it answers."""
    st.title(text, anchor=False)
    st.caption(subtitle)


def chosen_run() -> RunFolder | None:
    """The run of the URL's ``run`` parameter, else the newest; explains itself where there is none."""
    root = queries.runs_root()
    name = st.query_params.get("run")
    try:
        # the usual case first: listing every run is not needed for it
        return queries.open_run(root, name if name is not None else queries.list_runs(root)[0].name)
    except IndexError:
        no_runs()
    except RecrlError as error:
        problem(error) if queries.list_runs(root) else no_runs()
    return None


def no_runs() -> None:
    """The empty state: what to run."""
    with st.container(border=True):
        st.subheader("No runs yet", anchor=False)
        st.markdown("A run appears here as soon as it starts. This one takes the whole loop on MovieLens 100K, in under ten minutes:")
        st.code("make demo", language=None)
        st.caption(f"Looked in {plain(queries.runs_root().absolute())}. Another folder: `recrl dashboard --runs DIR`.")


def problem(error: RecrlError) -> None:
    """A problem as a quiet box: what, and the mend."""
    with st.container(border=True):
        st.markdown(f":orange[:material/info:] **{plain(_sentence(error.what))}**")
        if error.mend:
            st.caption(prose(_sentence(error.mend)))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def table(run: RunFolder, name: str, *, quiet: bool = False) -> pl.DataFrame | None:
    """A table of the run; where it cannot be read, says so and gives None. ``quiet``: a part that many runs go without."""
    spec = TABLES[name]
    try:
        frame = queries.table(run, name)
    except RecrlError as error:
        absent = not queries.has_table(run, name)
        if absent and queries.summary(run).state == "running":
            st.caption(f":material/hourglass_empty: {error.what}, so far: the run has not come to it.")
        elif absent and quiet:
            st.caption(prose(f"This run holds no {spec.title}; `{spec.made_by}` writes it."))
        else:
            problem(error)
        return None
    if frame.is_empty():
        st.caption(prose(f"The {spec.title} table is empty; `{spec.made_by}` fills it." if quiet else f"The {spec.title} table is empty."))
        return None
    return frame


def download(frame: pl.DataFrame, name: str, key: str) -> None:
    """A button that gives the rows of a table as CSV."""
    st.download_button(
        "CSV", frame.write_csv, f"{file_name(name)}.csv", "text/csv", key=f"csv-{key}", icon=":material/download:", on_click="ignore"
    )


def file_name(text: str) -> str:
    """Foreign text as a harmless name of a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80] or "recrl"


def facts(items: Sequence[tuple[str, str, str]]) -> None:
    """A row of key numbers: label, value, explanation."""
    with st.container(horizontal=True):
        for name, value, explanation in items:
            st.metric(name, value, help=explanation or None, border=True, width=172)


def figure(key: str, draw: Callable[..., go.Figure], *given: Any) -> None:
    """The figure that ``draw`` makes of ``given``, in the page's own ink, with its words for screen readers.

    Drawn once for the same content: building a figure costs more than all else on a page.
    """
    theme = "dark" if st.context.theme.type == "dark" else "light"
    drawn, words = _figure(_Drawing(draw, given, theme))
    st.plotly_chart(
        drawn,
        key=f"figure-{key}",
        theme="streamlit",
        alt=words,
        config={
            "displaylogo": False,
            "displayModeBar": "hover",
            "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
            "toImageButtonOptions": {"filename": file_name(key), "scale": 2},
        },
    )


def rows(lines: Sequence[Mapping[str, Any]], **options: Any) -> None:
    """A table of words and numbers, a mapping a row; ``options`` are those of ``st.dataframe``."""
    names = dict.fromkeys(name for line in lines for name in line)
    # a list of rows would go through pandas, at five times the cost
    st.dataframe(pa.table({name: [line.get(name) for line in lines] for name in names}), hide_index=True, **options)


def part(draw: Callable[[], None]) -> None:
    """A part of a page: a change of its own controls draws it alone anew."""
    st.fragment(draw)()


def side_by_side(figures: Sequence[Asked]) -> None:
    """Figures two in a row, each the arguments of :func:`figure`; under each other on a narrow screen."""
    for start in range(0, len(figures), 2):
        columns = st.columns(2, gap="large")
        for column, asked in zip(columns, figures[start : start + 2], strict=False):
            with column:
                figure(*asked)


class _Drawing:
    """A figure to draw, equal to another of the same function, content and theme."""

    def __init__(self, draw: Callable[..., go.Figure], given: tuple[Any, ...], theme: str) -> None:
        self.draw, self.given, self.theme = draw, given, theme
        parts = (part.write_ipc(None).getvalue() if isinstance(part, pl.DataFrame) else repr(part).encode() for part in given)
        self._content = (draw, theme, *(hashlib.blake2b(part, digest_size=16).digest() for part in parts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Drawing) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)


class _Ready(go.Figure):
    """A finished figure: what Streamlit asks of it for every page is made once."""

    def __init__(self, ready: dict[str, Any]) -> None:
        super().__init__()
        self._ready = ready

    def to_dict(self) -> dict[str, Any]:
        """The figure as Plotly's JSON names it; not to be changed."""
        return self._ready


@lru_cache(maxsize=512)
def _figure(asked: _Drawing) -> tuple[_Ready, str]:
    """The figure and its words for screen readers."""
    drawn = asked.draw(*asked.given).to_dict()
    # what was drawn from is needed no longer
    asked.given = ()
    _ink(drawn, _INK[asked.theme])
    return _Ready(drawn), str(drawn["layout"]["meta"]["alt"])


def _ink(drawn: dict[str, Any], colour: str) -> None:
    layout = drawn["layout"]
    axes = [axis for name, axis in layout.items() if name.startswith(("xaxis", "yaxis"))]
    bars = [trace for trace in drawn["data"] if trace["type"] == "bar"]
    layout["title"]["subtitle"]["font"]["color"] = colour
    layout["legend"]["font"] = {"color": colour}
    for axis in axes:
        axis["tickfont"] = {**axis.get("tickfont", {}), "color": colour}
        axis.setdefault("title", {})["font"] = {"color": colour}
    for trace in bars:
        trace["textfont"] = {"color": colour}
    for annotation in layout.get("annotations", ()):
        annotation["font"] = {**annotation.get("font", {}), "color": colour}


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

    def view() -> None:
        progress(run)
        body()

    follow(lambda: queries.summary(run).state == "running", view, REFRESH_SECONDS)


def follow(at_work: Callable[[], object], draw: Callable[[], None], seconds: float) -> None:
    """Draw a part of a page, and while something is ``at_work`` again every few seconds; where that changes, the whole page."""
    before = at_work()

    def view() -> None:
        if at_work() != before:
            st.rerun()
        draw()

    st.fragment(view, run_every=seconds if before else None)()
