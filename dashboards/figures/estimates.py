"""Off-policy estimates, and what they rest on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import polars as pl

from dashboards import estimated
from dashboards.formats import clip, count, share
from dashboards.look import COLOURS, GREY, Interval, blank, forest, forest_height, legend_below, line, row_names


def estimates(frame: pl.DataFrame, signal: str) -> go.Figure:
    """Estimated value of each policy with its interval, against the log's own; rows of one kind (:func:`dashboards.estimated.apart`)."""
    kind = estimated.kind_in(frame, signal)
    rows = [
        Interval(_estimate_name(row, frame), row["value"], row["lower"], row["upper"], row["verdict"])
        for row in frame.filter(pl.col("policy") != "logged").iter_rows(named=True)
    ]
    logged = frame.filter(pl.col("policy") == "logged").head(1)
    level = share(frame["level"].max(), 0) if frame.height else ""  # type: ignore[arg-type]
    return forest(
        rows,
        title=f"Estimated {estimated.name(signal, kind)}",
        subtitle=f"{level} intervals over users; shaded: what was logged",
        axis=estimated.axis(signal, kind),
        percent=estimated.unit(signal, kind) == "share",
        reference=logged.row(0, named=True) if logged.height else None,
    )


def effective_sample(frame: pl.DataFrame) -> go.Figure:
    """How many of the rows, or sessions, an estimate really rests on."""
    rows = frame.filter(pl.col("policy") != "logged").reverse()
    counted = estimated.kind_in(frame, frame["signal"][0]).counted if frame.height else "rows"
    figure = blank(
        "Effective sample size",
        f"{counted} that carry the estimate, after weighting",
        f"share of the {counted}",
        "",
        height=forest_height(rows.height),
    )
    figure.add_bar(
        x=rows["ess_share"],
        y=list(range(rows.height)),
        orientation="h",
        marker={"color": COLOURS[0]},
        width=0.55,
        text=[f" {share(row['ess_share'], 0)} · {count(row['ess'])} {counted}" for row in rows.iter_rows(named=True)],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{text}<extra></extra>",
    )
    row_names(figure, [_estimate_name(row, rows) for row in rows.iter_rows(named=True)])
    return figure.update_xaxes(tickformat=".0%", range=[0, 1.5], tickvals=[0, 0.25, 0.5, 0.75, 1])


def _estimate_name(row: Mapping[str, Any], frame: pl.DataFrame) -> str:
    alone = frame.filter(pl.col("policy") != "logged")["estimator"].n_unique() == 1
    return str(row["policy"]) if alone else f"{row['policy']} · {row['estimator']}"


def weights(frame: pl.DataFrame) -> go.Figure:
    """Quantiles of the importance weights; a steep tail means few rows decide."""
    figure = blank(
        "Importance weights",
        "sorted, from 0.0001 up; a steep right end: few rows decide",
        "share of rows with a smaller weight",
        "weight (log scale)",
    )
    for k, (policy,) in enumerate(frame.select("policy").unique(maintain_order=True).iter_rows()):
        rows = frame.filter((pl.col("policy") == policy) & (pl.col("weight") >= 1e-4)).sort("quantile")
        line(figure, k, policy, rows["quantile"], rows["weight"], None, None, "%{x:.1%} of rows weigh less than %{y:.3g}", markers=True)
    legend_below(figure)
    return figure.update_layout(xaxis={"tickformat": ".0%", "range": [-0.02, 1.02]}).update_yaxes(type="log", dtick=1, tickformat="~g")


def reliability(frame: pl.DataFrame) -> go.Figure:
    """How often actions of a stated propensity were really logged, over how often they should have been."""
    rows = frame.sort("bin")
    figure = blank(
        "Do propensities mean what they say?",
        "1: yes; 2: they are half of what they should be",
        "stated propensity of logged actions",
        "logged / expected",
    )
    figure.add_scatter(
        x=[f"to {high:.2g}" for high in rows["to_propensity"]],
        y=rows["ratio"],
        mode="markers",
        marker={"color": COLOURS[0], "size": 9},
        error_y={"type": "data", "array": (1.96 * rows["error"]).to_list(), "thickness": 1.4},
        customdata=rows["logged_share"],
        hovertemplate="propensity %{x}<br>%{y:.2f} times as often as stated<br>%{customdata:.1%} of logged rows<extra></extra>",
    )
    figure.add_hline(y=1, line={"color": GREY, "width": 1.4, "dash": "dot"})
    return figure.update_yaxes(rangemode="tozero").update_xaxes(type="category", tickangle=-35)


def overlap(frame: pl.DataFrame) -> go.Figure:
    """By group of items: what the policy would show, and for how much of it the log can speak."""
    figure = blank(
        "Overlap by popularity of items",
        "what the policy would show, what the log can speak for; ✕ marks a hole",
        "items by how often training showed them",
        "share of shown items",
    )
    rows = frame.sort("group")
    names = [band(group) for group in rows["group"]]
    marks = ["✕ hole" if hole else "" for hole in rows["hole"]]
    for k, (column, name, pattern) in enumerate((("target_share", "policy", ""), ("weighted_share", "log, weighted", "/"))):
        figure.add_bar(
            x=names,
            y=rows[column],
            name=name,
            marker={"color": COLOURS[k], "pattern": {"shape": pattern}},
            text=marks if k == 1 else None,
            textposition="outside",
            cliponaxis=False,
            hovertemplate=f"%{{x}}<br>{name}: %{{y:.1%}}<extra></extra>",
        )
    legend_below(figure)
    figure.update_xaxes(type="category")
    return figure.update_layout(barmode="group", bargap=0.25, yaxis_tickformat=".0%")


def cohorts(frame: pl.DataFrame) -> go.Figure:
    """Effective share of the rows of each policy, users of the training part and others apart."""
    rows = []
    for row in frame.iter_rows(named=True):
        worth = row["ess_share"]
        rows.append(Interval(f"{clip(row['policy'], 20)}, {cohort(row['cohort'])}", worth, worth, worth, row["verdict"]))
    return forest(
        rows,
        title="Effective sample size by cohort",
        subtitle="share of the cohort's rows that carry the estimate",
        axis="effective share of the rows",
        percent=True,
    ).update_xaxes(rangemode="tozero")


def band(group: int) -> str:
    """What a group of ``estimates_overlap`` is."""
    return {0: "never", 1: "1, least", 5: "5, most"}.get(group, str(group))


def cohort(code: int) -> str:
    """What a cohort of ``estimates_cohorts`` is."""
    return {0: "new users", 1: "known users"}.get(code, f"cohort {code}")
