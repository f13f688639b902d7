"""Every figure of the dashboard and of the report: units on each axis, shape and words beside each colour.

Figures take the frames of :mod:`dashboards.queries` and return Plotly figures in the look of :mod:`dashboards.look`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from dashboards.formats import clip, count, is_share, share, words
from dashboards.look import COLOURS, GREY, Interval, blank, dress, forest, forest_height, legend_below, line, row_names

# ---------------------------------------------------------------- data


def depth(frame: pl.DataFrame) -> go.Figure:
    """Share of sessions by their number of requests."""
    figure = blank("Session depth", "how many requests a session holds; the last bar is open", "requests in a session", "share of sessions")
    figure.add_bar(
        x=frame["depth"],
        y=frame["share"],
        marker_color=COLOURS[0],
        customdata=frame["sessions"],
        hovertemplate="%{x} requests<br>%{y:.1%} of sessions (%{customdata:,})<extra></extra>",
    )
    return figure.update_layout(bargap=0.15, yaxis_tickformat=".0%")


def gaps(frame: pl.DataFrame) -> go.Figure:
    """Both laws of return: among completed gaps, and the hazard that counts censored ones; the first 30 days."""
    frame = frame.filter(pl.col("day") <= 30)
    figure = blank(
        "Return gaps",
        "completed gaps leave out who never came back; the hazard counts them",
        "days until the next active day",
        "share returning on the day",
    )
    figure.add_bar(
        x=frame["day"],
        y=frame["completed_share"],
        name="completed gaps",
        marker={"color": COLOURS[0], "opacity": 0.45, "pattern": {"shape": "/"}},
        hovertemplate="day %{x}: %{y:.1%} of completed gaps<extra></extra>",
    )
    figure.add_scatter(
        x=frame["day"],
        y=frame["hazard"],
        name="hazard (95 % interval)",
        mode="lines+markers",
        line={"color": COLOURS[1], "width": 2},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": (frame["hazard_upper"] - frame["hazard"]).to_list(),
            "arrayminus": (frame["hazard"] - frame["hazard_lower"]).to_list(),
            "thickness": 1.2,
        },
        customdata=frame["at_risk"],
        hovertemplate="day %{x}: %{y:.1%} of %{customdata:,} still away<extra></extra>",
    )
    legend_below(figure)
    return figure.update_layout(yaxis_tickformat=".0%", bargap=0.2)


def survival(frame: pl.DataFrame) -> go.Figure:
    """Share of sessions not yet followed by a return; the first 30 days."""
    frame = frame.filter(pl.col("day") <= 30)
    figure = blank("Not yet returned", "Kaplan-Meier curve; censored gaps counted", "days since the active day", "share not yet returned")
    figure.add_scatter(
        x=[0, *frame["day"]],
        y=[1.0, *frame["survival"]],
        mode="lines+markers",
        line={"color": COLOURS[0], "width": 2, "shape": "hv"},
        hovertemplate="after day %{x}: %{y:.1%} not yet back<extra></extra>",
    )
    return figure.update_layout(yaxis={"tickformat": ".0%", "range": [0, 1.02]})


def rates(frame: pl.DataFrame) -> go.Figure:
    """Feedback rates with their intervals, for signals that are shares."""
    rows = [Interval(words(row["signal"]), row["rate"], row["lower"], row["upper"]) for row in frame.iter_rows(named=True)]
    return forest(
        rows, title="Feedback rates", subtitle="share of shown items; 95 % intervals over users", axis="share of rows", percent=True
    )


def popularity(frame: pl.DataFrame) -> go.Figure:
    """How much of the log the most shown items take."""
    figure = blank(
        "Popularity", "how much of the log the most shown items take", "items, most shown first (log scale)", "cumulative share of rows"
    )
    figure.add_scatter(
        x=frame["rank"],
        y=frame["cumulative_share"],
        mode="lines",
        line={"color": COLOURS[0], "width": 2},
        customdata=frame["rows"],
        hovertemplate="first %{x:,} items: %{y:.1%} of rows<br>this item: %{customdata:,} rows<extra></extra>",
    )
    return figure.update_layout(xaxis_type="log", yaxis={"tickformat": ".0%", "range": [0, 1.02]}).update_xaxes(dtick=1)


def daily(frame: pl.DataFrame) -> go.Figure:
    """Rows and active users of each day."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.1)
    dress(figure, "Volume by day", "rows logged, and users with at least one row")
    for row, (column, name) in enumerate((("rows", "rows"), ("active_users", "active users")), start=1):
        figure.add_scatter(
            x=frame["date"],
            y=frame[column],
            mode="lines",
            line={"color": COLOURS[row - 1], "width": 1.6},
            showlegend=False,
            hovertemplate=f"%{{x|%Y-%m-%d}}: %{{y:,}} {name}<extra></extra>",
            row=row,
            col=1,
        )
        figure.update_yaxes(title_text=f"{name} a day", rangemode="tozero", row=row, col=1)
    return figure.update_xaxes(title_text="date (UTC)", row=2, col=1)


