"""Training: each learner's metrics, live."""

from __future__ import annotations

import json

import polars as pl
import streamlit as st

from dashboards import plots, queries, readings, show
from dashboards.formats import clip, count, plain, words
from recrl.core.errors import RecrlError, StorageError
from recrl.core.runs import RunFolder


def page() -> None:
    """Draw the page."""
    show.title("Training", "What each learner's updates did; moves by itself while a run goes on.")
    run = show.chosen_run()
    if run is not None:
        show.live(run, lambda: body(run))
        _config(run)


def body(run: RunFolder) -> None:
    """Curves of the chosen learners and metrics."""
    streams = queries.streams(run)
    if not streams:
        show.problem(StorageError("this run logged no training metrics", mend="`recrl demo` trains two learners"))
        return
    with st.container(horizontal=True):
        chosen = st.multiselect(
            "Learners", streams, default=streams, key="learners", format_func=lambda name: clip(name.removeprefix("train-"), 40)
        )
    try:
        loaded = {name: queries.curves(run, name) for name in chosen}
    except RecrlError as error:
        show.problem(error)
        return
    frames = [curves.frame.with_columns(stream=pl.lit(name)) for name, curves in loaded.items() if curves.frame.height]
    _warn(loaded)
    if not frames:
        st.caption("Nothing logged yet." if chosen else "Choose a learner.")
        return
    everything = pl.concat(frames)
    st.markdown(plain(readings.training(everything), 700))
    names = everything["name"].unique(maintain_order=True).to_list()
    picked = st.multiselect("Metrics", names, default=names[:8], key="metrics", format_func=words)
    show.side_by_side([(f"curve-{name}", plots.curve(everything, name)) for name in picked])


def _warn(loaded: dict[str, queries.Curves]) -> None:
    broken, odd = sum(c.broken for c in loaded.values()), sum(c.not_finite for c in loaded.values())
    if broken:
        st.caption(
            f":orange[:material/warning:] {count(broken)} part{'s' if broken > 1 else ''} of the metrics cannot be read and are left out."
        )
    if odd:
        st.caption(
            f":orange[:material/warning:] {count(odd)} logged values are NaN or infinite and are left out; a learner may have diverged."
        )


def _config(run: RunFolder) -> None:
    with st.expander("Configuration of the run"):
        try:
            st.code(json.dumps(queries.config(run), indent=2)[:20_000], language="json")
        except RecrlError as error:
            show.problem(error)
