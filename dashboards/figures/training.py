"""Curves of learners, one run or several seeds."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import polars as pl

from dashboards.formats import words
from dashboards.look import blank, legend_below, line

_UNITS = {
    "updates_per_second": "updates a second",
    "steps_per_second": "steps a second",
    "eval_return": "reward a life",
    "seconds": "seconds",
}


def curve(frame: pl.DataFrame, name: str, seeds: int = 0, streams: Sequence[str] = ()) -> go.Figure:
    """The metric ``name`` over updates, a line a learner; ``frame`` holds ``stream, name, step, value, low, high``.

    A learner keeps its colour and dash by its place in ``streams``, usually those of ``frame``. With ``seeds`` the band is over them.
    """
    subtitle = f"mean over {seeds} seeds; band: least to largest seed" if seeds else "mean over each bin of updates; band: least to largest"
    figure = blank(words(name), subtitle, "updates", unit_of(name), height=280)
    for k, stream in enumerate(streams or frame["stream"].unique(maintain_order=True)):
        rows = frame.filter((pl.col("stream") == stream) & (pl.col("name") == name))
        if rows.is_empty():
            continue
        line(figure, k, stream.removeprefix("train-"), rows["step"], rows["value"], rows["low"], rows["high"], "update %{x:,}: %{y:.4g}")
    legend_below(figure)
    return figure


def unit_of(name: str) -> str:
    """What the axis of a metric says: its unit where it has one; losses and values are in units of reward."""
    if name in _UNITS:
        return _UNITS[name]
    known = {"loss": " (no unit)", "q_": " (units of reward)", "value": " (units of reward)", "share": " (0 to 1)", "entropy": " (nats)"}
    return words(name) + next((unit for part, unit in known.items() if part in name), "")
