"""One user's sessions."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl

from dashboards.formats import clip, words
from dashboards.look import COLOURS, GREY, blank, legend_below, row_names


def sessions(rows: pl.DataFrame, signal: str, user: str) -> go.Figure:
    """A line a session, the first at the top; a dot a shown item, filled where ``signal`` was given."""
    starts = rows.group_by("session").agg(pl.col("started").first(), pl.len().alias("rows")).sort("session", descending=True)
    figure = blank(
        f"Sessions of user {clip(user, 24)}",
        f"a dot: one shown item; filled: {words(signal)}",
        "items of the session, in the order shown",
        "",
        height=150 + 26 * max(starts.height, 1),
    )
    position = pl.col("session").replace_strict(starts["session"].to_list(), list(range(starts.height)), return_dtype=pl.Int64)
    placed = rows.with_columns(y=position, given=pl.col(signal) > 0)
    for given, symbol, name in ((True, "circle", words(signal)), (False, "circle-open", f"no {words(signal)}")):
        part = placed.filter(pl.col("given") == given)
        figure.add_scatter(
            x=part["place"],
            y=part["y"],
            mode="markers",
            name=name,
            marker={"symbol": symbol, "size": 9, "color": COLOURS[0] if given else GREY, "line": {"width": 1.4}},
            customdata=part.select("item", pl.col("time").dt.strftime("%Y-%m-%d %H:%M:%S")).rows(),
            hovertemplate=f"item %{{customdata[0]}}, {name}<br>%{{customdata[1]}} UTC<extra></extra>",
        )
    row_names(figure, [f"{started:%Y-%m-%d %H:%M}" for started in starts["started"]])
    legend_below(figure)
    return figure.update_xaxes(rangemode="tozero", nticks=8)
