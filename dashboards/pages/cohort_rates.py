"""The data page's rates by cohort."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dashboards import cohorts, controls, show, timeline
from dashboards.figures import data as figures
from dashboards.formats import clip, count, share, words
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder
from recrl_datasets.store import Store


def body(run: RunFolder) -> None:
    """Which cohorts of the log that the run was made from, which signal, and the rates."""
    try:
        of_store(timeline.store_of(run))
    except RecrlError as error:
        show.problem(error)


def of_store(store: Store) -> None:
    """Which cohorts of a prepared log, which signal, and the rates."""
    try:
        signals, kinds = cohorts.signals(store), cohorts.kinds(store)
        if not signals:
            st.caption("This log holds no feedback.")
            return
        with st.container(horizontal=True):
            by = controls.choice("Users by", kinds, "cohort", shown=words)
            signal = controls.choice("Feedback", signals, "feedback", default="long_view", shown=words)
        frame = cohorts.rates(store, str(by), str(signal))
    except (RecrlError, OSError, pl.exceptions.PolarsError) as error:
        show.problem(error if isinstance(error, RecrlError) else RecrlError("the prepared log cannot be read", mend="prepare it again"))
        return
    show.figure("cohorts", figures.cohort_rates, frame, str(signal), str(by))
    show.rows(
        [
            {
                "cohort": clip(row["cohort"]),
                "users": row["users"],
                "rows": row["rows"],
                f"{words(str(signal))} rate": share(row["rate"], 2),
                "95 % interval": f"{share(row['lower'], 2)} to {share(row['upper'], 2)}" if row["users"] > 1 else "one user: none",
            }
            for row in frame.iter_rows(named=True)
        ],
        column_config={name: st.column_config.NumberColumn(format="localized") for name in ("users", "rows")},
    )
    st.caption(f"Intervals over {count(int(frame['users'].sum()))} users. A rate of the rows: users with many rows weigh more.")
    show.download(frame, f"{signal}-by-cohort", "cohorts")
