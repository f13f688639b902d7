"""The look that all figures share: colours, verdict signs, forest plots, lines with bands, titles.

Backgrounds are transparent and the ink is left to the page, so figures sit well on light and on dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import east_asian_width

import plotly.graph_objects as go
import polars as pl

from dashboards.drawing import Drawing
from dashboards.formats import clip

COLOURS = ("#2f7ed8", "#e08214", "#1b9e77", "#9b6dd6", "#d6604d", "#3aa6b9", "#a6761d")
"""Apart in hue and in lightness for colour-blind readers, and legible on white and on near-black."""

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
GREY = "rgba(128,128,128,0.9)"
_GRID = "rgba(128,128,128,0.22)"

VERDICTS = {
    "trust": ("circle", "✓ trust"),
    "caution": ("diamond-open", "△ caution"),
    "do not use": ("x-thin-open", "✕ do not use"),
    "better": ("circle", "▲ better"),
    "worse": ("square", "▼ worse"),
    "no difference shown": ("circle-open", "○ no difference shown"),
    "depends on eta": ("diamond-open", "◇ depends on eta"),
    "not tested": ("line-ew-open", "– not tested"),
    "grows": ("triangle-up", "↗ grows"),
    "fades": ("triangle-down", "↘ fades"),
    "no trend shown": ("circle-open", "→ no trend shown"),
}
"""Marker and words of each verdict; the two say it without colour."""


@dataclass(frozen=True)
class Interval:
    """One row of a forest plot; ``inner`` is a second, drawn thicker, interval."""

    label: str
    value: float
    lower: float
    upper: float
    verdict: str = ""
    inner: tuple[float, float] | None = None


def label(text: object, limit: int = 32) -> str:
    """Foreign text for a figure: short, and escaped, as Plotly reads a subset of HTML."""
    return html.escape(clip(text, limit))


def verdict(name: str) -> str:
    """A verdict with its sign."""
    return VERDICTS[name][1] if name in VERDICTS else clip(name)


def forest(
    rows: Sequence[Interval],
    *,
    title: str,
    subtitle: str,
    axis: str,
    percent: bool,
    reference: dict[str, float] | None = None,
    zero: bool = False,
) -> go.Figure:
    """Values with their intervals, one row each from top to bottom; verdicts stand in words at the right."""
    figure = blank(title, subtitle, axis, "", height=forest_height(len(rows)))
    shown = "%{x:+.2%}" if percent and zero else "%{x:.2%}" if percent else "%{x:+.4g}" if zero else "%{x:.4g}"
    placed = list(enumerate(reversed(rows)))
    # one trace for all bars of a width, not one a row: building a trace costs more than all else
    bars = {
        3.0: [(position, row.lower, row.upper) for position, row in placed if row.inner is None],
        1.6: [(position, row.lower, row.upper) for position, row in placed if row.inner is not None],
        7.0: [(position, *row.inner) for position, row in placed if row.inner is not None],
    }
    for width, ends in bars.items():
        if ends:
            figure.add_scatter(
                x=[x for _, low, high in ends for x in (low, high, None)],
                y=[y for position, *_ in ends for y in (position, position, None)],
                mode="lines",
                line={"color": COLOURS[0], "width": width},
                opacity=0.55,
                hovertemplate=f"{shown}<extra>end of the interval</extra>",
                showlegend=False,
            )
    figure.add_scatter(
        x=[row.value for _, row in placed],
        y=[position for position, _ in placed],
        mode="markers",
        marker={
            "color": COLOURS[0],
            "symbol": [VERDICTS.get(row.verdict, ("circle", ""))[0] for _, row in placed],
            "size": 11,
            "line": {"width": 2.4, "color": COLOURS[0]},
        },
        hovertemplate=f"{shown}<extra></extra>",
        showlegend=False,
    )
    for position, row in placed:
        if row.verdict:
            figure.note(x=1.01, xref="paper", y=position, xanchor="left", text=label(verdict(row.verdict), 24), font={"size": 12})
    if zero:
        figure.add_vline(x=0, line={"color": GREY, "width": 1.4, "dash": "dot"})
    if reference is not None:
        figure.add_vrect(x0=reference["lower"], x1=reference["upper"], fillcolor="rgba(128,128,128,0.18)")
        figure.add_vline(x=reference["value"], line={"color": GREY, "width": 1.4, "dash": "dot"})
    row_names(figure, [row.label for row in reversed(rows)])
    figure.update_xaxes(tickformat=("+.1~%" if zero else ".1~%") if percent else None, zeroline=False, nticks=6, tickangle=0)
    return figure.update_layout(margin_r=150 if any(row.verdict for row in rows) else 16)


def line(
    figure: Drawing,
    k: int,
    name: str,
    x: pl.Series,
    y: pl.Series,
    low: pl.Series | None,
    high: pl.Series | None,
    hover: str,
    markers: bool = False,
) -> None:
    """Add a named line; ``k`` gives its colour, dash and symbol, ``low`` and ``high`` its band."""
    colour, dash, shown = COLOURS[k % len(COLOURS)], _DASHES[k % len(_DASHES)], label(name)
    if low is not None and high is not None:
        edge = {"mode": "lines", "line": {"width": 0, "color": colour}, "legendgroup": str(k), "showlegend": False, "hoverinfo": "skip"}
        figure.add_scatter(x=x, y=low, **edge)
        figure.add_scatter(x=x, y=high, fill="tonexty", fillcolor=_faint(colour), **edge)
    figure.add_scatter(
        x=x,
        y=y,
        name=shown,
        # a line through one point is none
        mode="lines+markers" if markers or len(x) == 1 else "lines",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"symbol": _SYMBOLS[k % len(_SYMBOLS)], "size": 6},
        legendgroup=str(k),
        showlegend=True,
        hovertemplate=f"{hover}<extra>%{{fullData.name}}</extra>",
    )


def legend_below(figure: Drawing) -> None:
    """Room for the legend below the axis."""
    names = figure.names()
    lines = math.ceil(sum(len(name) + 8 for name in names) / 56)
    figure.update_layout(height=figure.layout.height + 22 * lines, margin_b=60 + 22 * lines)


def row_names(figure: go.Figure, names: Sequence[str]) -> None:
    """Name the rows at 0, 1, ... from the bottom up."""
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=[label(name, 36) for name in names],
        range=[-0.6, len(names) - 0.4],
        showgrid=False,
        zeroline=False,
    )
    # Plotly would find it by drawing all twice
    figure.update_layout(margin_l=20 + max((_width(label(name, 36)) for name in names), default=0))


def _width(text: str) -> int:
    """Pixels of an axis's label, rather too many."""
    shown = html.unescape(text)
    return math.ceil(sum(13.0 if east_asian_width(sign) in "WF" else 6.9 for sign in shown))


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.22)"


