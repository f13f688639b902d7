"""Training: each learner's metrics, live; of one run, or across its seeds."""

from __future__ import annotations

import json

import polars as pl
import streamlit as st

from dashboards import controls, queries, readings, seeds, show
from dashboards.figures import training as figures
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
    family = seeds.seed_family(queries.runs_root(), run.name)
    together = len(family) > 1 and st.toggle(
        f"All {len(family)} seeds of {plain(seeds.without_seed(run.name), 60)}", value=True, key="seeds", bind="query-params"
    )
    runs = family if together else [run]
    streams = list(dict.fromkeys(name for one in runs for name in queries.streams(one)))
    if not streams:
        show.problem(StorageError("this run logged no training metrics", mend="`recrl train td3_bc` logs some; so does `recrl demo`"))
        return
    chosen = controls.choices("Learners", streams, "learners", default=streams, shown=_learner)
    try:
        loaded = {(one.name, name): queries.curves(one, name) for one in runs for name in chosen}
    except RecrlError as error:
        show.problem(error)
        return
    _warn(list(loaded.values()))
    if together:
        everything = pl.concat(
            [seeds.over_seeds([curves for (_, stream), curves in loaded.items() if stream == name], name) for name in chosen]
            or [seeds.over_seeds([], "")]
        )
    else:
        everything = pl.concat([seeds.of_stream(curves, name) for (_, name), curves in loaded.items()] or [seeds.over_seeds([], "")])
    if everything.is_empty():
        st.caption("Nothing logged yet." if chosen else "Choose a learner.")
        return
    st.markdown(plain(readings.training(everything), 700))
    names = everything["name"].unique(maintain_order=True).to_list()
    picked = controls.choices("Metrics", names, "metrics", default=names[:8], shown=words)
    count_of_seeds = len(runs) if together else 0
    show.side_by_side([(f"curve-{name}", figures.curve, everything, name, count_of_seeds) for name in picked])


def _learner(stream: str) -> str:
    return clip(stream.removeprefix("train-"), 40)


def _warn(loaded: list[queries.Curves]) -> None:
    broken, odd = sum(c.broken for c in loaded), sum(c.not_finite for c in loaded)
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
            st.code(json.dumps(queries.config(run), indent=2)[:20_000], language=None)
        except RecrlError as error:
            show.problem(error)
