"""The tables the pages read: columns with their types (see ``docs/artifacts.md``)."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class TableSpec:
    """One table of ``artifacts/``: what it is called on a page, its columns, and the command that writes it.

    ``later`` names columns that runs of an earlier version lack: there they are empty.
    """

    title: str
    columns: dict[str, pl.DataType]
    made_by: str
    later: frozenset[str]


def _table(
    title: str, made_by: str, *, text: str = "", counts: str = "", numbers: str = "", flags: str = "", dates: str = "", later: str = ""
) -> TableSpec:
    kinds = ((text, pl.String()), (counts, pl.Int64()), (numbers, pl.Float64()), (flags, pl.Boolean()), (dates, pl.Date()))
    columns: dict[str, pl.DataType] = {column: kind for names, kind in kinds for column in names.split()}
    return TableSpec(title, columns, made_by, frozenset(later.split()))


_DESCRIBE, _OPE, _AB, _FIT = "recrl data describe NAME", "recrl ope RUN", "recrl ab popularity RUN", "recrl simulate fit"
_PREFER = "recrl prefer train RUN"
_ESTIMATED = "policy signal estimator interval verdict reasons"
_EFFECT = "mean baseline_mean effect lower upper level p_value relative_effect"

TABLES: dict[str, TableSpec] = {
    "data_summary": _table(
        "data summary",
        _DESCRIBE,
        text="name content_hash session_rule",
        counts="rows users items sessions requests duplicate_rows random_rows first_ms last_ms",
    ),
    "data_depth": _table("session depth", _DESCRIBE, counts="depth sessions", numbers="share"),
    "data_gaps": _table(
        "return gaps",
        _DESCRIBE,
        counts="day completed at_risk returned",
        numbers="completed_share hazard hazard_lower hazard_upper survival",
    ),
    "data_rates": _table("feedback rates", _DESCRIBE, text="signal unit", counts="rows", numbers="rate lower upper"),
    "data_popularity": _table("item popularity", _DESCRIBE, counts="rank rows", numbers="cumulative_share"),
    "data_daily": _table("daily volume", _DESCRIBE, dates="date", counts="rows active_users"),
    "data_quality": _table("data quality", _DESCRIBE, text="check severity note", counts="count"),
    "estimates": _table(
        "off-policy estimates", _OPE, text=_ESTIMATED, counts="rows users", numbers="value lower upper level ess ess_share max_weight_share"
    ),
    "estimates_weights": _table("importance weights", _OPE, text="policy", numbers="quantile weight"),
    "estimates_reliability": _table(
        "propensity reliability", _OPE, counts="bin", numbers="from_propensity to_propensity drawn_share logged_share ratio error"
    ),
    "estimates_overlap": _table(
        "overlap",
        _OPE,
        text="policy",
        counts="group rows",
        numbers="logged_share target_share weighted_share seen error",
        flags="hole",
    ),
    "estimates_cohorts": _table(
        "effective sample size by cohort",
        _OPE,
        text="policy verdict reasons",
        counts="cohort rows users",
        numbers="ess ess_share effective_users mean_weight weight_share",
    ),
    "ab_metrics": _table(
        "A/B metrics", _AB, text="scenario metric unit arm baseline verdict", counts="users", numbers=_EFFECT, flags="higher_is_better"
    ),
    "ab_daily": _table("A/B by day", _AB, text="scenario arm metric", counts="day", numbers="value lower upper"),
    "ab_retention": _table(
        "A/B retention", _AB, text="scenario arm", counts="day", numbers="returned_share lower upper log_rank_p", later="log_rank_p"
    ),
    "ab_design": _table(
        "A/B design",
        _AB,
        text="arms baseline eta_scenario",
        counts="users days seed user_steps pre_days",
        numbers="eta sample_ratio_p seconds",
        flags="paired",
        later="pre_days",
    ),
    "ab_sequential": _table(
        "looks at every day",
        _AB,
        text="scenario metric unit arm baseline verdict",
        counts="day",
        numbers="mean baseline_mean effect fixed_lower fixed_upper fixed_p_value lower upper p_value level information_ratio",
        flags="higher_is_better",
    ),
    "ab_by_day": _table("effects of each day", _AB, text="scenario metric arm", counts="day", numbers="effect lower upper"),
    "ab_trend": _table("trend of effects", _AB, text="scenario metric arm verdict", numbers="slope lower upper level p_value mean_effect"),
    "ab_cuped": _table(
        "CUPED",
        "recrl ab popularity RUN --no-paired --pre-days 7",
        text="scenario metric unit arm baseline covariate verdict",
        numbers=f"{_EFFECT} plain_lower plain_upper predicted_reduction variance_reduction p_adjusted",
        flags="higher_is_better",
    ),
    "ab_segments": _table(
        "segments",
        "recrl ab popularity RUN --segments COLUMN",
        text="scenario metric unit arm baseline segment group verdict",
        counts="users",
        numbers=f"{_EFFECT} heterogeneity_p p_adjusted",
        flags="higher_is_better",
    ),
    "ab_guardrails": _table(
        "guardrails",
        _AB,
        text="scenario metric unit arm baseline verdict",
        numbers=f"{_EFFECT} p_adjusted",
        flags="higher_is_better",
    ),
    "ab_exposure": _table(
        "exposure by provider",
        "recrl ab popularity RUN --provider COLUMN",
        text="scenario metric unit arm baseline provider segment group",
        numbers=f"{_EFFECT} p_adjusted",
    ),
    "ab_uncertainty": _table(
        "simulator uncertainty",
        "recrl ab popularity RUN --scenarios fitted weak strong --members 10",
        text="scenario metric unit arm baseline verdict",
        counts="members",
        numbers="eta effect lower upper level p_value plain_effect plain_lower plain_upper within between",
    ),
    "simulator_fit": _table("simulator fit", _FIT, text="quantity group note", numbers="simulated logged lower upper"),
    "simulator_reliability": _table(
        "simulator reliability", _FIT, text="behaviour", counts="bin rows", numbers="predicted logged lower upper"
    ),
    "ranking": _table(
        "supervised rankers", "recrl train sasrec", text="policy split positives part metric", counts="cases", numbers="value popularity"
    ),
    "reward_accuracy": _table("accuracy of the learned reward", _PREFER, text="kind of", counts="pairs", numbers="right"),
    "reward_calibration": _table("calibration of the learned reward", _PREFER, counts="pairs", numbers="low predicted preferred"),
    "reward_summary": _table(
        "share of the reward about actions", _PREFER, counts="judged_pairs", numbers="action_share", flags="held_out too_little_action"
    ),
    "reward_pairs": _table(
        "labelled pairs",
        _PREFER,
        text="split first_timeline second_timeline",
        counts="pair first_user second_user",
        numbers="preferred predicted first_return second_return",
    ),
    "reproduction_cells": _table(
        "reproduction", "recrl reproduce tscac", text="part method quantity", counts="seed", numbers="value", flags="primary"
    ),
    "reproduction_recovery": _table(
        "recovery after drift",
        "recrl reproduce auro",
        text="part method",
        counts="seeds",
        numbers="recovery_days recovery_days_low recovery_days_high regret_area regret_area_low regret_area_high",
    ),
    "reproduction_switches": _table(
        "switches of a drift",
        "recrl reproduce auro",
        text="part method",
        counts="switch_day seeds",
        numbers="recovery_days regret_area",
    ),
}
"""Every table of ``docs/artifacts.md`` by file name."""
