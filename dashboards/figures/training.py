"""Curves of learners, one run or several seeds."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import polars as pl

from dashboards import units
from dashboards.formats import words
from dashboards.look import blank, legend_below, line


def curve(frame: pl.DataFrame, name: str, seeds: int = 0, streams: Sequence[str] = ()) -> go.Figure:
    """The metric ``name`` over updates, a line a learner; ``frame`` holds ``stream, name, step, value, low, high``.

    A learner keeps its colour and dash by its place in ``streams``, usually those of ``frame``. With ``seeds`` the band is over them.
    """
    subtitle = f"mean over {seeds} seeds; band: least to largest seed" if seeds else "mean over each bin of updates; band: least to largest"
    figure = blank(words(name), subtitle, "updates", units.axis(name), height=280)
    for k, stream in enumerate(streams or frame["stream"].unique(maintain_order=True)):
        rows = frame.filter((pl.col("stream") == stream) & (pl.col("name") == name))
        if rows.is_empty():
            continue
        line(figure, k, stream.removeprefix("train-"), rows["step"], rows["value"], rows["low"], rows["high"], "update %{x:,}: %{y:.4g}")
    legend_below(figure)
    return figure
