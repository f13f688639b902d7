"""Plain sentences on how an A/B test may be read: stopping, assignment, trend, scenarios, the simulator behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from dashboards.figures.ab import SPAN
from dashboards.formats import change, clip, number, p_value, share, words

MISUSES = (
    "forecasts of absolute retention, sessions or watch time of a live service",
    "how much satisfaction matters for return: that is put in, as a scenario (eta), because a log does not tell",
    "policies that show what the log hardly ever showed: what the simulator knows of those items is mostly the average",
)
"""What no fitted simulator is good for."""

_JUDGED = ("rate", "leave_hazard", "return_hazard")
_BROKEN = 0.001


def may_stop(rows: pl.DataFrame) -> str:
    """Whether one metric and arm may be stopped at its last day; ``rows`` of ``ab_sequential``."""
    if rows.is_empty():
        return "No look was taken."
    rows = rows.sort("day")
    last = rows.row(-1, named=True)
    alpha = 1.0 - last["level"]
    shown = rows.filter(pl.col("verdict").is_in(["better", "worse"]))
    found = f"{change(last['effect'], last['unit'])} after day {last['day']}"
    if shown.height:
        first = shown.row(0, named=True)
        text = (
            f"You may stop: since day {first['day']} the always-valid look says {first['verdict']}, with every metric and arm allowed for; "
            f"{found}, p\u00a0{_p(last['p_value'])}."
        )
    elif last["p_value"] < alpha:
        text = (
            f"You may stop if this metric alone was asked for: {found}, always-valid p\u00a0{_p(last['p_value'])}. "
            "With every other metric and arm allowed for, nothing is shown."
        )
    elif last["fixed_p_value"] < alpha:
        text = (
            f"Do not stop on this: p\u00a0{_p(last['fixed_p_value'])} holds for one look at the planned end only; "
            f"read every day it is {_p(last['p_value'])}. {found}."
        )
    else:
        text = f"Nothing to stop for: {found}, always-valid p\u00a0{_p(last['p_value'])}."
    least = last["information_ratio"]
    if math.isfinite(least) and least < 1.0:
        text += f" The promise is approximate here: later days go against earlier ones (information ratio {number(least)}, below 1)."
    return text


def sample_ratio(design: Mapping[str, Any]) -> str:
    """Whether users fell into the arms as planned; a row of ``ab_design``."""
    p = design["sample_ratio_p"]
    if design["paired"]:
        return "✓ Sample ratio: every arm holds the same users, so their numbers cannot differ."
    if not math.isfinite(p):
        return "△ Sample ratio: not checked."
    if p < _BROKEN:
        return f"✕ Sample ratio: arm sizes differ from the plan (p\u00a0{_p(p)}). The assignment is broken: read no effect of this test."
    return f"✓ Sample ratio: arm sizes are as planned (p\u00a0{_p(p)})."


def log_rank(retention: pl.DataFrame, arm: str) -> str:
    """Whether an arm's users return sooner over all days; rows of ``ab_retention`` of one scenario."""
    p = retention.filter(pl.col("arm") == arm)["log_rank_p"].drop_nans().to_list()
    if not p:
        return "Whole return curves were not compared (log-rank): a run of this version does."
    verdict = "the return curves differ" if p[0] < 0.05 else "no difference of the whole return curves is shown"
    return f"Log-rank test over all days: {verdict} (p\u00a0{_p(p[0])})."


def trend(row: Mapping[str, Any], unit: str) -> str:
    """Whether an effect grows or fades; a row of ``ab_trend``."""
    slope = f"{change(row['slope'], unit)} a day (p\u00a0{_p(row['p_value'])})"
    return {
        "grows": f"↗ The effect grows, {slope}: the end of the test understates what comes.",
        "fades": f"↘ The effect fades, {slope}: part of it may be novelty; a longer test tells.",
    }.get(row["verdict"], f"→ No trend from day to day is shown: {slope}.")


def heterogeneity(rows: pl.DataFrame) -> str:
    """Whether groups of one segment differ; rows of ``ab_segments`` of one metric, arm and segment."""
    p = rows["heterogeneity_p"][0]
    verdict = "Effects differ between groups" if p < 0.05 else "No difference between groups is shown"
    return f"{verdict} (Cochran's Q, p\u00a0{_p(p)}, this metric alone). Verdicts allow for every metric, arm and group."


def over_scenarios(rows: pl.DataFrame) -> str:
    """What the scenarios say together of one metric and arm; rows of ``ab_uncertainty``."""
    if rows.is_empty():
        return "This metric was not simulated."
    name, each = words(rows["metric"][0]), rows.filter(pl.col("scenario") != SPAN)
    says = each["verdict"].unique(maintain_order=True).to_list()
    if each.height == 1:
        return (
            f"Only scenario {clip(each['scenario'][0], 40)} was simulated. Satisfaction's effect on return is assumed: try the others too."
        )
    if len(says) == 1:
        return f"All {each.height} scenarios say the same of {name}: {clip(says[0])}."
    parts = ", ".join(f"{clip(row['scenario'], 40)}: {clip(row['verdict'])}" for row in each.iter_rows(named=True))
    return f"◇ {name[:1].upper()}{name[1:]} depends on eta ({parts}). A log does not tell which scenario is right."


def simulator(fit: pl.DataFrame) -> str:
    """How the fit held up on users it had not seen; ``simulator_fit``."""
    rows = fit.filter(pl.col("quantity").is_in(_JUDGED) & (pl.col("note") == ""))
    inside = rows.filter((pl.col("lower") <= pl.col("simulated")) & (pl.col("simulated") <= pl.col("upper"))).height
    if rows.is_empty():
        return "Nothing fitted could be checked: the rates and laws of return behind this simulator are stated, not this log's."
    return f"{inside} of {rows.height} fitted quantities lie within the held-out {share(0.95, 0)} intervals."


def _p(value: float) -> str:
    shown = p_value(value)
    return (shown if shown.startswith("<") else f"= {shown}").replace(" ", "\u00a0")
