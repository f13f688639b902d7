"""An A/B test while it runs: effects so far, p-values by day, each day alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import polars as pl

from dashboards.figures.ab import effect_axis
from dashboards.formats import number, words
from dashboards.look import COLOURS, GREY, blank, legend_below, line

_LEAST_P = 1e-6


def so_far(frame: pl.DataFrame) -> go.Figure:
    """The effect of the sums so far by day: band for a look every day, dotted lines for one look at the end."""
    first = frame.row(0, named=True)
    scale, axis = effect_axis(first["unit"])
    figure = blank(
        f"{words(first['metric'])}: effect so far",
        "band: holds on all days at once; dotted: holds for one look at the end",
        "day of the experiment",
        axis,
    )
    rows = frame.sort("day")
    day, effect, lower, upper = (rows[name] for name in ("day", "effect", "lower", "upper"))
    line(figure, 0, "effect, always-valid band", day, scale * effect, scale * lower, scale * upper, "until day %{x}: %{y:+.4g}")
    for column, named in (("fixed_lower", True), ("fixed_upper", False)):
        figure.add_scatter(
            x=day,
            y=scale * rows[column],
            name="interval of one look",
            mode="lines",
            line={"color": COLOURS[1], "width": 1.4, "dash": "dot"},
            legendgroup="fixed",
            showlegend=named,
            hovertemplate="one look on day %{x}: %{y:+.4g}<extra></extra>",
        )
    figure.add_hline(y=0, line={"color": GREY, "width": 1.4, "dash": "dot"})
    legend_below(figure)
    return figure


def p_values(frame: pl.DataFrame) -> go.Figure:
    """p-values by day: the one that may be read every day, and the one for a single look."""
    rows = frame.sort("day")
    alpha = 1.0 - rows["level"][0]
    figure = blank(
        "p-value by day",
        f"below the line at {number(alpha)}: shown, for this metric alone; cut off at a millionth",
        "day of the experiment",
        "p-value (log scale)",
    )
    for k, (column, name) in enumerate((("p_value", "may be read every day"), ("fixed_p_value", "for one look only"))):
        line(figure, k, name, rows["day"], rows[column].clip(_LEAST_P, 1.0), None, None, "day %{x}: p = %{y:.2g}", markers=True)
    figure.add_hline(y=alpha, line={"color": GREY, "width": 1.4, "dash": "dash"})
    legend_below(figure)
    ticks = {1.0: "1", 0.1: "0.1", 0.01: "0.01", 1e-3: "0.001", 1e-4: "1e-4", 1e-5: "1e-5", 1e-6: "1e-6"}
    return figure.update_yaxes(type="log", range=[-6.3, 0.3], tickmode="array", tickvals=list(ticks), ticktext=list(ticks.values()))


def each_day(frame: pl.DataFrame, trend: Mapping[str, Any] | None, unit: str) -> go.Figure:
    """Each day's own effect with its interval, and the fitted trend (a row of ``ab_trend``)."""
    rows = frame.sort("day")
    scale, axis = effect_axis(unit)
    figure = blank(
        f"{words(rows['metric'][0])}: each day alone",
        "95 % intervals; line: fitted trend from day 1 on",
        "day of the experiment",
        axis,
    )
    figure.add_scatter(
        x=rows["day"],
        y=scale * rows["effect"],
        mode="markers",
        name="effect of the day",
        marker={"color": COLOURS[0], "size": 7},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": (scale * (rows["upper"] - rows["effect"])).to_list(),
            "arrayminus": (scale * (rows["effect"] - rows["lower"])).to_list(),
            "thickness": 1.2,
        },
        hovertemplate="day %{x}: %{y:+.4g}<extra></extra>",
    )
    days = rows.filter(pl.col("day") > 0)["day"]
    if trend is not None and len(days):
        middle = days.mean()
        figure.add_scatter(
            x=days,
            y=scale * (trend["mean_effect"] + trend["slope"] * (days - middle)),
            mode="lines",
            name="trend",
            line={"color": COLOURS[1], "width": 2, "dash": "dash"},
            hoverinfo="skip",
        )
    figure.add_hline(y=0, line={"color": GREY, "width": 1.4, "dash": "dot"})
    legend_below(figure)
    return figure
