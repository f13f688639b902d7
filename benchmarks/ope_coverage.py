"""Coverage of nominal 95 % intervals on known truth, with users and with rows (or sessions) as units: the tables in docs/off_policy.md.

Users have 10 rows. Rewards are clicks: a user's rate is drawn from a Beta law whose intra-user correlation is .3, whatever the weights, so
that the truth is the mean rate. Log-weights are normal, correlated .3 within users; weights have mean 1 and deviation 1 (those of WIS are
of whole sessions, two a user). SNDR leans on predictions that know half of how users differ.

python benchmarks/ope_coverage.py --json                            # 2,000 replications of 16 cells
python benchmarks/ope_coverage.py --replications 10000 --json
python benchmarks/ope_coverage.py --small --json                    # one cell, 200 replications
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from numpy.typing import NDArray

import offline_eval
from offline_eval.contributions import ClusterSums, cluster_sums
from recrl.core.contracts import LoggedFeedback
from recrl.core.ragged import Offsets

Float64 = NDArray[np.float64]

ROWS, SESSIONS, CORRELATION, DEVIATION = 10, 2, 0.3, 1.0
LOG_VARIANCE = float(np.log(1 + DEVIATION**2))
LEVEL, ROWS_AT_ONCE = 0.95, 400_000
ENOUGH = 2_000
"""Replications of what is known to fail: rows as units."""
METHODS = ("delta", "skew_t")


def draw(rng: np.random.Generator, users: int, mean: float) -> tuple[LoggedFeedback, LoggedFeedback]:
    """A log for estimators of rows, and the same rewards as sessions with weights of their own; both of truth ``mean`` a row."""
    user = np.repeat(np.arange(users), ROWS)
    strength = 1 / CORRELATION - 1
    rate = rng.beta(mean * strength, (1 - mean) * strength, users)
    reward = (rng.random(user.size) < rate[user]).astype(np.float64)
    guess = ((rate + mean) / 2)[user]
    shared, own = rng.standard_normal(users)[user], rng.standard_normal(user.size)
    normal = np.sqrt(CORRELATION) * shared + np.sqrt(1 - CORRELATION) * own
    zeros = np.zeros(user.size)
    rows = LoggedFeedback(reward, np.sqrt(LOG_VARIANCE) * normal - LOG_VARIANCE / 2, zeros, user, guess, guess)
    # the variance of a session's sum of log-ratios, were each of variance 1
    steps = ROWS // SESSIONS
    whole = steps + steps * (steps - 1) * CORRELATION
    ratio = np.sqrt(LOG_VARIANCE / whole) * normal - LOG_VARIANCE / 2 / steps
    sessions = Offsets.from_lengths(np.full(users * SESSIONS, steps))
    return rows, LoggedFeedback(reward / steps, ratio, zeros, user, trajectory=sessions)


def coverage(users: int, mean: float, replications: int, seed: int) -> dict[str, dict[str, float]]:
    """Share of intervals that hold the truth, by estimator: with users as units, by method, and with rows or sessions as units."""
    rng, done = np.random.default_rng([seed, users, int(1000 * mean)]), 0
    held = {name: dict.fromkeys([*METHODS, "rows"], 0) for name in ("snips", "sndr", "wis", "ncis")}
    bias = dict.fromkeys(held, 0.0)
    while done < replications:
        count = min(max(1, ROWS_AT_ONCE // (users * ROWS)), replications - done)
        rows, sessions = draw(rng, users * count, mean)
        for name in held:
            each = offline_eval.REGISTRY[name].contributions(sessions if name == "wis" else rows)
            alone = replace(each, cluster=np.arange(each.cluster.size))
            # contributions of many replications at once; each is then a slice of the sums
            for units, contributions in (("users", each), ("rows", alone)) if done < ENOUGH else (("users", each),):
                sums = cluster_sums(contributions)
                wanted = count if units == "users" else min(count, max(0, ENOUGH - done))
                for part in np.split(np.arange(sums.count), count)[:wanted]:
                    one = ClusterSums(sums.numerators[:, part], sums.denominators[:, part], sums.ids[part])
                    for method in METHODS if units == "users" else ("delta",):
                        found = offline_eval.interval(one, LEVEL, method)  # type: ignore[arg-type]
                        held[name][method if units == "users" else "rows"] += found.lower <= mean <= found.upper
                    if units == "users":
                        bias[name] += (found.value - mean) / replications
        done += count
    of = {**dict.fromkeys(METHODS, replications), "rows": min(replications, ENOUGH)}
    return {name: {**{k: v / of[k] for k, v in shares.items()}, "bias": bias[name]} for name, shares in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[100, 200, 500, 2000])
    parser.add_argument("--means", type=float, nargs="+", default=[0.02, 0.1, 0.5, 0.9])
    parser.add_argument("--replications", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="one cell, 200 replications")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.small:
        options.users, options.means, options.replications = [200], [0.1], 200
    started, cells = time.process_time(), []
    for users in options.users:
        for mean in options.means:
            for name, shares in coverage(users, mean, options.replications, options.seed).items():
                auto = shares["skew_t" if users < offline_eval.intervals.SMALL else "delta"]
                cells.append({"users": users, "mean": mean, "estimator": name, "auto": auto, **shares})
                if not options.json:
                    print(cells[-1], flush=True)
    cost = {"replications": options.replications, "core_seconds": round(time.process_time() - started, 1)}
    print(json.dumps({"benchmark": "ope_coverage", **cost, "cells": cells}))


if __name__ == "__main__":
    main()
