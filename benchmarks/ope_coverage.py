"""Coverage of nominal 95 % SNIPS intervals on known truth, by method and with rows as units: the table in docs/off_policy.md.

python benchmarks/ope_coverage.py --replications 2000 --json
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace

import numpy as np
from scipy import stats

import offline_eval
from offline_eval.contributions import cluster_sums
from recrl.core.contracts import LoggedFeedback

ROWS, CORRELATION = 10, 0.3


def draw(rng: np.random.Generator, users: int, mean: float) -> LoggedFeedback:
    """Rewards of rate ``mean`` whatever the weight, so that the truth is ``mean``; weights of mean 1 and deviation 1."""
    user = np.repeat(np.arange(users), ROWS)
    own, shared, spread = np.sqrt(1 - CORRELATION), np.sqrt(CORRELATION), np.sqrt(np.log(2.0))

    def correlated() -> np.ndarray:
        return shared * rng.standard_normal(users)[user] + own * rng.standard_normal(user.size)

    reward = (correlated() < stats.norm.ppf(mean)).astype(float)
    return LoggedFeedback(reward, spread * correlated() - spread**2 / 2, np.zeros(user.size), user)


def coverage(users: int, mean: float, replications: int, seed: int) -> dict[str, float]:
    """Share of intervals that hold the truth."""
    rng = np.random.default_rng([seed, users, int(1000 * mean)])
    held = {"auto": 0, "delta": 0, "rows": 0}
    for _ in range(replications):
        log = draw(rng, users, mean)
        sums = cluster_sums(offline_eval.SNIPS().contributions(log))
        as_rows = offline_eval.SNIPS().contributions(replace(log, cluster=np.arange(log.cluster.size)))
        found = {
            "auto": offline_eval.interval(sums),
            "delta": offline_eval.interval(sums, method="delta"),
            "rows": offline_eval.interval(as_rows, method="delta"),
        }
        for name, one in found.items():
            held[name] += one.lower <= mean <= one.upper
    return {name: count / replications for name, count in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[30, 100, 200, 500, 2000])
    parser.add_argument("--means", type=float, nargs="+", default=[0.02, 0.1, 0.5, 0.9])
    parser.add_argument("--replications", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    started, rows = time.process_time(), []
    for users in options.users:
        for mean in options.means:
            rows.append(
                {
                    "users": users,
                    "mean": mean,
                    **{f"by_{k}": v for k, v in coverage(users, mean, options.replications, options.seed).items()},
                }
            )
            if not options.json:
                print(rows[-1], flush=True)
    print(
        json.dumps(
            {
                "benchmark": "ope_coverage",
                "replications": options.replications,
                "core_seconds": time.process_time() - started,
                "cells": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
