"""The A/B page's parts: segments, guardrails, exposure, CUPED."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dashboards import controls, look, readings_ab, show
from dashboards.figures import ab as figures
from dashboards.formats import change, clip, p_value, plain, quantity, share, signed_share, span, words
from recrl.core.runs import RunFolder

_PROVIDERS = 20


def body(run: RunFolder, scenario: str, mine: pl.DataFrame) -> None:
    """Every part of one arm; ``mine`` holds its ``ab_metrics``."""
    here = (pl.col("scenario") == scenario) & (pl.col("arm") == mine["arm"][0])
    st.subheader("Segments", anchor=False)
    if (segments := show.table(run, "ab_segments", quiet=True)) is not None:
        show.part(lambda: _segments(segments.filter(here), mine))
    st.subheader("Guardrails", anchor=False)
    if (guardrails := show.table(run, "ab_guardrails", quiet=True)) is not None and (found := guardrails.filter(here)).height:
        _guardrails(found)
    st.subheader("Exposure by provider", anchor=False)
    if (exposure := show.table(run, "ab_exposure", quiet=True)) is not None:
        show.part(lambda: _exposure(exposure.filter(here)))
    st.subheader("CUPED", anchor=False)
    if (cuped := show.table(run, "ab_cuped", quiet=True)) is not None and (found := cuped.filter(here)).height:
        _cuped(found)


def _segments(rows: pl.DataFrame, mine: pl.DataFrame) -> None:
    with st.container(horizontal=True):
        segment = controls.choice("Segment", rows["segment"].unique(maintain_order=True).to_list(), "segment")
        metric = controls.choice("Metric", rows["metric"].unique(maintain_order=True).to_list(), "metric", shown=words)
    rows = rows.filter((pl.col("segment") == segment) & (pl.col("metric") == metric))
    if rows.is_empty():
        return
    st.markdown(plain(readings_ab.heterogeneity(rows), 400))
    whole = mine.filter(pl.col("metric") == metric)
    show.figure("segments", figures.segments, rows, whole.row(0, named=True) if whole.height else None)
    show.download(rows, f"segments-{segment}", "segments")


def _guardrails(rows: pl.DataFrame) -> None:
    show.figure("guardrails", figures.guardrails, rows)
    show.rows(
        [
            {
                "guardrail": f"{words(row['metric'])} {figures.arrow(row)}",
                "mean": quantity(row["mean"], clip(row["unit"])),
                "baseline": quantity(row["baseline_mean"], clip(row["unit"])),
                "relative": signed_share(row["relative_effect"]),
                "p, corrected": p_value(row["p_adjusted"]),
                "verdict": look.verdict(row["verdict"]),
            }
            for row in rows.iter_rows(named=True)
        ],
    )
    st.caption("Coverage, effective items and Gini index belong to an arm as a whole, so they have no interval and are not tested.")


def _exposure(rows: pl.DataFrame) -> None:
    groups = [f"{segment}: {group}" for segment, group in rows.select("segment", "group").unique(maintain_order=True).iter_rows()]
    chosen = controls.choice("Users", groups, "exposed", shown=lambda name: "everybody" if name == "all: all" else clip(name, 60))
    rows = rows.filter(pl.concat_str("segment", pl.lit(": "), "group") == chosen)
    if rows.is_empty():
        return
    largest = rows.sort(pl.col("effect").abs(), descending=True, nulls_last=True).head(_PROVIDERS)
    show.figure("exposure", figures.exposure, largest)
    shown = f"The {largest.height} largest changes of {rows.height} providers. " if rows.height > largest.height else ""
    tested = rows.filter(pl.col("p_adjusted") < 0.05).height
    st.caption(f"{shown}Allowing for every provider, group and arm, {tested} of {rows.height} shares changed.")
    show.download(rows, "exposure", "exposure")


def _cuped(rows: pl.DataFrame) -> None:
    show.figure("cuped", figures.cuped, rows)
    show.rows(
        [
            {
                "metric": f"{words(row['metric'])} {figures.arrow(row)}",
                "effect": change(row["effect"], clip(row["unit"])),
                "with CUPED": span(row["lower"], row["upper"], clip(row["unit"])),
                "without": span(row["plain_lower"], row["plain_upper"], clip(row["unit"])),
                "variance taken away": share(row["variance_reduction"]),
                "foretold": share(row["predicted_reduction"]),
                "covariate": words(row["covariate"]),
                "verdict": look.verdict(row["verdict"]),
            }
            for row in rows.iter_rows(named=True)
        ],
    )
