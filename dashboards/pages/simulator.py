"""Simulator: how far the simulated users are like the logged ones, and what they must not be used for."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dashboards import controls, queries, readings_ab, show
from dashboards.figures import simulator as figures
from dashboards.formats import clip, count, number, plain, words
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder

_VIEWS = ("Like the log?", "What if")


def page() -> None:
    """Draw the page."""
    show.title("Simulator", "How far simulated users are like the logged ones, on users that the fit has not seen.")
    run = show.chosen_run()
    if run is None:
        return
    if controls.view(_VIEWS) == _VIEWS[0]:
        show.live(run, lambda: body(run))
    else:
        # loads the reader of stores, which the other pages do without
        from dashboards.pages import what_if

        what_if.body(run)


def body(run: RunFolder) -> None:
    """Verdict, misuses, calibration, reliability, notes."""
    if (fit := show.table(run, "simulator_fit")) is None:
        return
    st.markdown(f"**{plain(readings_ab.simulator(fit), 700)}**")
    with st.container(border=True):
        st.markdown(":material/block: **What it must not be used for**")
        st.markdown("\n".join(f"- {plain(use)}" for use in readings_ab.MISUSES))
    if members := _members(run):
        st.caption(f"Beside it stands an ensemble of {count(members)} simulators fitted to resampled users: `recrl ab --members` reads it.")
    _calibration(fit)
    _reliability(run)
    _notes(fit)
    _everything(fit)


def _calibration(fit: pl.DataFrame) -> None:
    st.subheader("Calibration", anchor=False)
    compared = fit.filter(pl.col("logged").is_finite() & pl.col("lower").is_finite())
    names = compared["quantity"].unique(maintain_order=True).to_list()
    drawn = [(f"fit-{name}", figures.simulator_fit, compared.filter(pl.col("quantity") == name)) for name in names[:9]]
    show.side_by_side(drawn)
    if not drawn:
        st.caption("Nothing in this table has a logged value with an interval.")


def _reliability(run: RunFolder) -> None:
    st.subheader("Reliability", anchor=False)
    if (frame := show.table(run, "simulator_reliability", quiet=True)) is None:
        return
    st.caption("A point on the dotted line: rows foretold at 30 % were clicked 30 % of the time. Points above it: foretold too low.")
    names = frame["behaviour"].unique(maintain_order=True).to_list()
    show.side_by_side([(f"reliability-{name}", figures.reliability, frame.filter(pl.col("behaviour") == name)) for name in names[:8]])


def _notes(fit: pl.DataFrame) -> None:
    notes = fit.filter(pl.col("note") != "").group_by("note", maintain_order=True).agg(pl.col("quantity").unique(maintain_order=True))
    if notes.is_empty():
        return
    st.subheader("Notes", anchor=False)
    for note, quantities in notes.head(12).iter_rows():
        st.markdown(f"- **{plain(', '.join(words(name) for name in quantities), 200)}**: {plain(note, 400)}")


def _everything(fit: pl.DataFrame) -> None:
    with st.expander("Every quantity"):
        show.rows(
            [
                {
                    "quantity": words(row["quantity"]),
                    "group": clip(row["group"]),
                    "simulated": number(row["simulated"]),
                    "logged": number(row["logged"]),
                    "95 % interval": f"{number(row['lower'])} to {number(row['upper'])}",
                    "inside": _inside(row),
                    "note": clip(row["note"], 200),
                }
                for row in fit.iter_rows(named=True)
            ],
        )
        show.download(fit, "simulator_fit", "fit")


def _inside(row: dict[str, float]) -> str:
    if not row["lower"] <= row["upper"] or row["logged"] != row["logged"]:
        return ""
    return "✓ yes" if row["lower"] <= row["simulated"] <= row["upper"] else "✕ no"


def _members(run: RunFolder) -> int:
    folder = run.path / "artifacts" / "ensemble"
    try:
        queries.confine(run, folder)
    except RecrlError:
        return 0
    return sum(1 for _ in folder.glob("member-*/world.json"))
