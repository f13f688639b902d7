"""What the KuaiRand cells of the TSCAC study say, by intervals that hold the sampling of users."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import polars as pl
from scipy.stats import t as student

from recrl.reproductions.study import Done, Published, mean_interval
from recrl.reproductions.tscac.cells import Value, columns_of, events_of, methods, results_of, spread
from recrl.reproductions.tscac.kuairand import LEAST_EVENTS
from recrl.reproductions.tscac.rows import SIGNALS

RIVALS = ("rcpo multi-critic", "joint critic")
ESTIMATORS = ("ncis", "snips", "dr")
OURS = {"rcpo": "joint critic"}
"""Published methods whose like goes by another name here: with fixed multipliers and one critic, RCPO is the joint critic."""
SECOND_HAND = "notes on the paper, capped NCIS on KuaiRand-27K, table 2"
PUBLISHED = (
    *(
        Published("tscac", name, value, "likely", SECOND_HAND)
        for name, value in (("watch_seconds", 0.0223), ("click", 0.0435), ("like", 0.188), ("comment", 0.156), ("hate", -0.1883))
    ),
    Published("rcpo", "watch_seconds", 0.0170, "likely", SECOND_HAND),
    Published("rcpo multi-critic", "watch_seconds", 0.0117, "uncertain", "recollection of the same table"),
    Published("pareto", "watch_seconds", -0.074, "likely", SECOND_HAND),
)
"""Relative to cloning."""


def estimated(signal: str, estimator: str = "ncis") -> Value:
    """A signal's estimate on test rows."""
    return lambda result: float(result["test"][signal][estimator]["value"])


def measured(done: Sequence[Done]) -> list[str]:
    """Signals with enough test events: watch time, and behaviours seen at least :data:`LEAST_EVENTS` times."""
    counts = events_of(done)
    return [s for s in SIGNALS if s == "watch_seconds" or counts.get(s, 0) >= LEAST_EVENTS]


def pooled(gains: Sequence[Mapping[str, float]], level: float = 0.95) -> tuple[float, float, float]:
    """Mean over seeds of a difference, with an interval that holds the sampling of users and of seeds.

    All seeds are judged by the same users. The mean of their standard errors is the most that these can move the mean of the seeds, and the
    spread over seeds comes on top: ``error^2 = mean(error_s)^2 + var(value_s) / S``. Student-t with Welch-Satterthwaite's degrees of
    freedom, users counting as many. A single seed has no interval.

    >>> one = {"value": 1.0, "standard_error": 0.5}
    >>> [round(x, 2) for x in pooled([one, one])]
    [1.0, 0.02, 1.98]
    """
    values = np.array([g["value"] for g in gains])
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return mean, -math.inf, math.inf
    users, seeds = float(np.mean([g["standard_error"] for g in gains])) ** 2, float(values.var(ddof=1)) / count
    freedom = (count - 1) * ((users + seeds) / seeds) ** 2 if seeds > 1e-12 * users else math.inf
    half = float(student.ppf(0.5 + level / 2, freedom)) * math.sqrt(users + seeds)
    return mean, mean - half, mean + half


def above(done: Sequence[Done], method: str, other: str, signal: str, estimator: str = "ncis") -> list[Mapping[str, float]]:
    """Differences of a method to another on KuaiRand rows, users paired, one a seed; they are held by the one that comes later."""
    results = results_of(done, "kuairand", method)
    held = [r["above"][other][signal][estimator] for r in results if other in r.get("above", {})]
    turned = [r["above"][method][signal][estimator] for r in results_of(done, "kuairand", other) if method in r.get("above", {})]
    return held or [{"value": -g["value"], "standard_error": g["standard_error"]} for g in turned]


