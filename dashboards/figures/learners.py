"""What particular learners do: trade-offs under constraints, an abstraction under drift, a reward learned from preferences."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import polars as pl

from dashboards import units
from dashboards.formats import number, words
from dashboards.learned import Point
from dashboards.look import COLOURS, GREY, Interval, blank, forest, label, legend_below, line


def lines(frame: pl.DataFrame, names: Sequence[str], title: str, subtitle: str, axis: str, cut: int = 0, zero: bool = False) -> go.Figure:
    """Several metrics of one learner over updates; names without their first ``cut`` characters, ``zero`` with a line at zero."""
    figure = blank(title, subtitle, "updates", axis, height=300)
    for k, name in enumerate(names):
        rows = frame.filter(pl.col("name") == name)
        line(figure, k, words(name[cut:]), rows["step"], rows["value"], rows["low"], rows["high"], "update %{x:,}: %{y:.4g}")
    if zero:
        figure.add_hline(y=0, line={"color": GREY, "width": 1.6, "dash": "dot"})
    if len(names) > 1 or cut:
        legend_below(figure)
    else:
        # its title says it
        figure.update_layout(showlegend=False)
    return figure


def trade_off(paths: pl.DataFrame, points: Sequence[Point], main: str, auxiliary: str, bound: float | None) -> go.Figure:
    """Main against one other response: a line a learner's training, a large sign its end; filled: no other end beats it in both."""
    figure = blank(
        f"{words(main)} against {words(auxiliary)}",
        "line: training, in twelfths; large sign: its end; filled: none beats it in both",
        f"{words(auxiliary)} ({units.unit_of(f'rate_{auxiliary}')})",
        f"{words(main)} ({units.unit_of(f'rate_{main}')})",
        height=360,
    )
    for k, point in enumerate(points):
        way = paths.filter(pl.col("who") == point.who)
        colour = COLOURS[k % len(COLOURS)]
        figure.add_scatter(
            x=way["x"],
            y=way["y"],
            mode="lines",
            line={"color": colour, "width": 1},
            opacity=0.45,
            legendgroup=str(k),
            showlegend=False,
            customdata=way["step"],
            hovertemplate="update %{customdata:,}: %{x:.4g}, %{y:.4g}<extra></extra>",
        )
        figure.add_scatter(
            x=[point.x],
            y=[point.y],
            mode="markers",
            name=label(point.who, 40),
            marker={"symbol": point.symbol, "size": 14, "color": colour, "line": {"width": 2.4, "color": colour}},
            legendgroup=str(k),
            showlegend=True,
            hovertemplate="end: %{x:.4g}, %{y:.4g}<extra>%{fullData.name}</extra>",
        )
    if bound is not None:
        figure.add_vline(x=bound, line={"color": GREY, "width": 1.6, "dash": "dash"})
        figure.note(x=bound, y=1, yref="paper", yanchor="bottom", text=f"bound {number(bound)}")
    legend_below(figure)
    return figure.update_xaxes(nticks=6)


def accuracy(rows: Sequence[Interval], of: str) -> go.Figure:
    """Share of pairs whose better timeline the reward finds, by kind; dotted: guessing."""
    figure = forest(
        rows,
        title="Pairs judged rightly",
        subtitle=f"{of}; 95 % intervals; dotted: guessing",
        axis="share of pairs judged rightly",
        percent=True,
    )
    return figure.add_vline(x=0.5, line={"color": GREY, "width": 1.6, "dash": "dot"})


def calibration(frame: pl.DataFrame) -> go.Figure:
    """Predicted probability that the first is preferred, against the share of pairs where it was; dotted: perfect."""
    figure = blank(
        "Does it know how sure it is?",
        "tenths of pairs by prediction; dotted: perfect; bars: 95 % intervals",
        "predicted share that prefers the first",
        "share that preferred the first",
    )
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": GREY, "width": 1.4, "dash": "dot"}, hoverinfo="skip", showlegend=False
    )
    figure.add_scatter(
        x=frame["predicted"],
        y=frame["preferred"],
        mode="lines+markers",
        line={"color": COLOURS[0], "width": 1.6},
        marker={"size": 8},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": (frame["upper"] - frame["preferred"]).to_list(),
            "arrayminus": (frame["preferred"] - frame["lower"]).to_list(),
            "thickness": 1.2,
        },
        customdata=frame["pairs"],
        hovertemplate="predicted %{x:.0%}, preferred %{y:.0%}<br>%{customdata:,} pairs<extra></extra>",
        showlegend=False,
    )
    for axes in (figure.update_xaxes, figure.update_yaxes):
        axes(tickformat=".0%", range=[-0.03, 1.03])
    return figure


def reproduction(rows: Sequence[Interval], seeds: pl.DataFrame, quantity: str, part: str) -> go.Figure:
    """One quantity of each method: mean and interval over seeds, and each seed (``method, value``) as a small open dot."""
    figure = forest(
        rows,
        title=words(quantity),
        subtitle=f"{part}: mean over seeds, 95 % t interval; small: each seed",
        axis=units.axis(quantity),
        percent=False,
    )
    place = {row.label: k for k, row in enumerate(reversed(rows))}
    found = seeds.filter(pl.col("method").is_in(list(place)))
    return figure.add_scatter(
        x=found["value"],
        y=[place[method] - 0.22 for method in found["method"]],
        mode="markers",
        marker={"symbol": "circle-open", "size": 6, "color": GREY},
        customdata=found["seed"],
        hovertemplate="seed %{customdata}: %{x:.4g}<extra></extra>",
        showlegend=False,
    )


def recovery(rows: Sequence[Interval], measure: str) -> go.Figure:
    """Mean of one measure of recovery over all switches, a row a method, the best first."""
    return forest(
        rows, title=words(measure), subtitle="mean over switches, 95 % t interval over seeds", axis=units.axis(measure), percent=False
    ).update_xaxes(rangemode="tozero")


def switches(frame: pl.DataFrame, measure: str, part: str) -> go.Figure:
    """The same measure switch by switch, a line a method; dashed: the days on which the drift switches."""
    figure = blank(
        f"{words(measure)} by switch", f"{part}: mean over seeds; dashed: the drift switches", "day of the switch", units.axis(measure)
    )
    for day in frame["switch_day"].unique(maintain_order=True):
        figure.add_vline(x=day, line={"color": GREY, "width": 1.2, "dash": "dash"})
    for k, (method,) in enumerate(frame.select("method").unique(maintain_order=True).iter_rows()):
        rows = frame.filter(pl.col("method") == method)
        line(figure, k, method, rows["switch_day"], rows[measure], None, None, "switch on day %{x}: %{y:.4g}", markers=True)
    legend_below(figure)
    return figure.update_yaxes(rangemode="tozero")
