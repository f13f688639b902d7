"""More tables of a run: what diagnostics of estimates, looks, segments and scenarios of an A/B test hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

BASELINE, ARM = "popularity", "td3_bc"
SCENARIOS = (("fitted", 1.0), ("weaker response", 0.5))
ARMS = (("bc", 0.3), (ARM, 1.0))
METRICS = (
    # metric, unit, baseline mean, effect, half width, higher is better
    ("active_days", "days a user", 6.36, 0.41, 0.15, True),
    ("click_rate", "share of shown items", 0.42, 0.016, 0.006, True),
)
DAYS = 14


def diagnostics() -> dict[str, pl.DataFrame]:
    """Reliability of propensities and of the simulator, overlap, cohorts."""
    edges = np.concatenate([[0.0], np.geomspace(2e-4, 0.04, 9), [1.0]])
    reliability = pl.DataFrame(
        {
            "bin": np.arange(10),
            "from_propensity": edges[:-1],
            "to_propensity": edges[1:],
            "drawn_share": np.full(10, 0.1),
            "logged_share": np.linspace(0.19, 0.08, 10),
            "ratio": np.linspace(1.9, 0.8, 10),
            "error": np.full(10, 0.04),
        }
    )
    overlap = [
        {
            "policy": policy,
            "group": group,
            "rows": 400 * (group + 1),
            "logged_share": 0.05 + 0.05 * group,
            "target_share": target,
            "weighted_share": target * seen,
            "seen": seen,
            "error": 0.05,
            "hole": seen < 0.5 and target >= 0.01,
        }
        for policy, thin in (("bc", 1.0), (ARM, 0.4))
        for group, target in enumerate((0.08, 0.06, 0.1, 0.16, 0.25, 0.35))
        for seen in [thin * (0.9 + 0.02 * group) if group < 2 else 0.97]
    ]
    cohorts = [
        {
            "policy": policy,
            "cohort": cohort,
            "rows": 3000 + 4000 * cohort,
            "users": 200 + 300 * cohort,
            "ess": share * 3000,
            "ess_share": share,
            "effective_users": 150.0,
            "mean_weight": 0.98,
            "weight_share": 0.3 + 0.4 * cohort,
            "verdict": "caution" if share < 0.2 else "trust",
            "reasons": "effective share of the rows under 20 %" if share < 0.2 else "",
        }
        for policy, thin in (("bc", 1.0), (ARM, 0.3))
        for cohort in (0, 1)
        for share in [thin * (0.3 + 0.3 * cohort)]
    ]
    predicted = np.linspace(0.05, 0.9, 10)
    simulated = [
        {
            "behaviour": name,
            "bin": k,
            "rows": 1000,
            "predicted": s * p,
            "logged": s * p + 0.01,
            "lower": s * p - 0.01,
            "upper": s * p + 0.03,
        }
        for name, s in (("click", 1.0), ("long_view", 0.7))
        for k, p in enumerate(predicted)
    ]
    return {
        "estimates_reliability": reliability,
        "estimates_overlap": pl.DataFrame(overlap),
        "estimates_cohorts": pl.DataFrame(cohorts),
        "simulator_reliability": pl.DataFrame(simulated),
    }


def learners() -> dict[str, pl.DataFrame]:
    """What `recrl prefer train` and `recrl reproduce` leave."""
    kinds = ("all", "within user", "across users", "given")
    accuracy = {"kind": kinds, "pairs": [60, 31, 29, 60], "right": [0.85, 0.81, 0.9, 0.78], "of": ["held out"] * 4}
    predicted = [0.05 + 0.1 * k for k in range(10)]
    calibration = {
        "low": [k / 10 for k in range(10)],
        "pairs": [6] * 10,
        "predicted": predicted,
        "preferred": [min(p * 1.05, 1.0) for p in predicted],
    }
    cells = [
        {"part": "main", "method": method, "seed": seed, "primary": primary, "quantity": quantity, "value": value + 0.01 * seed}
        for method, primary, value in (("ours", True, 0.6), ("theirs", True, 0.5), ("without the gate", False, 0.55))
        for quantity in ("watch_seconds", "core_seconds")
        for seed in range(3)
    ]
    methods = (("cem", 0.2, 0.02), ("auro", 0.6, 0.09), ("td3", 1.4, 0.12))
    over = [
        {"part": "held", "method": method, "seeds": 5}
        | {f"recovery_days{end}": days * k for end, k in (("", 1.0), ("_low", 0.5), ("_high", 1.5))}
        | {f"regret_area{end}": area * k for end, k in (("", 1.0), ("_low", 0.8), ("_high", 1.2))}
        for method, days, area in methods
    ]
    switches = [
        {"part": "held", "method": method, "switch_day": day, "seeds": 5, "recovery_days": days, "regret_area": area}
        for method, days, area in methods
        for day in (14, 21, 28)
    ]
    line = " 12 requests  ▂▃▄█                                      click 0.40  return -2.00  back after {} days"
    pairs = {
        "pair": [1, 2, 3],
        "split": ["train", "test", "valid"],
        "preferred": [1.0, 0.0, 0.5],
        "predicted": [0.9, 0.7, 0.4],
        **{f"{side}_user": [7, 8, 9] for side in ("first", "second")},
        **{f"{side}_return": [1.5 + k, 0.5, 0.1] for k, side in enumerate(("first", "second"))},
        **{f"{side}_timeline": [f"{line.format(days)}\n{line.format(days + 1)}"] * 3 for side, days in (("first", 1.5), ("second", 3.5))},
    }
    summary = {"action_share": [0.12], "too_little_action": [False], "judged_pairs": [60], "held_out": [True]}
    return {
        "reward_accuracy": pl.DataFrame(accuracy),
        "reward_calibration": pl.DataFrame(calibration),
        "reward_summary": pl.DataFrame(summary),
        "reward_pairs": pl.DataFrame(pairs),
        "reproduction_cells": pl.DataFrame(cells),
        "reproduction_recovery": pl.DataFrame(over),
        "reproduction_switches": pl.DataFrame(switches),
    }


def ab_parts() -> dict[str, pl.DataFrame]:
    """Looks, days, trend, CUPED, segments, guardrails, exposure, uncertainty."""
    tables: dict[str, list[dict[str, Any]]] = {f"ab_{name}": [] for name in _PARTS}
    for scenario, eta in SCENARIOS:
        for arm, gain in ARMS:
            for metric in METRICS:
                key = {"scenario": scenario, "arm": arm, "metric": metric[0]}
                days = list(range(DAYS))
                tables["ab_sequential"] += [_look(key, metric, gain * eta, day) for day in days]
                tables["ab_by_day"] += [_of_day(key, metric, gain * eta, day) for day in days]
                tables["ab_trend"].append(_trend(key, metric, gain * eta))
                whole = _effect(key, metric, gain * eta) | {"higher_is_better": metric[5], "p_adjusted": 0.004, "verdict": "better"}
                more = {"plain_lower": whole["lower"] - 0.3 * metric[4], "plain_upper": whole["upper"] + 0.3 * metric[4]}
                reduction = {"covariate": "active_days", "predicted_reduction": 0.36, "variance_reduction": 0.37}
                tables["ab_cuped"].append(whole | more | reduction)
                tables["ab_uncertainty"].append(_over_fits(key, metric, gain * eta, eta))
                for group, factor in (("rare", 0.2), ("weekly", 0.9), ("daily", 1.7)):
                    row = _effect(key, metric, gain * eta * factor) | {"higher_is_better": metric[5], "p_adjusted": 0.01, "users": 6000}
                    verdict = "better" if factor > 0.5 else "no difference shown"
                    extra = {"segment": "activity group", "group": group, "heterogeneity_p": 0.002, "verdict": verdict}
                    tables["ab_segments"].append(row | extra)
            tables["ab_guardrails"] += _guardrails(scenario, arm)
            tables["ab_exposure"] += _exposure(scenario, arm)
    tables["ab_uncertainty"] += _spans(tables["ab_uncertainty"])
    return {name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in tables.items()}


_PARTS = ("sequential", "by_day", "trend", "cuped", "segments", "guardrails", "exposure", "uncertainty")


def _effect(key: dict[str, Any], metric: tuple[Any, ...], gain: float) -> dict[str, Any]:
    _, unit, base, effect, half, _ = metric
    bounds = {"lower": gain * effect - half, "upper": gain * effect + half, "level": 0.95, "p_value": 0.001}
    means = {"unit": unit, "baseline": BASELINE, "mean": base + gain * effect, "baseline_mean": base, "effect": gain * effect}
    return {**key, **means, **bounds, "relative_effect": gain * effect / base}


def _look(key: dict[str, Any], metric: tuple[Any, ...], gain: float, day: int) -> dict[str, Any]:
    half = metric[4] * 3 / (day + 1) ** 0.5
    row = _effect(key, metric, gain)
    effect = row["effect"]
    p = float(np.exp(-day * gain))
    bounds = {"fixed_lower": effect - half, "fixed_upper": effect + half, "fixed_p_value": p / 5, "p_value": p}
    wide = {"lower": effect - 1.6 * half, "upper": effect + 1.6 * half, "information_ratio": 0.77 if key["metric"] == "click_rate" else 1.2}
    verdict = "better" if p < 0.01 else "no difference shown"
    row.pop("relative_effect")
    return row | bounds | wide | {"day": day, "higher_is_better": metric[5], "verdict": verdict}


def _of_day(key: dict[str, Any], metric: tuple[Any, ...], gain: float, day: int) -> dict[str, Any]:
    effect = gain * metric[3] * (1 - 0.04 * day) if day else 0.0
    return {**key, "day": day, "effect": effect, "lower": effect - metric[4], "upper": effect + metric[4]}


def _trend(key: dict[str, Any], metric: tuple[Any, ...], gain: float) -> dict[str, Any]:
    slope = -0.04 * gain * metric[3]
    bounds = {"slope": slope, "lower": slope * 1.3, "upper": slope * 0.7, "level": 0.95, "p_value": 0.0002}
    return {**key, **bounds, "mean_effect": gain * metric[3] * 0.7, "verdict": "fades"}


def _over_fits(key: dict[str, Any], metric: tuple[Any, ...], gain: float, eta: float) -> dict[str, Any]:
    row = _effect(key, metric, gain)
    plain = {f"plain_{name}": row[name] for name in ("effect", "lower", "upper")}
    row.pop("relative_effect"), row.pop("mean"), row.pop("baseline_mean")
    wide = {"lower": row["effect"] - 2 * metric[4], "upper": row["effect"] + 2 * metric[4]}
    verdict = "better" if wide["lower"] > 0 else "no difference shown"
    return row | plain | wide | {"eta": 5 * eta, "within": metric[4] / 2, "between": metric[4], "members": 10, "verdict": verdict}


def _spans(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    out = []
    for metric, *_ in METRICS:
        for arm, _ in ARMS:
            group = [row for row in rows if (row["metric"], row["arm"]) == (metric, arm)]
            says = {row["verdict"] for row in group}
            ends = {f"{kind}{end}": pick(row[f"{kind}{end}"] for row in group) for kind in ("", "plain_") for end, pick in _ENDS}
            nothing = dict.fromkeys(("eta", "effect", "level", "p_value", "plain_effect", "within", "between"))
            verdict = says.pop() if len(says) == 1 else "depends on eta"
            out.append({**group[0], **nothing, **ends, "scenario": "all", "verdict": verdict})
    return out


_ENDS = (("lower", min), ("upper", max))


def _guardrails(scenario: str, arm: str) -> list[dict[str, Any]]:
    key = {"scenario": scenario, "arm": arm}
    novelty = _effect({**key, "metric": "novelty"}, ("", "bits", 9.9, -0.27, 0.05, True), 1.0)
    gini = _effect({**key, "metric": "gini"}, ("", "0 to 1", 0.59, 0.21, 0.0, False), 1.0)
    untested = dict.fromkeys(("lower", "upper", "p_value", "p_adjusted"))
    return [
        novelty | {"higher_is_better": True, "p_adjusted": 0.0, "verdict": "worse"},
        gini | {"higher_is_better": False, "verdict": "not tested"} | untested,
    ]


def _exposure(scenario: str, arm: str) -> list[dict[str, Any]]:
    rows = []
    for segment, group in (("all", "all"), ("activity group", "rare")):
        for k in range(25):
            key = {"scenario": scenario, "arm": arm, "metric": "exposure_share"}
            row = _effect(key, ("", "share of shown items", 0.04, 0.002 * (k - 12), 0.003, True), 1.0)
            rows.append(
                row | {"provider": f"author {k}", "segment": segment, "group": group, "p_adjusted": 0.01 if abs(k - 12) > 4 else 1.0}
            )
    return rows