def kuairand_table(done: Sequence[Done]) -> pl.DataFrame:
    """Estimates with user-level intervals (means over seeds of value and bounds) and the effective rows of each estimator's own weights.

    ``above_bc`` is above cloning, users paired, by users and seeds (:func:`pooled`); ``above_bc_by_seeds`` leaves users out.
    """
    rows = []
    for method, signal, estimator in product(methods(done, "kuairand"), measured(done), ESTIMATORS):
        results = results_of(done, "kuairand", method)
        ends = [float(np.mean([r["test"][signal][estimator][e] for r in results])) for e in ("value", "lower", "upper")]
        gains = above(done, method, "bc", signal, estimator)
        base = np.mean([estimated(signal, estimator)(r) for r in results_of(done, "kuairand", "bc")] or [math.nan])
        rows.append(
            {
                "method": method,
                "seeds": len(results),
                "signal": signal,
                "estimator": estimator,
                **columns_of("value", (ends[0], ends[1], ends[2])),
                "effective_rows": float(np.mean([r["test"][signal][estimator]["effective_rows"] for r in results])),
                **columns_of("above_bc", pooled(gains) if gains else None),
                **columns_of("above_bc_by_seeds", mean_interval([g["value"] for g in gains]) if gains else None),
                "share_above_bc": float(np.mean([g["value"] for g in gains]) / base) if gains else None,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def measurable_table(done: Sequence[Done]) -> pl.DataFrame:
    """Test events of each behaviour, and whether it is judged."""
    return pl.DataFrame([{"signal": name, "test_events": n, "judged": n >= LEAST_EVENTS} for name, n in events_of(done).items()])


def constants_table(done: Sequence[Done]) -> pl.DataFrame:
    """The sweep over policies that always show one video: watch time by capped NCIS."""
    logged = results_of(done, "kuairand", "logged")
    return pl.DataFrame([{"policy": name, "watch_seconds": value} for name, value in logged[0]["constants"].items()] if logged else [])


def kuairand_verdict(done: Sequence[Done]) -> list[str]:
    """Off-policy, by intervals that hold users and seeds: TSCAC against cloning, its rivals and the best constant policy."""
    gains = above(done, "tscac", "bc", "watch_seconds")
    logged = results_of(done, "kuairand", "logged")
    if len(gains) < 2 or not logged:
        return ["KuaiRand rows: TSCAC and cloning share fewer than two seeds, nothing can be said yet"]
    gain, results = pooled(gains), results_of(done, "kuairand", "tscac")
    effective = float(np.mean([r["test"]["watch_seconds"]["ncis"]["effective_rows"] for r in results]))
    out = [
        f"KuaiRand rows, capped NCIS, users paired: watch time of TSCAC is {'above' if gain[1] > 0 else 'not clearly above'} cloning's: "
        f"{spread(gain)} s by users and seeds ({spread(mean_interval([g['value'] for g in gains]))} by seeds alone), from {effective:.0f} "
        f"effective rows of {logged[0]['test']['watch_seconds']['ncis']['effective_rows']:.0f}"
    ]
    for estimator in ESTIMATORS[1:]:
        out.append(
            f"KuaiRand rows, {estimator.upper()}: watch time {spread(pooled(above(done, 'tscac', 'bc', 'watch_seconds', estimator)))} s"
        )
    for signal in measured(done)[1:]:
        each = above(done, "tscac", "bc", signal)
        seeds = spread(mean_interval([g["value"] for g in each]))
        out.append(
            f"KuaiRand rows: {signal} is {_told(pooled(each))} cloning's, {spread(pooled(each))} by users and seeds ({seeds} by seeds)"
        )
    for rival in RIVALS:
        lead = above(done, "tscac", rival, "watch_seconds")
        if len(lead) > 1:
            out.append(
                f"KuaiRand rows: watch time of TSCAC is {_told(pooled(lead))} {rival}'s, {spread(pooled(lead))} s by users and seeds"
            )
    popular = pooled(above(done, "tscac", "constant", "watch_seconds"))
    level = {"above": "more than popularity alone gives", "below": "no more than popularity would give"}
    said = level.get(_told(popular), "not told apart from what popularity gives")
    best = float(logged[0]["constants"]["chosen_on_validation"])
    out.append(
        f"KuaiRand rows: always showing the video chosen on validation rows gets {best:.4g} s; TSCAC's gain is {said}, {spread(popular)} s"
    )
    few = [name for name, n in events_of(done).items() if n < LEAST_EVENTS]
    out.append(f"KuaiRand rows are nearly a bandit (most sessions are one row); not measurable there: {', '.join(few) or 'nothing'}")
    return out


def _told(found: tuple[float, float, float]) -> str:
    return "above" if found[1] > 0 else "below" if found[2] < 0 else "not told apart from"


def published_table(done: Sequence[Done]) -> pl.DataFrame:
    """Published numbers relative to cloning, their certainty, and ours beside them: other rows, another split, another evaluation."""
    rows = []
    for one in PUBLISHED:
        known = one.quantity in measured(done) if events_of(done) else False
        gains = above(done, OURS.get(one.method, one.method), "bc", one.quantity) if known else []
        base = [estimated(one.quantity)(r) for r in results_of(done, "kuairand", "bc")] if known else []
        rows.append(
            {
                "method": one.method,
                "signal": one.quantity,
                "published_share_above_bc": one.value,
                "certainty": one.certainty,
                "ours": float(np.mean([g["value"] for g in gains]) / np.mean(base)) if gains else None,
                "source": one.source,
            }
        )
    return pl.DataFrame(rows, schema_overrides={"ours": pl.Float64})
