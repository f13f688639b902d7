"""What the log is: depth of sessions, return gaps, rates, popularity, volume."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl

from dashboards.formats import clip, compact, words
from dashboards.look import COLOURS, Interval, below, blank, forest, legend_below


def depth(frame: pl.DataFrame) -> go.Figure:
    """Share of sessions by their number of requests."""
    figure = blank("Session depth", "how many requests a session holds; the last bar is open", "requests in a session", "share of sessions")
    figure.add_bar(
        x=frame["depth"],
        y=frame["share"],
        marker={"color": COLOURS[0]},
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


def cohort_rates(frame: pl.DataFrame, signal: str, by: str) -> go.Figure:
    """Rate of one signal in each cohort of users (``cohort, users, rate, lower, upper``)."""
    rows = [
        Interval(f"{clip(row['cohort'], 24)} ({compact(row['users'])})", row["rate"], row["lower"], row["upper"])
        for row in frame.iter_rows(named=True)
    ]
    subtitle = "users in brackets; 95 % intervals over users"
    return forest(rows, title=f"{words(signal)} by {words(by)}", subtitle=subtitle, axis="share of rows", percent=True)


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
    figure = blank("Volume by day", "rows logged, and users with at least one row", "date (UTC)", "rows a day")
    below(figure, "active users a day")
    for k, (column, name) in enumerate((("rows", "rows"), ("active_users", "active users"))):
        figure.add_scatter(
            x=frame["date"],
            y=frame[column],
            yaxis="y2" if k else "y",
            mode="lines",
            line={"color": COLOURS[k], "width": 1.6},
            showlegend=False,
            hovertemplate=f"%{{x|%Y-%m-%d}}: %{{y:,}} {name}<extra></extra>",
        )
    return figure.update_layout(xaxis_type="date", yaxis_rangemode="tozero", yaxis2_rangemode="tozero")
