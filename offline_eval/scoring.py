"""How far estimators and intervals are from a truth that is known: bias, error, coverage, width and cost over many logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offline_eval.contributions import cluster_sums, value
from offline_eval.intervals import Method, interval
from recrl.core.errors import DataError


@dataclass(frozen=True)
class Score:
    """One estimator with one kind of interval on one truth.

    Attributes:
        estimator: its name.
        method: kind of interval.
        truth: the value that should be found.
        replications: logs drawn; ``undefined`` of them gave no value and count in nothing else but as not covered.
        bias: mean estimate minus truth, and ``bias_error``, the standard error of that mean.
        rmse: root mean squared error.
        coverage: share of intervals that held the truth, and ``coverage_error``, its binomial standard error.
        width: median width of the intervals.
        estimate_ms: core-milliseconds of the contributions and their sums by user, a log.
        interval_ms: core-milliseconds of one interval from these sums.
    """

    estimator: str
    method: str
    truth: float
    replications: int
    undefined: int
    bias: float
    bias_error: float
    rmse: float
    coverage: float
    coverage_error: float
    width: float
    estimate_ms: float
    interval_ms: float


def score(
    draw: Callable[[int], Any],
    truth: float,
    estimators: Sequence[Any],
    methods: Sequence[Method] = ("auto",),
    *,
    replications: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Score]:
    """Estimate ``replications`` logs with every estimator and every kind of interval.

    Args:
        draw: the log of a number, the argument of an estimator's ``contributions``; numbers are ``seed * 1_000_003`` and following.
        truth: the value that all should find.
        estimators: estimators.
        methods: kinds of intervals, see :mod:`offline_eval.intervals`.
        replications: logs.
        level: nominal coverage.
        seed: of the logs and bootstraps.
    """
    shape = (len(estimators), replications)
    values, estimate_s = np.full(shape, np.nan), np.zeros(shape)
    held, width, interval_s = (np.zeros((len(methods), *shape)) for _ in range(3))
    for r in range(replications):
        log = draw(seed * 1_000_003 + r)
        for e, estimator in enumerate(estimators):
            started = time.process_time()
            try:
                sums = cluster_sums(estimator.contributions(log))
                values[e, r] = value(sums)
            except DataError:
                continue
            estimate_s[e, r] = time.process_time() - started
            for m, method in enumerate(methods):
                started = time.process_time()
                found = interval(sums, level, method, seed=r)
                interval_s[m, e, r] = time.process_time() - started
                held[m, e, r] = found.lower <= truth <= found.upper
                width[m, e, r] = found.upper - found.lower
    scores = []
    for e, estimator in enumerate(estimators):
        known = values[e][~np.isnan(values[e])]
        error = known - truth
        for m, method in enumerate(methods):
            share = float(held[m, e].mean())
            scores.append(
                Score(
                    estimator=estimator.name,
                    method=method,
                    truth=truth,
                    replications=replications,
                    undefined=replications - known.size,
                    bias=float(error.mean()) if known.size else float("nan"),
                    bias_error=float(error.std(ddof=1) / np.sqrt(known.size)) if known.size > 1 else float("nan"),
                    rmse=float(np.sqrt(np.mean(error**2))) if known.size else float("nan"),
                    coverage=share,
                    coverage_error=float(np.sqrt(share * (1 - share) / replications)),
                    width=float(np.median(width[m, e])),
                    estimate_ms=1e3 * float(estimate_s[e].mean()),
                    interval_ms=1e3 * float(interval_s[m, e].mean()),
                )
            )
    return scores
