"""Does choosing an estimator by the data pay? Selectors against always taking one estimator, over random settings with exact values.

A setting draws a bandit, its rate, a logger and a target of their own sharpness, 100 to 1,000 users of 5 rows, and what the reward model is
allowed to see: the pair of context and action, the action alone, or nothing but noise. On each of --logs logs every estimator and every
selector is asked; an error is squared distance to the exact value. Reported: the ratio of root mean squared errors, selector to single
estimator, as a geometric mean over settings with a t interval, and the regret, selector's error less that of the setting's best estimator.

python benchmarks/ope_selection.py --json
python benchmarks/ope_selection.py --small --json         # 4 settings, 3 logs
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from scipy import stats
from sklearn.linear_model import LinearRegression

import offline_eval
from offline_eval.selection import cross_validated, importance_fitted, slope
from offline_eval.truth import Bandit, softmax_policy
from recrl.core.contracts import LoggedFeedback

CONTEXTS, ACTIONS, ROWS = 4, 5, 5
SINGLE = ("ips", "clipped_ips", "snips", "ncis", "dm", "dr", "sndr", "switch_dr")
CAPS = tuple(offline_eval.ClippedIPS(cap) for cap in (100.0, 30.0, 10.0, 5.0, 3.0, 2.0, 1.0))
TABLE = LinearRegression()


def setting(number: int) -> dict[str, Any]:
    """A random setting, a function of its number."""
    rng = np.random.default_rng([number, 77])
    sharp = rng.uniform(0.2, 2.0, 2)
    return {
        "bandit": Bandit.random(number, float(rng.choice([0.05, 0.2, 0.5])), contexts=CONTEXTS, actions=ACTIONS),
        "logger": softmax_policy(2 * number, CONTEXTS, ACTIONS, sharp[0]),
        "target": softmax_policy(2 * number + 1, CONTEXTS, ACTIONS, sharp[1]),
        "users": int(rng.choice([100, 300, 1000])),
        "sees": str(rng.choice(["pairs", "actions", "nothing"])),
    }


def feedback(given: dict[str, Any], seed: int) -> LoggedFeedback:
    """A log with cross-fitted predictions of a model that sees what the setting allows."""
    log = given["bandit"].draw(given["logger"], given["users"], ROWS, seed)
    x, target = log.features(given["target"])
    sees = {"pairs": np.eye(x.shape[1]), "actions": np.tile(np.eye(ACTIONS), (CONTEXTS, 1)), "nothing": np.zeros((x.shape[1], 1))}[
        given["sees"]
    ]

    def seen(rows: Any) -> tuple[Any, Any]:
        listed, chance = target(rows)
        return listed @ sees, chance

    return offline_eval.cross_fit(log.feedback(given["target"]), x @ sees, seen, model=TABLE, folds=2)


def errors(given: dict[str, Any], logs: int, number: int) -> dict[str, float]:
    """Root mean squared error of every estimator and every selector."""
    truth, squared = given["bandit"].value(given["target"]), {}
    for k in range(logs):
        log = feedback(given, 1_000 * number + k)
        found = {name: offline_eval.value(offline_eval.REGISTRY[name].contributions(log)) for name in SINGLE}
        found |= {f"clipped_ips at {e.cap:g}": offline_eval.value(e.contributions(log)) for e in CAPS}
        found["slope"], found["slope_plain"] = slope(log, CAPS).value, slope(log, CAPS, monotone=True).value
        found["cross_validated"] = cross_validated(log, SINGLE, judge="ips", seed=k).value
        found["cross_validated_by_dr"] = cross_validated(log, SINGLE, judge="dr", seed=k).value
        found["importance_fitted"] = importance_fitted(log, SINGLE, seed=k).value
        for name, value in found.items():
            squared[name] = squared.get(name, 0.0) + (value - truth) ** 2 / logs
    return {name: float(np.sqrt(total)) for name, total in squared.items()}


def against(table: list[dict[str, float]], selector: str, single: str) -> dict[str, float]:
    """Ratio of errors, geometric mean over settings, with a 95 % t interval."""
    logs = np.log([max(row[selector], 1e-12) / max(row[single], 1e-12) for row in table])
    half = float(stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5)
    return {
        k: round(float(np.exp(v)), 3) for k, v in (("ratio", logs.mean()), ("lower", logs.mean() - half), ("upper", logs.mean() + half))
    }


def regret(table: list[dict[str, float]], name: str, rivals: tuple[str, ...]) -> dict[str, float]:
    """Error relative to the setting's best rival, less 1: mean over settings with a 95 % t interval, and the worst tenth."""
    short = np.array([row[name] / min(row[r] for r in rivals) - 1 for row in table])
    half = float(stats.t.ppf(0.975, short.size - 1) * short.std(ddof=1) / short.size**0.5)
    return {"mean": round(float(short.mean()), 3), "half_width": round(half, 3), "worst_tenth": round(float(np.quantile(short, 0.9)), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=int, default=50)
    parser.add_argument("--logs", type=int, default=30)
    parser.add_argument("--small", action="store_true", help="4 settings, 3 logs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.small:
        options.settings, options.logs = 4, 3
    started = time.process_time()
    table = [errors(setting(number), options.logs, number) for number in range(options.settings)]
    caps, chosen = tuple(f"clipped_ips at {e.cap:g}" for e in CAPS), ("cross_validated", "cross_validated_by_dr", "importance_fitted")
    result = {
        "benchmark": "ope_selection",
        "settings": options.settings,
        "logs": options.logs,
        "core_seconds": round(time.process_time() - started, 1),
        "against": {s: {name: against(table, s, name) for name in SINGLE} for s in chosen}
        | {s: {name: against(table, s, name) for name in caps} for s in ("slope", "slope_plain")},
        "regret": {name: regret(table, name, SINGLE) for name in (*SINGLE, *chosen)},
        "regret_of_caps": {name: regret(table, name, caps) for name in (*caps, "slope", "slope_plain")},
    }
    print(json.dumps(result, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
