"""Compare: runs side by side, with downloads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import polars as pl
import streamlit as st

from dashboards import controls, estimated, look, queries, seeds, show
from dashboards.figures import ab as ab_figures
from dashboards.figures import compare as figures
from dashboards.figures import training as training_figures
from dashboards.formats import clip, middle, number, p_value, plain, quantity, signed_share, words
from dashboards.report import render
from dashboards.schema import TABLES
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder

_MOST = 8
_PARTS = ("Estimates", "A/B effects", "Training")


def page() -> None:
    """Draw the page."""
    show.title(
        "Compare",
        "Runs side by side: estimates, A/B effects, where training ended. A link shows what you chose, else this run and the newest.",
    )
    run = show.chosen_run()
    if run is not None:
        body(run)


def body(run: RunFolder) -> None:
    """Which runs, which part, and the part."""
    root = queries.runs_root()
    known = [found.name for found in queries.list_runs(root)]
    wanted = [run.name, *(name for name in known if name != run.name)][:2]
    chosen = controls.choices("Runs", known, "runs", default=wanted, most=_MOST, shown=lambda name: clip(name, 60))
    if not chosen:
        st.caption("Choose one or more runs.")
        return
    runs = [queries.open_run(root, name) for name in chosen]
    part = controls.view(_PARTS)
    parts: dict[str, Callable[[list[RunFolder]], None]] = {"Estimates": _estimates, "A/B effects": _effects, "Training": _training}
    show.part(lambda: parts[part](runs))
    _reports(runs)


def _estimates(runs: list[RunFolder]) -> None:
    rows = _joined(runs, "estimates")
    if rows is None:
        return
    signals = rows["signal"].unique(maintain_order=True).to_list()
    with st.container(horizontal=True):
        signal = controls.choice("Signal", signals, "signal", default=queries.main_signal(runs[0], rows), shown=words)
        rows = rows.filter(pl.col("signal") == signal)
        names = rows.filter(pl.col("policy") != "logged")["estimator"].unique(maintain_order=True).to_list()
        estimator = controls.choice("Estimator", names, "estimator", default=queries.main_estimator(rows))
    if signal is None or estimator is None:
        return
    rows = queries.by_estimator(rows, estimator)
    show.figure("compare-estimates", figures.estimates, rows, signal)
    unit = estimated.unit(signal, estimated.kind_of(signal, estimator))
    show.rows(
        [
            {
                "run": clip(row["run"]),
                "policy": clip(row["policy"]),
                "value": quantity(row["value"], unit),
                "interval": f"{quantity(row['lower'], unit)} to {quantity(row['upper'], unit)}",
                "effective rows": number(row["ess"]),
                "verdict": look.verdict(row["verdict"]),
            }
            for row in rows.iter_rows(named=True)
        ],
    )
    st.caption("Compare runs on one log and one split only: other rows are another question.")
    show.download(rows, "estimates", "compare-estimates")


def _effects(runs: list[RunFolder]) -> None:
    rows = _joined(runs, "ab_metrics")
    if rows is None:
        return
    rows = rows.filter(pl.col("arm") != pl.col("baseline"))
    with st.container(horizontal=True):
        scenario = controls.choice("Scenario", rows["scenario"].unique(maintain_order=True).to_list(), "scenario")
        rows = rows.filter(pl.col("scenario") == scenario)
        metric = controls.choice("Metric", rows["metric"].unique(maintain_order=True).to_list(), "metric", shown=words)
    rows = rows.filter(pl.col("metric") == metric)
    if metric is None or rows.is_empty():
        return
    show.figure("compare-effects", figures.effects, rows, metric)
    show.rows(
        [
            {
                "run": clip(row["run"]),
                "arm": clip(row["arm"]),
                "baseline": clip(row["baseline"]),
                f"{words(row['metric'])} {ab_figures.arrow(row)}": quantity(row["mean"], clip(row["unit"])),
                "relative": signed_share(row["relative_effect"]),
                "p": p_value(row["p_value"]),
                "users": row["users"],
                "verdict": look.verdict(row["verdict"]),
            }
            for row in rows.iter_rows(named=True)
        ],
        column_config={"users": st.column_config.NumberColumn(format="localized")},
    )
    st.caption("Each arm stands against the baseline of its own run; runs with other baselines, users or days answer other questions.")
    show.download(rows, "ab_metrics", "compare-effects")


def _training(runs: list[RunFolder]) -> None:
    frames = []
    for run in runs:
        try:
            for stream in queries.streams(run):
                learner = stream.removeprefix("train-")
                found = seeds.of_stream(queries.curves(run, stream), f"{middle(learner, 12)} · {middle(run.name, 17)}")
                frames.append(found.with_columns(run=pl.lit(run.name), learner=pl.lit(learner)))
        except RecrlError as error:
            show.problem(error)
    frames = [frame for frame in frames if frame.height]
    if not frames:
        st.caption("None of these runs logged training metrics.")
        return
    everything = pl.concat(frames)
    metric = controls.choice("Metric", everything["name"].unique(maintain_order=True).to_list(), "trained", shown=words)
    if metric is None:
        return
    rows = everything.filter(pl.col("name") == metric)
    show.figure("compare-curves", training_figures.curve, rows, metric)
    last = rows.filter(pl.col("step") > 0.9 * pl.col("step").max().over("stream"))
    ended = last.group_by("run", "learner", maintain_order=True).agg(
        pl.col("value").mean(), pl.col("low").min(), pl.col("high").max(), updates=pl.col("step").max()
    )
    show.figure("compare-ends", figures.ends, ended, metric)
    show.download(ended, f"training-{metric}", "compare-training")


def _reports(runs: list[RunFolder]) -> None:
    st.subheader("Reports", anchor=False)
    st.caption("One self-contained page a run, made when you ask for it. Figures: the camera that appears over each gives a PNG.")
    with st.container(horizontal=True):
        for run in runs:
            st.download_button(
                f"{plain(run.name, 40)}.html",
                partial(render, run),
                f"{show.file_name(run.name)}.html",
                "text/html",
                key=f"report-{run.name}",
                icon=":material/description:",
                on_click="ignore",
            )


def _joined(runs: list[RunFolder], name: str) -> pl.DataFrame | None:
    """A table of all runs that hold it, with the run's name; says which do not."""
    found, absent = [], []
    for run in runs:
        try:
            found.append(queries.table(run, name).with_columns(run=pl.lit(run.name)))
        except RecrlError as error:
            if queries.has_table(run, name):
                show.problem(error)
            else:
                absent.append(run)
    if found and absent:
        st.caption(plain(f"Without {TABLES[name].title}: {', '.join(clip(run.name, 60) for run in absent)}.", 700))
    elif absent:
        show.table(absent[0], name)
    rows = pl.concat(found) if found else None
    return None if rows is None or rows.is_empty() else rows
