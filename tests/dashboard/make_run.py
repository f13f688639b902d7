"""A complete, plausible run folder with every table of docs/artifacts.md, made in a blink: what the pages are tested on."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recrl.core.runs import RunFolder
from tests.dashboard.make_parts import ab_parts, diagnostics, learners

BASELINE, ARM = "popularity", "td3_bc"
POLICIES = ("popularity", "bc", "td3_bc")
SIGNALS = ("long_view", "click")


def make_run(path: Path, *, finish: bool = True, tables: Mapping[str, pl.DataFrame] | None = None) -> RunFolder:
    """Write a run with every table; ``tables`` replaces some of them, ``finish=False`` leaves it running."""
    config = {
        "data": "ml-100k",
        "objective": {"main": {"name": "long_view"}, "max_gap_days": 10},
        "algorithms": ["bc", "td3_bc"],
        "steps": 2000,
    }
    run = RunFolder.create(path, kind="demo", config=config, seed=7, data_hash="5f2a" * 8, command=["recrl", "demo"])
    for name, frame in {**all_tables(), **(tables or {})}.items():
        run.write_table(name, frame.to_arrow())
    for stream in ("train-bc", "train-td3_bc"):
        run.append_metrics(stream, metric_rows(stream, 0, 1000))
        run.append_metrics(stream, metric_rows(stream, 1000, 2000))
    if finish:
        run.set_status("done", stage="report", done=1.0)
    else:
        run.set_status("running", stage="train td3_bc", done=0.4)
    return run


def metric_rows(stream: str, first: int, last: int) -> list[dict[str, Any]]:
    """Training curves that fall (loss) and rise (value) with a little noise."""
    noise = np.random.default_rng(len(stream) + first)
    rows = []
    for step in range(first, last, 20):
        rows.append({"step": step, "name": "actor_loss", "value": float(2.0 * np.exp(-step / 600) + 0.3 + noise.normal(0, 0.05))})
        if stream == "train-td3_bc":
            rows.append({"step": step, "name": "critic_loss", "value": float(0.6 * np.exp(-step / 400) + 0.05 + noise.normal(0, 0.02))})
            rows.append({"step": step, "name": "q_mean", "value": float(1.8 - 1.5 * np.exp(-step / 800) + noise.normal(0, 0.03))})
        rows.append({"step": step, "name": "updates_per_second", "value": float(210 + noise.normal(0, 9))})
    return rows


def all_tables() -> dict[str, pl.DataFrame]:
    """Every table, the size a MovieLens demo has."""
    return {**_data(), **_estimates(), **_ab(), **diagnostics(), **ab_parts(), **learners()}


def _data() -> dict[str, pl.DataFrame]:
    depth = np.arange(1, 31)
    sessions = np.round(1400 * depth**-0.9).astype(int)
    day = np.arange(1, 15)
    hazard = 0.34 * np.exp(-0.25 * (day - 1)) + 0.02
    survival = np.cumprod(1 - hazard)
    at_risk = np.round(2600 * np.concatenate([[1], survival[:-1]]) * 0.93**day).astype(int)
    returned = np.round(at_risk * hazard).astype(int)
    rank = np.unique(np.concatenate([np.arange(1, 101), np.geomspace(100, 1682, 60).astype(int)]))
    start = datetime.date(1997, 9, 20)
    dates = np.arange(214)
    volume = np.round(470 + 300 * np.sin(dates / 9) ** 2 + 200 * (dates % 7 == 5)).astype(int)
    return {
        "data_summary": pl.DataFrame(
            {
                "name": ["ml-100k"],
                "rows": [100_000],
                "users": [943],
                "items": [1682],
                "sessions": [2573],
                "requests": [11_204],
                "duplicate_rows": [0],
                "random_rows": [0],
                "first_ms": [874_724_710_000],
                "last_ms": [893_286_638_000],
                "content_hash": ["9c1185a5c5e9fc54612808977ee8f548b2258d31"],
                "session_rule": ["gap of 30 minutes"],
            }
        ),
        "data_depth": pl.DataFrame({"depth": depth, "sessions": sessions, "share": sessions / sessions.sum()}),
        "data_gaps": pl.DataFrame(
            {
                "day": day,
                "completed": returned,
                "completed_share": returned / returned.sum(),
                "at_risk": at_risk,
                "returned": returned,
                "hazard": hazard,
                "hazard_lower": hazard - 1.96 * np.sqrt(hazard * (1 - hazard) / at_risk),
                "hazard_upper": hazard + 1.96 * np.sqrt(hazard * (1 - hazard) / at_risk),
                "survival": survival,
            }
        ),
        "data_rates": pl.DataFrame(
            {
                "signal": ["click", "long_view", "like", "watch_seconds"],
                "rate": [0.825, 0.554, 0.212, 31.4],
                "lower": [0.815, 0.541, 0.203, 29.9],
                "upper": [0.835, 0.567, 0.221, 32.8],
                "rows": [100_000] * 4,
                "unit": ["share", "share", "share", "seconds"],
            }
        ),
        "data_popularity": pl.DataFrame(
            {
                "rank": rank,
                "rows": np.maximum(np.round(583 * np.exp(-rank / 260)).astype(int), 1),
                "cumulative_share": 1 - np.exp(-rank / 330),
            }
        ),
        "data_daily": pl.DataFrame(
            {"date": [start + datetime.timedelta(days=int(d)) for d in dates], "rows": volume, "active_users": volume // 30}
        ),
        "data_quality": pl.DataFrame(
            {
                "check": ["duplicate rows", "rows before 1998", "users with one session"],
                "count": [0, 54_000, 611],
                "severity": ["info", "info", "warning"],
                "note": ["kept in the store, left out of training", "", "their return gap is censored"],
            }
        ),
    }


def _estimates() -> dict[str, pl.DataFrame]:
    rows = []
    for signal, logged in zip(SIGNALS, (0.554, 0.825), strict=True):
        rows.append(_estimate("logged", signal, "mean", logged, 0.012, 1.0, 0.0004, "trust", ""))
        for policy, gain, ess in (("popularity", 0.03, 0.31), ("bc", 0.012, 0.62), ("td3_bc", 0.055, 0.11)):
            for estimator, shift in (("snips", 0.0), ("ncis", -0.004)):
                verdict = "do not use" if ess < 0.15 and estimator == "snips" else "caution" if ess < 0.4 else "trust"
                reasons = {
                    "do not use": "effective sample size 11 % of the rows; the largest weight carries 4.1 % of the estimate",
                    "caution": f"effective sample size {ess:.0%} of the rows",
                }.get(verdict, "")
                rows.append(
                    _estimate(policy, signal, estimator, logged + gain + shift, 0.01 / ess**0.5, ess, 0.004 / ess, verdict, reasons)
                )
    quantile = np.concatenate([np.linspace(0, 0.95, 20), [0.99, 0.999, 1.0]])
    weights = [
        pl.DataFrame({"policy": policy, "quantile": quantile, "weight": scale * np.exp(spread * (quantile * 6 - 3))})
        for policy, scale, spread in (("popularity", 0.7, 0.5), ("bc", 0.9, 0.25), ("td3_bc", 0.4, 1.0))
    ]
    return {"estimates": pl.DataFrame(rows), "estimates_weights": pl.concat(weights)}


def _estimate(
    policy: str, signal: str, estimator: str, value: float, half: float, ess: float, weight: float, verdict: str, reasons: str
) -> dict[str, Any]:
    return {
        "policy": policy,
        "signal": signal,
        "estimator": estimator,
        "value": value,
        "lower": value - half,
        "upper": value + half,
        "level": 0.95,
        "interval": "percentile bootstrap over users",
        "rows": 10_000,
        "users": 702,
        "ess": 10_000 * ess,
        "ess_share": ess,
        "max_weight_share": weight,
        "verdict": verdict,
        "reasons": reasons,
    }


_METRICS = (
    # metric, unit, baseline mean, relative effect, half width of the relative interval
    ("daily_active_share", "share", 0.212, 0.031, 0.012),
    ("day_1_retention", "share", 0.283, 0.024, 0.015),
    ("return_gap_days", "days", 3.41, -0.019, 0.010),
    ("requests_per_user", "requests", 24.6, 0.044, 0.018),
    ("watch_seconds_per_user", "seconds", 3010.0, 0.052, 0.021),
    ("hate_rate", "share", 0.0021, 0.008, 0.060),
)


def _ab() -> dict[str, pl.DataFrame]:
    metrics, daily, retention, designs = [], [], [], []
    for scenario, eta in (("fitted", 1.0), ("weaker response", 0.5)):
        for arm, gain in ((BASELINE, 0.0), ("bc", 0.3), (ARM, 1.0)):
            metrics += [_metric(scenario, arm, eta * gain, *row) for row in _METRICS]
            daily += _by_day(scenario, arm, 0.02 * eta * gain)
            retention.append(_returned(scenario, arm, 0.02 * eta * gain))
        design = {"users": 20_000, "days": 30, "paired": True, "seed": 7, "arms": f"{BASELINE},bc,{ARM}"}
        design |= {"baseline": BASELINE, "sample_ratio_p": None, "user_steps": 1_204_311, "seconds": 48.2, "pre_days": 0}
        designs.append({**design, "eta_scenario": scenario, "eta": 0.35 * eta})
    fit = {
        "quantity": ["rate", "rate", "auc", "return_hazard", "return_hazard"],
        "group": ["click", "long_view", "click", "day 1", "day 2"],
        "simulated": [0.817, 0.551, 0.731, 0.341, 0.152],
        "logged": [0.825, 0.554, None, 0.338, 0.161],
        "lower": [0.815, 0.541, None, 0.320, 0.147],
        "upper": [0.835, 0.567, None, 0.356, 0.175],
        "note": ["", "", "", "published hazards", "published hazards"],
    }
    return {
        "ab_metrics": pl.DataFrame(metrics),
        "ab_daily": pl.concat(daily),
        "ab_retention": pl.concat(retention),
        "ab_design": pl.DataFrame(designs, schema_overrides={"sample_ratio_p": pl.Float64}),
        "simulator_fit": pl.DataFrame(fit),
        "ranking": pl.DataFrame(
            [
                {
                    "policy": "sasrec",
                    "split": "time",
                    "positives": "long_view",
                    "part": part,
                    "metric": metric,
                    "value": value,
                    "popularity": value / 2,
                    "cases": 120,
                }
                for part in ("valid", "test")
                for metric, value in (("recall@10", 0.21), ("ndcg@10", 0.12))
            ]
        ),
    }


def _metric(scenario: str, arm: str, gain: float, metric: str, unit: str, mean: float, relative: float, half: float) -> dict[str, Any]:
    higher = metric not in {"return_gap_days", "hate_rate"}
    effect, width = gain * relative * mean, 0.0 if arm == BASELINE else half * mean
    shown = abs(effect) > width
    return {
        "scenario": scenario,
        "metric": metric,
        "unit": unit,
        "arm": arm,
        "baseline": BASELINE,
        "mean": mean + effect,
        "baseline_mean": mean,
        "effect": effect,
        "lower": effect - width,
        "upper": effect + width,
        "level": 0.95,
        "p_value": 0.0004 if shown else 0.31,
        "relative_effect": effect / mean,
        "users": 20_000,
        "higher_is_better": higher,
        "verdict": "no difference shown" if not shown else "better" if (effect > 0) == higher else "worse",
    }


def _by_day(scenario: str, arm: str, lift: float) -> list[pl.DataFrame]:
    days = np.arange(30)
    active = 0.21 + 0.5 * np.exp(-days / 3) + lift * (1 - np.exp(-days / 8))
    out = []
    for metric, scale in (("daily_active_share", 1.0), ("requests_per_user", 4.0), ("watch_seconds_per_user", 480.0)):
        value, band = scale * active, 0.006 * scale
        columns = {"scenario": scenario, "arm": arm, "metric": metric, "day": days, "value": value}
        out.append(pl.DataFrame({**columns, "lower": value - band, "upper": value + band}))
    return out


def _returned(scenario: str, arm: str, lift: float) -> pl.DataFrame:
    gaps = np.arange(1, 11)
    returned = 1 - np.exp(-(0.32 + lift) * gaps**0.7)
    columns = {"scenario": scenario, "arm": arm, "day": gaps, "returned_share": returned}
    p = pl.lit(None if arm == BASELINE else 0.004, pl.Float64)
    return pl.DataFrame({**columns, "lower": returned - 0.008, "upper": returned + 0.008}).with_columns(log_rank_p=p)
