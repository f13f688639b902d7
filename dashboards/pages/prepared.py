"""The data page of a prepared log that is chosen by name, whether a run described it or not."""

from __future__ import annotations

import shlex

import streamlit as st

from dashboards import queries, show, timeline
from dashboards.formats import clip, compact, count, day, plain
from dashboards.pages import cohort_rates, data, user_timeline
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder
from recrl_datasets.store import Store


def body(name: str) -> None:
    """What the newest run that described the log found; without one what its manifest says, its cohorts and its users."""
    try:
        store = timeline.named(name)
    except RecrlError as error:
        show.problem(error)
        return
    run = described_by(store)
    if run is not None:
        st.caption(plain(f"Described by the run {clip(run.name, 60)}."))
        data.body(run)
        return
    manifest = store.manifest
    show.facts(
        [
            ("Rows", compact(manifest.rows), "one row: one item shown to one user"),
            ("Users", compact(manifest.users), ""),
            ("Items", compact(manifest.items), ""),
        ]
    )
    st.markdown(plain(f"Rows from {day(manifest.first_ms)} to {day(manifest.last_ms)}; {count(manifest.duplicate_rows)} are duplicates."))
    with st.container(border=True):
        st.markdown(":material/info: **No run has described this log yet**: its sessions, return gaps and rates stand here afterwards.")
        places = ["--stores", str(store.path.parent), "--runs", str(queries.runs_root())]
        st.code(shlex.join(["recrl", "data", "describe", name, *places]), language=None)
    data.more(lambda: cohort_rates.of_store(store), lambda: user_timeline.of_store(store, "auto"))


def described_by(store: Store) -> RunFolder | None:
    """The newest run that described a log of this content."""
    root = queries.runs_root()
    for found in queries.list_runs(root):
        run = RunFolder(root / found.name)
        try:
            if queries.has_table(run, "data_summary") and queries.environment(run).get("data_hash") == store.content_hash:
                return run
        except RecrlError:
            continue
    return None
