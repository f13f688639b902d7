"""The planner's curve."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from dashboards import planning
from dashboards.figures.ab import effect_axis
from dashboards.formats import count, number, share
from dashboards.look import COLOURS, GREY, blank, legend_below


def detectable(deviation: float, unit: str, plan: tuple[float, int], target: float, level: float, paired: bool) -> go.Figure:
    """Effects that so many users show, looking once and looking every day; the plan (effect, users) as a diamond."""
    effect, users = plan
    scale, axis = effect_axis(unit)
    figure = blank(
        "What so many users show",
        f"with power {share(target, 0)} at level {share(level, 0)}; diamond: the plan",
        "users an arm (log scale)",
        axis,
    )
    counts = np.geomspace(max(users / 30, 10), max(users, 10) * 30, 40)
    costs = planning.looking_costs(level, target)
    for k, (name, factor, dash) in enumerate((("one look at the end", 1.0, "solid"), ("a look every day", costs, "dash"))):
        found = [scale * planning.detectable_effect(deviation, max(n / factor, 2.0), level, target, paired=paired) for n in counts]
        figure.add_scatter(
            x=counts,
            y=found,
            mode="lines",
            name=name,
            line={"color": COLOURS[k], "width": 2, "dash": dash},
            hovertemplate=f"%{{x:,.0f}} users: %{{y:.4g}}<extra>{name}</extra>",
        )
    figure.add_scatter(
        x=[users],
        y=[scale * effect],
        mode="markers",
        marker={"symbol": "diamond", "size": 13, "color": COLOURS[0], "line": {"width": 1.5, "color": GREY}},
        name="plan",
        hovertemplate=f"{count(users)} users, effect {number(scale * effect)}<extra>plan</extra>",
    )
    legend_below(figure)
    return figure.update_xaxes(type="log", dtick=1, tickformat=",").update_yaxes(rangemode="tozero")
