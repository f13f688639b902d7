"""Training: each learner's metrics, live; of one run, or across its seeds; and what particular learners are asked."""

from __future__ import annotations

import json

import polars as pl
import streamlit as st

from dashboards import controls, queries, readings, seeds, show
from dashboards.figures import training as figures
from dashboards.formats import clip, count, plain, words
from recrl.core.errors import RecrlError, StorageError
from recrl.core.runs import RunFolder

_CURVES, _TRADE, _DRIFT, _PREFERENCES, _REPRODUCTION = "Curves", "Trade-offs", "Drift and phi", "Preferences", "Reproduction"
_PARTS = (_CURVES, _TRADE, _PREFERENCES, _REPRODUCTION, _DRIFT)
_MARKS = {_TRADE: ("rate_", "kl_", "slack_"), _DRIFT: ("abstraction_", "guard_")}
_TABLES = {_PREFERENCES: "reward_accuracy", _REPRODUCTION: "reproduction_cells", _DRIFT: "reproduction_switches"}
"""Which metrics, and which table, give a run a part."""


def page() -> None:
    """Draw the page."""
    show.title("Training", "What each learner's updates did; moves by itself while a run goes on.")
    run = show.chosen_run()
    if run is not None:
        show.live(run, lambda: body(run))
        _config(run)


def body(run: RunFolder) -> None:
    """Which learners, which part of the page, and the part."""
    family = seeds.seed_family(queries.runs_root(), run.name)
    together = len(family) > 1 and st.toggle(
        f"All {len(family)} seeds of {plain(seeds.without_seed(run.name), 60)}", value=True, key="seeds", bind="query-params"
    )
    runs = family if together else [run]
    streams = list(dict.fromkeys(name for one in runs for name in queries.streams(one)))
    curves = _curves(runs, streams, together) if streams else None
    names = [] if curves is None else curves["name"].unique().to_list()
    marked = {part: any(name.startswith(marks) for name in names) for part, marks in _MARKS.items()}
    held = {part: queries.has_table(run, name) for part, name in _TABLES.items()}
    parts = [part for part in _PARTS if marked.get(part) or held.get(part) or (part == _CURVES and streams)]
    if not parts:
        show.problem(_nothing(run))
        return
    part = controls.view(parts) if len(parts) > 1 else parts[0]
    if part == _CURVES:
        if curves is not None:
            show.part(lambda: _metrics(curves, len(runs) if together else 0))
        return
    # of few runs, so loaded where asked for
    from dashboards.pages import learners, recovery

    of_run = {_PREFERENCES: learners.preferences, _REPRODUCTION: learners.reproduction, _DRIFT: recovery.body}
    of_curves = {_TRADE: lambda found: learners.trade_offs(run, found), _DRIFT: learners.drift}
    if held.get(part):
        of_run[part](run)
    if marked.get(part) and curves is not None:
        of_curves[part](curves)


def _nothing(run: RunFolder) -> StorageError:
    """Why there is nothing to show."""
    if queries.summary(run).kind == "reproduction":
        return StorageError("no part of this study is done so far", mend="the same `recrl reproduce` command goes on")
    return StorageError("this run logged no training metrics", mend="`recrl train td3_bc` logs some; so does `recrl demo`")


def _curves(runs: list[RunFolder], streams: list[str], together: bool) -> pl.DataFrame | None:
    """Curves of the chosen learners; ``None`` where they cannot be shown, which it says."""
    chosen = controls.choices("Learners", streams, "learners", default=streams, shown=_learner) if len(streams) > 1 else streams
    try:
        loaded = {(one.name, name): queries.curves(one, name) for one in runs for name in chosen}
    except RecrlError as error:
        show.problem(error)
        return None
    _warn(list(loaded.values()))
    if together:
        parts = [seeds.over_seeds([curves for (_, stream), curves in loaded.items() if stream == name], name) for name in chosen]
    else:
        parts = [seeds.of_stream(curves, name) for (_, name), curves in loaded.items()]
    everything = pl.concat(parts or [seeds.over_seeds([], "")])
    if everything.is_empty():
        st.caption("Nothing logged yet." if chosen else "Choose a learner.")
        return None
    return everything


def _metrics(everything: pl.DataFrame, seeds_of: int) -> None:
    st.markdown(plain(readings.training(everything), 700))
    names = everything["name"].unique(maintain_order=True).to_list()
    picked = controls.choices("Metrics", names, "metrics", default=names[:8], shown=words)
    # a learner keeps its colour whatever metrics it has
    streams = everything["stream"].unique(maintain_order=True).to_list()
    show.side_by_side(
        [(f"curve-{name}", figures.curve, everything.filter(pl.col("name") == name), name, seeds_of, streams) for name in picked]
    )


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