# ---------------------------------------------------------------- training


def curve(frame: pl.DataFrame, name: str) -> go.Figure:
    """The metric ``name`` over updates, a line a learner; ``frame`` holds ``stream, name, step, value, low, high``.

    A learner keeps its colour and dash in the figures of every metric of ``frame``.
    """
    figure = blank(words(name), "mean over each bin of updates; band: least to largest", "updates", words(name), height=280)
    for k, (stream,) in enumerate(frame.select("stream").unique(maintain_order=True).iter_rows()):
        rows = frame.filter((pl.col("stream") == stream) & (pl.col("name") == name))
        if rows.is_empty():
            continue
        line(figure, k, stream.removeprefix("train-"), rows["step"], rows["value"], rows["low"], rows["high"], "update %{x:,}: %{y:.4g}")
    legend_below(figure)
    return figure


# ---------------------------------------------------------------- estimates


def estimates(frame: pl.DataFrame, signal: str) -> go.Figure:
    """Estimated value of each policy with its interval, against the logging policy's own mean."""
    rows = [
        Interval(_estimate_name(row, frame), row["value"], row["lower"], row["upper"], row["verdict"])
        for row in frame.filter(pl.col("policy") != "logged").iter_rows(named=True)
    ]
    logged = frame.filter(pl.col("policy") == "logged").head(1)
    level = share(frame["level"].max(), 0) if frame.height else ""  # type: ignore[arg-type]
    return forest(
        rows,
        title=f"Estimated {words(signal)}",
        subtitle=f"{level} intervals over users; shaded: what was logged",
        axis=f"{words(signal)} per shown item",
        percent=is_share(signal),
        reference=logged.row(0, named=True) if logged.height else None,
    )


def effective_sample(frame: pl.DataFrame) -> go.Figure:
    """How many of the rows an estimate really rests on."""
    rows = frame.filter(pl.col("policy") != "logged").reverse()
    figure = blank(
        "Effective sample size",
        "rows that carry the estimate, after weighting",
        "share of the rows",
        "",
        height=forest_height(rows.height),
    )
    figure.add_bar(
        x=rows["ess_share"],
        y=list(range(rows.height)),
        orientation="h",
        marker_color=COLOURS[0],
        width=0.55,
        text=[f" {share(row['ess_share'], 0)} · {count(row['ess'])} rows" for row in rows.iter_rows(named=True)],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{text}<extra></extra>",
    )
    row_names(figure, [_estimate_name(row, rows) for row in rows.iter_rows(named=True)])
    return figure.update_xaxes(tickformat=".0%", range=[0, 1.5], tickvals=[0, 0.25, 0.5, 0.75, 1])


def _estimate_name(row: Mapping[str, Any], frame: pl.DataFrame) -> str:
    alone = frame.filter(pl.col("policy") != "logged")["estimator"].n_unique() == 1
    return str(row["policy"]) if alone else f"{row['policy']} · {row['estimator']}"


def weights(frame: pl.DataFrame) -> go.Figure:
    """Quantiles of the importance weights; a steep tail means few rows decide."""
    figure = blank(
        "Importance weights",
        "sorted, from 0.0001 up; a steep right end: few rows decide",
        "share of rows with a smaller weight",
        "weight (log scale)",
    )
    for k, (policy,) in enumerate(frame.select("policy").unique(maintain_order=True).iter_rows()):
        rows = frame.filter((pl.col("policy") == policy) & (pl.col("weight") >= 1e-4)).sort("quantile")
        line(figure, k, policy, rows["quantile"], rows["weight"], None, None, "%{x:.1%} of rows weigh less than %{y:.3g}", markers=True)
    legend_below(figure)
    return figure.update_layout(xaxis={"tickformat": ".0%", "range": [-0.02, 1.02]}).update_yaxes(
        type="log", nticks=6, exponentformat="power"
    )


# ---------------------------------------------------------------- A/B and simulator