def forest_height(rows: int) -> int:
    """Height in pixels for so many rows."""
    return 150 + 34 * max(rows, 1)


def blank(title: str, subtitle: str, x: str, y: str, height: int = 340) -> Drawing:
    """An empty figure with its title and axis titles."""
    layout = _layout(title, subtitle, height)
    # all at once: each change of a figure's layout is checked anew, and takes as long
    layout["xaxis"] = {**_AXIS, "title": {"text": html.escape(x), "standoff": 10}}
    layout["yaxis"] = {**_AXIS, **_UPRIGHT, "title": {"text": html.escape(y), "standoff": 10}}
    return Drawing(layout)


def below(figure: Drawing, title: str) -> None:
    """A second vertical axis (``y2``), below the first and over the same horizontal one."""
    second = {**_AXIS, **_UPRIGHT, "title": {"text": html.escape(title), "standoff": 10}, "domain": [0.0, 0.45], "anchor": "x"}
    figure.update_layout(yaxis_domain=[0.55, 1.0], yaxis2=second, xaxis_anchor="y2")


_AXIS = {"gridcolor": _GRID, "zeroline": False, "separatethousands": True}
_UPRIGHT = {"ticklabelstandoff": 6}


def _layout(title: str, subtitle: str, height: int) -> dict[str, Any]:
    return {
        "title": {
            "text": f"<b>{html.escape(title)}</b>",
            "subtitle": {"text": html.escape(subtitle), "font": {"size": 12.5}},
            "x": 0,
            "xref": "container",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 10, "l": 4},
            "font": {"size": 16},
        },
        "height": height,
        "margin": {"l": 80, "r": 16, "t": 78, "b": 56},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"},
        "hovermode": "closest",
        "meta": {"alt": f"{title}: {subtitle}"},
    }
