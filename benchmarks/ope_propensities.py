"""Estimated propensities beside known ones: how far the law is off, what the temperature mends, what estimates built on it are worth.

Users have 10 rows; the logger follows tastes and the moment, not linearly. Distances of estimates are in standard errors from the value of
the target policy in the logged contexts, mean over 10 logs.

python benchmarks/ope_propensities.py --json            # about a core-minute
python benchmarks/ope_propensities.py --small --json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

import offline_eval
from recrl.core.contracts import LoggedFeedback
from recrl.core.streams import Purpose, Streams

ROWS, ACTIONS, FOLDS = 10, 4, 3
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def logged(seed: int, users: int) -> Arrays:
    """Users (n,), features (n, 3), the logging policy's law (n, ACTIONS), actions (n,)."""
    streams, lanes = Streams(seed), np.arange(users)
    taste = np.repeat(streams.normal(lanes, 0, Purpose.USERS, (2,)), ROWS, axis=0)
    moment = streams.normal(lanes, 1, Purpose.USERS, (ROWS,)).ravel()
    law = np.exp(np.stack([0 * moment, taste[:, 0], -taste[:, 1] + 0.5 * moment, np.sin(2 * moment)], axis=1))
    law /= law.sum(axis=1, keepdims=True)
    drawn = streams.uniform(lanes, 0, Purpose.EXPLORATION, (ROWS,)).ravel()
    action = (drawn[:, None] >= law.cumsum(axis=1)[:, :-1]).sum(axis=1)
    return np.repeat(lanes, ROWS), np.column_stack([taste, moment]), law, action


def law_errors(users: int, model: str, calibration: Any) -> dict[str, Any]:
    """Divergence from the true law in nats, calibration error, temperatures and core-seconds on one log."""
    user, x, law, action = logged(1, users)
    started = time.process_time()
    found = offline_eval.cross_fit_propensities(x, action, user, model=model, calibration=calibration, folds=FOLDS)
    cost = time.process_time() - started
    return {
        **{"users": users, "model": model, "calibration": calibration},
        "divergence": round(float((law * (np.log(law) - found.log_prob_all)).sum(axis=1).mean()), 4),
        "calibration_error": round(found.calibration_error(), 4),
        "temperature": found.temperature.round(2).tolist(),
        "core_s": round(cost, 2),
    }


def distances(seed: int, users: int, model: str) -> dict[str, list[float]]:
    """Standard errors between estimate and truth, with estimated and with true propensities, by estimator."""
    user, x, law, action = logged(seed, users)
    row, eye = np.arange(action.size), np.eye(ACTIONS)
    rate = 1 / (1 + np.exp(-x[:, :1] - np.linspace(-1.5, 1.5, ACTIONS)))
    reward = (Streams(seed).uniform(row, 0, Purpose.RESPONSES) < rate[row, action]).astype(float)
    target = np.roll(np.sqrt(law), 1, axis=1)
    target /= target.sum(axis=1, keepdims=True)
    found = offline_eval.cross_fit_propensities(x, action, user, model=model, folds=FOLDS)

    def listed(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        every = np.broadcast_to(eye, (rows.size, ACTIONS, ACTIONS))
        return np.concatenate([np.repeat(x[rows][:, None], ACTIONS, axis=1), every], axis=2), target[rows]

    feedback = LoggedFeedback(reward, np.log(target[row, action]), found.log_prob, user)
    estimated = offline_eval.cross_fit(feedback, np.concatenate([x, eye[action]], axis=1), listed, model="ridge", folds=FOLDS)
    known, truth = replace(estimated, behaviour_log_prob=np.log(law[row, action])), float((target * rate).sum(axis=1).mean())
    out = {}
    for name in ("ips", "snips", "dr", "sndr"):
        both = [offline_eval.interval(offline_eval.REGISTRY[name].contributions(log)) for log in (estimated, known)]
        out[name] = [(one.value - truth) / one.standard_error for one in both]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="100 users, 2 logs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    started = time.process_time()
    sizes, logs, of = ((100,), 2, (100,)) if options.small else ((100, 400, 1_600), 10, (200, 800))
    kinds = [(model, calibration) for model in ("lightgbm", "logistic") for calibration in ("none", "temperature")]
    laws = [law_errors(users, *kind) for users in sizes for kind in kinds]
    values = []
    for users in of:
        each = [distances(seed, users, "lightgbm") for seed in range(logs)]
        for name in each[0]:
            mean = np.mean([one[name] for one in each], axis=0).round(2).tolist()
            values.append({"users": users, "estimator": name, "estimated": mean[0], "known": mean[1]})
    cost = {"core_seconds": round(time.process_time() - started, 1), "load": os.getloadavg()[0]}
    result = {"benchmark": "ope_propensities", **cost, "laws": laws, "errors_from_truth": values}
    print(json.dumps(result, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
