"""A Plotly figure that takes our traces and marks as they are given: checking each costs more than all else on a page."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl


class Drawing(go.Figure):
    """A figure whose lines and bars go unchecked into its JSON; its layout is Plotly's own."""

    def __init__(self, layout: dict[str, Any]) -> None:
        super().__init__(layout=layout)
        self._drawn: list[dict[str, Any]] = []
        self._shapes: list[dict[str, Any]] = []
        self._notes: list[dict[str, Any]] = []

    def add_scatter(self, **trace: Any) -> Drawing:
        """Add points or a line; polars columns are taken as they are."""
        return self._add("scatter", trace)

    def add_bar(self, **trace: Any) -> Drawing:
        """Add bars."""
        return self._add("bar", trace)

    def add_hline(self, y: float, line: dict[str, Any]) -> Drawing:
        """A line from side to side."""
        return self._mark({"type": "line", "x0": 0, "x1": 1, "xref": "x domain", "y0": y, "y1": y, "yref": "y", "line": line})

    def add_vline(self, x: float, line: dict[str, Any]) -> Drawing:
        """A line from top to bottom."""
        return self._mark({"type": "line", "x0": x, "x1": x, "xref": "x", "y0": 0, "y1": 1, "yref": "y domain", "line": line})

    def add_vrect(self, x0: float, x1: float, fillcolor: str) -> Drawing:
        """A shade from top to bottom."""
        place = {"x0": x0, "x1": x1, "xref": "x", "y0": 0, "y1": 1, "yref": "y domain"}
        return self._mark({"type": "rect", **place, "fillcolor": fillcolor, "line": {"width": 0}})

    def note(self, **annotation: Any) -> Drawing:
        """Words at a place."""
        self._notes.append({"showarrow": False, **annotation})
        return self

    def _mark(self, shape: dict[str, Any]) -> Drawing:
        self._shapes.append(shape)
        return self

    def _add(self, kind: str, trace: dict[str, Any]) -> Drawing:
        self._drawn.append({"type": kind, **{name: _plain(value) for name, value in trace.items() if value is not None}})
        return self

    @property
    def data(self) -> tuple[Any, ...]:
        """The traces as Plotly's objects, checked."""
        return tuple(go.Figure(data=self._drawn).data)

    def names(self) -> list[str]:
        """Names in the legend."""
        return [str(trace["name"]) for trace in self._drawn if trace.get("name") and trace.get("showlegend") is not False]

    def to_dict(self) -> dict[str, Any]:
        """Plotly's JSON."""
        # its layout alone: there are no checked traces
        found = super().to_dict()
        marks = {"shapes": self._shapes, "annotations": self._notes}
        return {**found, "layout": {**found["layout"], **marks}, "data": self._drawn}


def _plain(value: Any) -> Any:
    """A column as Plotly's JSON has it: numbers as typed arrays, which hold what is not finite; all else as lists."""
    if isinstance(value, pl.Series):
        if value.dtype.is_temporal():
            value = value.cast(pl.String)
        if not value.dtype.is_float():
            return value.to_list()
        value = value.to_numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return {"dtype": "f8", "bdata": base64.b64encode(value.astype("<f8").tobytes()).decode()}
    return list(value) if isinstance(value, tuple) else value
