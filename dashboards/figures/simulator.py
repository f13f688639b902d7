"""A simulator beside the log it was fitted to."""

from __future__ import annotations

import math

import plotly.graph_objects as go
import polars as pl

from dashboards.formats import words
from dashboards.look import COLOURS, GREY, blank, forest_height, row_names

_MEANING = {
    "rate": "share of shown items with the behaviour",
    "click_given": "share with a click among items with the behaviour",
    "auc": "how well likely rows are told from unlikely ones, 0.5 to 1",
    "ece": "mean distance of foretold and logged shares",
    "leave_hazard": "share of requests that end the session",
    "return_hazard": "share back on a day, of those not back before",
    "watch_seconds": "mean watch time of a shown item, in seconds",
    "delta_dow": "weekday's effect on return, log-odds",
    "eta_s": "effect of satisfaction on return, log-odds a unit",
}


def simulator_fit(frame: pl.DataFrame) -> go.Figure:
    """One quantity of the simulator (diamond) beside the log (bar: interval, tick: value), a row a group."""
    rows = frame.reverse()
    name = frame["quantity"][0] if frame.height else "quantity"
    axis = _MEANING.get(name, f"{words(name)} (as fitted)")
    subtitle = "diamond: simulated; bar and tick: logged, with its interval"
    figure = blank(words(name), subtitle, axis, "", height=forest_height(rows.height))
    places = list(range(rows.height))
    ends = rows.select("lower", "upper").rows()
    figure.add_scatter(
        x=[x for low, high in ends for x in (low, high, None)],
        y=[y for place in places for y in (place, place, None)],
        mode="lines",
        line={"color": GREY, "width": 9},
        opacity=0.45,
        hoverinfo="skip",
        showlegend=False,
    )
    for column, symbol, colour in (("logged", "line-ns-open", GREY), ("simulated", "diamond", COLOURS[0])):
        figure.add_scatter(
            x=rows[column],
            y=places,
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 2, "color": colour}},
            hovertemplate=f"{column} %{{x:.4g}}<extra></extra>",
            showlegend=False,
        )
    row_names(figure, [words(row["group"] or row["quantity"]) for row in rows.iter_rows(named=True)])
    return figure.update_xaxes(nticks=6, tickangle=0)


def reliability(frame: pl.DataFrame) -> go.Figure:
    """Predicted against logged shares of one behaviour, ten bins of equal size; on the dotted line the two agree."""
    name = words(frame["behaviour"][0]) if frame.height else "behaviour"
    figure = blank(
        f"{name}: foretold and logged",
        "ten bins of rows; dotted: perfect; bars: 95 % of logged",
        f"predicted {name} (share)",
        f"logged {name} (share)",
    )
    rows = frame.sort("bin")
    ends = [0.0, max([0.0, *(x for column in ("predicted", "upper") for x in rows[column] if x is not None and math.isfinite(x))])]
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": GREY, "width": 1.4, "dash": "dot"}, hoverinfo="skip", showlegend=False)
    figure.add_scatter(
        x=rows["predicted"],
        y=rows["logged"],
        mode="lines+markers",
        line={"color": COLOURS[0], "width": 1.6},
        marker={"size": 7},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": (rows["upper"] - rows["logged"]).to_list(),
            "arrayminus": (rows["logged"] - rows["lower"]).to_list(),
            "thickness": 1.2,
        },
        customdata=rows["rows"],
        hovertemplate="foretold %{x:.2%}, logged %{y:.2%}<br>%{customdata:,} rows<extra></extra>",
        showlegend=False,
    )
    return figure.update_xaxes(tickformat=".1~%", nticks=6, tickangle=0).update_yaxes(tickformat=".1~%", nticks=6)
