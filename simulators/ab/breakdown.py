"""Beside the headline: effects sharpened by what was known before, effects by segment, guardrails, and who is shown what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from simulators.ab.comparison import Comparison
from simulators.ab.design import GUARDRAILS, METRICS, MetricSpec
from simulators.ab.statistics import adjusted, cuped, linearised, welch
from simulators.ab.users import UserMetrics

Float64 = NDArray[np.float64]


def cuped_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Rows of ``ab_cuped``: each metric with what a covariate predicts taken out; none for paired arms, whose pairing does it.

    The covariate is the same metric of the days before (``Design.pre_days``), else the satisfaction a user is used to.
    """
    if comparison.design.paired:
        return []
    rows = []
    for metric in METRICS:
        for arm in comparison.treated:
            arms = [comparison.user_metrics[name] for name in (arm, comparison.baseline)]
            ratios, known = [found.ratio(metric) for found in arms], _covariate(metric, arms)
            if ratios[0] is None or ratios[1] is None or known is None:
                continue
            name, covariates = known
            treated, base = linearised(*ratios[0]), linearised(*ratios[1])
            plain = welch(treated, base, comparison.design.level)
            found = cuped(treated, base, *covariates)
            effect = welch(found.treatment, found.baseline, comparison.design.level)
            narrowed = 1.0 - (effect.standard_error / plain.standard_error) ** 2 if plain.standard_error else 0.0
            rows.append(
                comparison.row(metric, arm, effect)
                | {
                    "plain_lower": plain.lower,
                    "plain_upper": plain.upper,
                    "covariate": name,
                    "predicted_reduction": found.variance_reduction,
                    "variance_reduction": narrowed,
                }
            )
    return comparison.judged(rows)


def _covariate(metric: MetricSpec, arms: Sequence[UserMetrics]) -> tuple[str, list[Float64]] | None:
    before = [found.ratio(metric, covariates=True) for found in arms]
    if before[0] is not None and before[1] is not None:
        # linearised together: a covariate must have the same expectation in both arms
        top, bottom = (np.concatenate([ratio[k] for ratio in before if ratio is not None]) for k in (0, 1))
        return f"pre_{metric.name}", np.split(linearised(top, bottom), [arms[0].users])
    if all("baseline" in found.covariates for found in arms):
        return "baseline", [found.covariates["baseline"] for found in arms]
    return None


def segment_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Rows of ``ab_segments``: each metric's effect in each segment; verdicts allow for all of them.

    ``heterogeneity_p`` is Cochran's Q over the segments of one feature: whether effects differ between them at all.
    """
    rows = []
    for segment, groups in comparison.facts.segments.items():
        for metric in METRICS:
            for arm in comparison.treated:
                found = [(code, comparison.effect_of(metric, arm, (segment, code))) for code in range(len(groups.names))]
                there = [(code, effect) for code, effect in found if effect is not None]
                p = heterogeneity_p([e.effect for _, e in there], [e.standard_error for _, e in there])
                for code, effect in there:
                    users = int((comparison.codes(arm, segment) == code).sum())
                    extra = {"segment": segment, "group": groups.names[code], "users": users, "heterogeneity_p": p}
                    rows.append(comparison.row(metric, arm, effect) | extra)
    return comparison.judged(rows)


def heterogeneity_p(effects: Sequence[float], errors: Sequence[float]) -> float:
    """p-value that effects of several groups are one and the same (Cochran's Q); groups without variance are left out.

    ``Q = sum_g (effect_g - mean)^2 / error_g^2`` with the mean weighted by ``1 / error^2``, chi-square with one degree less than groups.

    >>> round(heterogeneity_p([0.0, 2.0], [1.0, 1.0]), 4)  # Q = 2
    0.1573
    """
    e, s = np.asarray(effects, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    e, s = e[s > 0], s[s > 0]
    if e.size < 2:
        return 1.0
    weight = s**-2.0
    mean = (weight * e).sum() / weight.sum()
    return float(chi2.sf((weight * (e - mean) ** 2).sum(), e.size - 1))


def guardrail_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Rows of ``ab_guardrails``: novelty and diversity with intervals by user; coverage and concentration of the catalogue by arm.

    ``coverage`` is the share of the catalogue that anyone was shown, ``effective_items`` the number of equally shown items with the same
    entropy, ``gini`` the inequality of exposure. They belong to an arm as a whole, so they have no interval.
    """
    rows = []
    for metric in GUARDRAILS:
        for arm in comparison.treated:
            if (effect := comparison.effect_of(metric, arm)) is not None:
                rows.append(comparison.row(metric, arm, effect))
    rows = comparison.judged(rows)
    units = {"coverage": "share of items", "effective_items": "items", "gini": "0 to 1"}
    spread = {arm: concentration(found.item_exposures) for arm, found in comparison.user_metrics.items() if found.item_exposures.sum()}
    if len(spread) < len(comparison.arms):
        return rows
    for name, unit in units.items():
        for arm in comparison.treated:
            mean, base = spread[arm][name], spread[comparison.baseline][name]
            rows.append(
                {
                    "scenario": comparison.design.eta_scenario,
                    "metric": name,
                    "unit": unit,
                    "arm": arm,
                    "baseline": comparison.baseline,
                    "mean": mean,
                    "baseline_mean": base,
                    "effect": mean - base,
                    "relative_effect": (mean - base) / base if base else None,
                    "level": comparison.design.level,
                    "higher_is_better": name != "gini",
                    "verdict": "not tested",
                }
            )
    return rows


def concentration(exposures: NDArray[np.int64]) -> dict[str, float]:
    """Coverage, effective number of items and Gini index of how often items were shown, ``(n_items,)``.

    >>> found = concentration(np.array([1, 1, 0, 0]))
    >>> [round(found[name], 6) for name in ("coverage", "effective_items", "gini")]
    [0.5, 2.0, 0.5]
    """
    ordered = np.sort(exposures.astype(np.float64))
    share = ordered / ordered.sum()
    positive = share[share > 0]
    n = share.size
    gini = (2.0 * (np.arange(1, n + 1) * share).sum() - (n + 1)) / n
    return {
        "coverage": positive.size / n,
        "effective_items": float(np.exp(-(positive * np.log(positive)).sum())),
        "gini": float(gini),
    }


def exposure_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Rows of ``ab_exposure``: the share of shown items that each provider group got, over all users and in each user segment."""
    providers = comparison.facts.providers
    if providers is None:
        return []
    rows = []
    parts: list[tuple[str, str, tuple[str, int] | None]] = [("all", "all", None)]
    for segment, groups in comparison.facts.segments.items():
        parts += [(segment, name, (segment, code)) for code, name in enumerate(groups.names)]
    for k, provider in enumerate(providers.names):
        metric = MetricSpec("exposure_share", "share of shown items", True, f"provider_{k}", "shown")
        for segment, group, chosen in parts:
            for arm in comparison.treated:
                if (effect := comparison.effect_of(metric, arm, chosen)) is not None:
                    where = {"provider": provider, "segment": segment, "group": group}
                    rows.append(comparison.row(metric, arm, effect) | where)
    corrected = adjusted([row["p_value"] for row in rows], "holm")
    return [row | {"p_adjusted": float(p)} for row, p in zip(rows, corrected, strict=True)]
