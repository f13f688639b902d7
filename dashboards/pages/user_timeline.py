"""The data page's browser of one user's sessions."""

from __future__ import annotations

import random

import polars as pl
import streamlit as st

from dashboards import controls, queries, show, timeline
from dashboards.figures import timeline as figures
from dashboards.formats import clip, count, plain, quantity, words
from recrl.core.behaviours import BEHAVIOURS
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder
from recrl_datasets.store import Store

_SESSIONS = 25


def body(run: RunFolder) -> None:
    """Which user, and that user's sessions."""
    try:
        of_store(timeline.store_of(run), str(queries.config(run).get("session_rule", "auto")))
    except RecrlError as error:
        show.problem(error)


def of_store(store: Store, rule: str) -> None:
    """Which user of a prepared log, and that user's sessions."""
    try:
        ids = timeline.user_ids(store)
        asked = _asked(ids)
        found = (ids.cast(pl.String) == asked).arg_max() if asked else None
        if found is None or str(ids[found]) != asked:
            st.caption(plain(f"No user {clip(asked, 40)!r} in this log of {count(len(ids))} users."))
            return
        rows = timeline.user_rows(store, found, rule)
    except RecrlError as error:
        show.problem(error)
        return
    if rows.is_empty():
        st.caption("This user has no rows.")
        return
    _sessions(rows, asked)


def _asked(ids: pl.Series) -> str:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        # before the field is drawn: its value can still be set
        if st.button("Another user", icon=":material/shuffle:"):
            st.session_state["user"] = str(ids[random.Random().randrange(len(ids))])
        return str(
            st.text_input("User id", value=str(ids[0]), key="user", max_chars=100, width=controls.WIDTH, bind="query-params")
        ).strip()


def _sessions(rows: pl.DataFrame, user: str) -> None:
    signals = [name for name in BEHAVIOURS if name in rows.columns]
    signal = controls.choice("Filled dots", signals, "shown", default="long_view", shown=words) if signals else None
    total = rows["session"].n_unique()
    parts = [f"{count(rows.height)} rows in {count(total)} session{'s' if total != 1 else ''}"]
    if signal:
        parts.append(f"{words(signal)} on {quantity((rows[signal] > 0).mean(), 'share')}")  # type: ignore[arg-type]
    if "watch_seconds" in rows.columns:
        parts.append(f"{quantity(rows['watch_seconds'].mean(), 'seconds')} an item")  # type: ignore[arg-type]
    st.markdown(plain(f"User {clip(user, 40)}: {', '.join(parts)}."))
    if signal is None:
        st.caption("This log holds no feedback to draw.")
        return
    first = 0
    if total > _SESSIONS:
        first = st.slider("From session", 1, total - _SESSIONS + 1, 1, key="from", width=controls.WIDTH * 2, bind="query-params") - 1
    kept = rows.filter(pl.col("session").is_between(first, first + _SESSIONS - 1))
    show.figure("sessions", figures.sessions, kept, signal, user)
    with st.expander("The rows"):
        st.dataframe(kept.drop("started", "timestamp_ms").head(2_000), hide_index=True)
        show.download(rows, f"user-{user}", "user")
