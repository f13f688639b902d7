"""Figures of the ``data_*`` tables; units stand on every axis."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go
import polars as pl

_BLUE, _ORANGE, _GREY = "#2563a8", "#c2571a", "#6b7280"


def all_figures(tables: Mapping[str, pl.DataFrame]) -> dict[str, go.Figure]:
    """Every figure, by name."""
    return {
        "depth": depth_figure(tables["data_depth"]),
        "gaps": gap_figure(tables["data_gaps"]),
        "rates": rate_figure(tables["data_rates"]),
        "popularity": popularity_figure(tables["data_popularity"]),
        "daily": daily_figure(tables["data_daily"]),
    }


def _figure(title: str, x: str, y: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        title=title,
        xaxis_title=x,
        yaxis_title=y,
        template="plotly_white",
        margin={"l": 70, "r": 30, "t": 60, "b": 60},
        legend={"x": 0.99, "xanchor": "right", "y": 0.99, "yanchor": "top", "bgcolor": "rgba(255,255,255,0.7)"},
    )
    return figure


def depth_figure(table: pl.DataFrame) -> go.Figure:
    """Sessions by depth; the last bin is open."""
    figure = _figure("Session depth", "depth (requests in a session)", "share of sessions (%)")
    labels = [str(d) for d in table["depth"]]
    if len(labels) == 50:
        labels[-1] = "50+"
    figure.add_bar(
        x=labels,
        y=100 * table["share"],
        marker_color=_BLUE,
        customdata=table["sessions"],
        hovertemplate="%{x} requests: %{y:.2f} % (%{customdata:,} sessions)<extra></extra>",
    )
    figure.update_xaxes(type="category")
    return figure


def gap_figure(table: pl.DataFrame) -> go.Figure:
    """Both laws of the return gap: the share among completed gaps, and the hazard with censoring counted."""
    figure = _figure("Return gap", "gap between active days (days)", "share or hazard (%)")
    figure.add_bar(x=table["day"], y=100 * table["completed_share"], name="share of completed gaps", marker_color=_GREY, opacity=0.55)
    figure.add_scatter(
        x=table["day"],
        y=100 * table["hazard"],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": (100 * (table["hazard_upper"] - table["hazard"])).to_list(),
            "arrayminus": (100 * (table["hazard"] - table["hazard_lower"])).to_list(),
        },
        name="hazard, censoring counted (95 % interval)",
        mode="lines+markers",
        line_color=_BLUE,
    )
    figure.add_scatter(
        x=table["day"], y=100 * table["survival"], name="not yet returned", mode="lines", line={"color": _ORANGE, "dash": "dash"}
    )
    figure.update_xaxes(dtick=1 if table.height <= 31 else None)
    figure.update_yaxes(range=[0, 100])
    return figure


def rate_figure(table: pl.DataFrame) -> go.Figure:
    """Rate of each behaviour on a log axis, with user-clustered intervals."""
    shares = table.filter((pl.col("unit") == "share of rows") & (pl.col("rate") > 0))
    figure = _figure("Rates of behaviours", "rate (% of rows, log scale)", "behaviour")
    figure.add_scatter(
        x=100 * shares["rate"],
        y=shares["signal"],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": (100 * (shares["upper"] - shares["rate"])).to_list(),
            "arrayminus": (100 * (shares["rate"] - shares["lower"])).to_list(),
        },
        mode="markers",
        marker={"size": 9, "color": _BLUE},
        name="rate (95 % interval by user)",
        hovertemplate="%{y}: %{x:.3g} %<extra></extra>",
    )
    figure.update_xaxes(type="log")
    figure.update_yaxes(autorange="reversed")
    return figure


def popularity_figure(table: pl.DataFrame) -> go.Figure:
    """How rows gather on few items."""
    figure = _figure("Popularity of items", "items, most shown first (rank, log scale)", "cumulative share of rows (%)")
    figure.add_scatter(x=table["rank"], y=100 * table["cumulative_share"], mode="lines", line_color=_BLUE, name="cumulative share")
    figure.update_xaxes(type="log")
    figure.update_yaxes(range=[0, 100])
    return figure


def daily_figure(table: pl.DataFrame) -> go.Figure:
    """Rows and active users by day."""
    figure = _figure("Activity by day", "day (platform's calendar, else UTC)", "rows, users (count a day)")
    figure.add_scatter(x=table["date"], y=table["rows"], mode="lines+markers", name="rows", line_color=_BLUE)
    figure.add_scatter(
        x=table["date"], y=table["active_users"], mode="lines+markers", name="active users", line={"color": _ORANGE, "dash": "dash"}
    )
    figure.update_yaxes(rangemode="tozero")
    return figure
