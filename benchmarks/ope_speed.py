"""What off-policy estimates cost, in core-milliseconds: bandit rows, ragged sequences beside a Python loop, intervals over many users.

python benchmarks/ope_speed.py --json
python benchmarks/ope_speed.py --small --json         # a tenth of the rows
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable

import numpy as np

import offline_eval
from offline_eval.contributions import cluster_sums
from offline_eval.trajectories import trajectories
from recrl.core.contracts import LoggedFeedback
from recrl.core.ragged import Offsets


def core_ms(work: Callable[[], object], repeats: int = 7) -> float:
    """Least core time of several runs."""
    best = math.inf
    for _ in range(repeats):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return 1e3 * best


def rows_log(rows: int, users: int) -> LoggedFeedback:
    rng = np.random.default_rng(0)
    behaviour = rng.normal(-2.0, 0.3, rows)
    columns = (rng.random(rows), behaviour + rng.normal(-0.02, 0.2, rows), behaviour, np.sort(rng.integers(0, users, rows)))
    return LoggedFeedback(*columns, rng.random(rows), rng.random(rows))


def sessions_log(sessions: int) -> LoggedFeedback:
    """Sessions of 20 steps on average, two a user."""
    rng = np.random.default_rng(1)
    lengths = rng.geometric(1 / 20, sessions)
    steps = int(lengths.sum())
    behaviour = rng.normal(-2.0, 0.3, steps)
    columns = (rng.random(steps), behaviour + rng.normal(-0.005, 0.1, steps), behaviour, np.repeat(np.arange(sessions) // 2, lengths))
    predicted = (rng.random(steps), rng.random(steps))
    return LoggedFeedback(*columns, *predicted, Offsets.from_lengths(lengths), np.full(steps, 0.95))


def pdis_by_loop(log: LoggedFeedback) -> float:
    """Per-decision importance sampling, one step at a time."""
    assert log.trajectory is not None
    starts, total = log.trajectory.values.tolist(), 0.0
    target, behaviour, reward, discount = (x.tolist() for x in (log.target_log_prob, log.behaviour_log_prob, log.reward, log.discount))
    for k in range(len(starts) - 1):
        weight, present = 0.0, 1.0
        for i in range(starts[k], starts[k + 1]):
            weight += target[i] - behaviour[i]
            total += math.exp(weight) * present * reward[i]
            present *= discount[i]
    return total / (len(starts) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a tenth of the rows")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    share = 10 if options.small else 1
    million, sessions, real = (
        rows_log(1_000_000 // share, 50_000 // share),
        sessions_log(40_000 // share),
        rows_log(1_436_609 // share, 27_285 // share),
    )
    found: dict[str, float] = {}
    for name in ("ips", "snips", "ncis", "dr", "sndr", "switch_dr"):
        found[f"1M rows, {name}"] = core_ms(lambda name=name: offline_eval.REGISTRY[name].contributions(million))
    found["800k steps, weights"] = core_ms(lambda: trajectories(sessions).ratio())
    for name in ("pdis", "wis", "seq_dr", "wpdis", "seq_wdr"):
        found[f"800k steps, {name}"] = core_ms(lambda name=name: offline_eval.REGISTRY[name].contributions(sessions))
    found["800k steps, pdis by a Python loop"] = core_ms(lambda: pdis_by_loop(sessions), repeats=2)
    loop, ours = pdis_by_loop(sessions), offline_eval.value(offline_eval.PDIS().contributions(sessions))
    assert abs(loop - ours) < 1e-9 * abs(loop)
    contributions = offline_eval.SNIPS().contributions(real)
    sums = cluster_sums(contributions)
    found["1.44M rows of 27,285 users, sums by user"] = core_ms(lambda: cluster_sums(contributions))
    for method in ("delta", "skew_t", "bootstrap", "poisson_bootstrap"):
        found[f"27,285 users, {method} interval"] = core_ms(lambda method=method: offline_eval.interval(sums, method=method), repeats=3)
    if options.json:
        print(json.dumps({"benchmark": "ope_speed", "share_of_rows": 1 / share, "core_ms": {k: round(v, 3) for k, v in found.items()}}))
    else:
        for name, cost in found.items():
            print(f"{name:45} {cost:9.2f} core-ms")


if __name__ == "__main__":
    main()
