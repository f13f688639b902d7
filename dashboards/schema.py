"""The tables the pages read: columns with their types (see ``docs/artifacts.md``)."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class TableSpec:
    """One table of ``artifacts/``: what it is called on a page, and its columns."""

    title: str
    columns: dict[str, pl.DataType]


def _table(title: str, *, text: str = "", counts: str = "", numbers: str = "", flags: str = "", dates: str = "") -> TableSpec:
    kinds = {text: pl.String(), counts: pl.Int64(), numbers: pl.Float64(), flags: pl.Boolean(), dates: pl.Date()}
    return TableSpec(title, {column: kind for names, kind in kinds.items() for column in names.split()})


TABLES: dict[str, TableSpec] = {
    "data_summary": _table(
        "data summary",
        text="name content_hash session_rule",
        counts="rows users items sessions requests duplicate_rows random_rows first_ms last_ms",
    ),
    "data_depth": _table("session depth", counts="depth sessions", numbers="share"),
    "data_gaps": _table(
        "return gaps", counts="day completed at_risk returned", numbers="completed_share hazard hazard_lower hazard_upper survival"
    ),
    "data_rates": _table("feedback rates", text="signal unit", counts="rows", numbers="rate lower upper"),
    "data_popularity": _table("item popularity", counts="rank rows", numbers="cumulative_share"),
    "data_daily": _table("daily volume", dates="date", counts="rows active_users"),
    "data_quality": _table("data quality", text="check severity note", counts="count"),
    "estimates": _table(
        "off-policy estimates",
        text="policy signal estimator interval verdict reasons",
        counts="rows users",
        numbers="value lower upper level ess ess_share max_weight_share",
    ),
    "estimates_weights": _table("importance weights", text="policy", numbers="quantile weight"),
    "ab_metrics": _table(
        "A/B metrics",
        text="scenario metric unit arm baseline verdict",
        counts="users",
        numbers="mean baseline_mean effect lower upper level p_value relative_effect",
        flags="higher_is_better",
    ),
    "ab_daily": _table("A/B by day", text="scenario arm metric", counts="day", numbers="value lower upper"),
    "ab_retention": _table("A/B retention", text="scenario arm", counts="day", numbers="returned_share lower upper"),
    "ab_design": _table(
        "A/B design",
        text="arms baseline eta_scenario",
        counts="users days seed user_steps",
        numbers="eta sample_ratio_p seconds",
        flags="paired",
    ),
    "ranking": _table("supervised rankers", text="policy split positives part metric", counts="cases", numbers="value popularity"),
    "simulator_fit": _table("simulator fit", text="quantity group note", numbers="simulated logged lower upper"),
}
"""Every table of ``docs/artifacts.md`` by file name."""