def effects(frame: pl.DataFrame) -> go.Figure:
    """Relative effect of one arm on each metric of one scenario; arrows say which way is better."""
    rows = [_effect(row, f"{words(row['metric'])} {arrow(row)}") for row in _measured(frame).iter_rows(named=True)]
    title = f"{clip(frame['arm'][0], 40)} against {clip(frame['baseline'][0], 40)}" if frame.height else "Effects"
    return forest(rows, title=title, subtitle=_scenario(frame), axis="relative change", percent=True, zero=True)


def arms(frame: pl.DataFrame) -> go.Figure:
    """Relative effect of each arm on one metric of one scenario, the best arm first."""
    measured = _measured(frame)
    ranked = measured.sort("relative_effect", descending=bool(measured["higher_is_better"].any()))
    rows = [_effect(row, row["arm"]) for row in ranked.iter_rows(named=True)]
    first = frame.row(0, named=True) if frame.height else None
    title = f"{words(first['metric'])} {arrow(first)}, each arm against {clip(first['baseline'], 40)}" if first else "Arms"
    return forest(rows, title=title, subtitle=_scenario(frame), axis="relative change", percent=True, zero=True)


def arrow(row: Mapping[str, Any]) -> str:
    """Which way is better for a row of ``ab_metrics``."""
    return "↑" if row["higher_is_better"] else "↓"


def _measured(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter((pl.col("arm") != pl.col("baseline")) & pl.col("relative_effect").is_finite())


def _effect(row: Mapping[str, Any], name: str) -> Interval:
    base = abs(row["baseline_mean"]) or math.nan
    return Interval(name, row["relative_effect"], row["lower"] / base, row["upper"] / base, row["verdict"])


def _scenario(frame: pl.DataFrame) -> str:
    if frame.is_empty():
        return "nothing measured"
    first = frame.row(0, named=True)
    return f"scenario {clip(first['scenario'], 40)}; {share(first['level'], 0)} intervals; arrow: the better direction"


def ab_daily(frame: pl.DataFrame, metric: str) -> go.Figure:
    """A daily metric of each arm, with bands."""
    unit = {"daily_active_share": "share of users", "watch_seconds_per_user": "seconds a user", "requests_per_user": "requests a user"}.get(
        metric, words(metric)
    )
    figure = blank(words(metric).removesuffix(" share"), "each day of the experiment; band: 95 % interval", "day of the experiment", unit)
    _arms(figure, frame.filter(pl.col("metric") == metric), "value", "day %{x}: %{y:.1%}" if is_share(metric) else "day %{x}: %{y:.4g}")
    return figure.update_layout(yaxis_tickformat=".0%" if is_share(metric) else None)


def retention(frame: pl.DataFrame) -> go.Figure:
    """Share of sessions followed by a return within so many days."""
    figure = blank("Returned within", "first return after a session; band: 95 % interval", "days since the session", "share returned")
    _arms(figure, frame, "returned_share", "within %{x} days: %{y:.1%}")
    return figure.update_layout(yaxis_tickformat=".0%")


def simulator_fit(frame: pl.DataFrame) -> go.Figure:
    """One quantity of the simulator (diamond) beside the log (bar: interval, tick: value), a row a group."""
    rows = frame.reverse()
    quantity = words(frame["quantity"][0]) if frame.height else "quantity"
    figure = blank(quantity, "diamond: simulated; bar and tick: logged, with its interval", quantity, "", height=forest_height(rows.height))
    for position, row in enumerate(rows.iter_rows(named=True)):
        bar = {"mode": "lines", "hoverinfo": "skip", "showlegend": False}
        figure.add_scatter(x=[row["lower"], row["upper"]], y=[position] * 2, line={"color": GREY, "width": 9}, opacity=0.45, **bar)
        for value, symbol, colour, hover in (
            (row["logged"], "line-ns-open", GREY, "logged %{x:.4g}"),
            (row["simulated"], "diamond", COLOURS[0], "simulated %{x:.4g}"),
        ):
            figure.add_scatter(
                x=[value],
                y=[position],
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 2, "color": colour}},
                hovertemplate=f"{hover}<extra></extra>",
                showlegend=False,
            )
    row_names(figure, [row["group"] or row["quantity"] for row in rows.iter_rows(named=True)])
    return figure.update_xaxes(nticks=6, tickangle=0)


def _arms(figure: go.Figure, frame: pl.DataFrame, column: str, hover: str) -> None:
    for k, (arm,) in enumerate(frame.select("arm").unique(maintain_order=True).iter_rows()):
        rows = frame.filter(pl.col("arm") == arm).sort("day")
        line(figure, k, arm, rows["day"], rows[column], rows["lower"], rows["upper"], hover)
    legend_below(figure)
