"""Each logger's value from the other's log, on OBP's small sample of the Open Bandit Dataset: the honest table of docs/off_policy.md.

The value of Bernoulli Thompson sampling (bts) from the rows of the random logger and the other way round, each minus the mean click of the
logger's own rows. An interval holds the errors of both logs: ``delta`` adds their variances, ``both logs resampled`` draws the rows of both
anew, and with them the estimate of bts's law. That law changed during the week, so where bts is the target its mean law is taken: the share
of its own rows that show an item at a position. Nobody knows who saw a row; visitors with the same four hashed features are one cluster.

python benchmarks/ope_open_bandit.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

import offline_eval
import recrl_datasets as rd
from offline_eval.direct import user_folds
from recrl.core.contracts import LoggedFeedback

ITEMS, POSITIONS = 80, 3
ESTIMATORS = ("ips", "snips", "ncis", "dm", "sndr")
Rows = dict[str, NDArray[Any]]


def logs(campaign: str) -> dict[str, Rows]:
    """The rows of each logger."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", rd.RowsAsClustersWarning)
        frame = rd.prepare("open-bandit" + ("" if campaign == "all" else f"-{campaign}"), stores=folder).scan().collect()
    visitor = frame.select(pl.struct(f"user_feature_{k}" for k in range(4)).rank("dense").cast(pl.Int64).alias("v"))["v"]
    frame = frame.with_columns(visitor.alias("visitor"))
    found = {}
    for name, random in (("random", 1), ("bts", 0)):
        part = frame.filter(pl.col("is_random_exposure") == random)
        columns = {c: part[c].to_numpy() for c in ("item", "position", "click", "propensity", "visitor")}
        found[name] = {**columns, "cell": columns["position"].astype(np.int64) * ITEMS + columns["item"]}
    return found


def law(rows: Rows) -> NDArray[np.float64]:
    """Share of each item at its position, (positions * items,)."""
    counts = np.bincount(rows["cell"], minlength=ITEMS * POSITIONS).reshape(POSITIONS, ITEMS).astype(float)
    shares: NDArray[np.float64] = (counts / counts.sum(axis=1, keepdims=True)).ravel()
    return shares


def judged(source: Rows, target: NDArray[np.float64]) -> LoggedFeedback:
    """The source's rows for the law ``target``, with cross-fitted predictions: ridge on item and position, apart."""
    with np.errstate(divide="ignore"):
        chances = np.log(target[source["cell"]]), np.log(source["propensity"])
    log = LoggedFeedback(source["click"].astype(float), *chances, source["visitor"])
    position, item = np.divmod(np.arange(ITEMS * POSITIONS), ITEMS)
    x = np.concatenate([np.eye(POSITIONS)[position], np.eye(ITEMS)[item]], axis=1)
    fold, logged, direct = user_folds(log.cluster, 5), np.empty(log.reward.size), np.empty(log.reward.size)
    for k in range(5):
        q = Ridge(alpha=50.0).fit(x[source["cell"][fold != k]], log.reward[fold != k]).predict(x)
        held = fold == k
        logged[held], direct[held] = q[source["cell"][held]], (q * target).reshape(POSITIONS, ITEMS).sum(1)[source["position"][held]]
    return replace(log, target_value=direct, logged_value=logged)


def resampled(work: Callable[[Rows, Rows], list[float]], source: Rows, own: Rows, replicates: int) -> NDArray[np.float64]:
    """Percentiles (2, k) of the ``k`` numbers of ``work`` over resampled rows of both logs."""
    rng, found = np.random.default_rng(0), []
    for _ in range(replicates):
        drawn = [rng.integers(0, rows["cell"].size, rows["cell"].size) for rows in (source, own)]
        found.append(work(*({k: v[i] for k, v in rows.items()} for rows, i in zip((source, own), drawn, strict=True))))
    return np.nanquantile(found, [0.025, 0.975], axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--campaigns", nargs="+", default=["all", "men", "women"])
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    table = []
    for campaign in options.campaigns:
        both = logs(campaign)
        for name, other in (("bts", "random"), ("random", "bts")):
            own, source = both[name], both[other]

            def target(rows: Rows, name: str = name) -> NDArray[np.float64]:
                return law(rows) if name == "bts" else np.full(ITEMS * POSITIONS, 1 / ITEMS)

            feedback = judged(source, target(own))
            truth = offline_eval.Mean().contributions(LoggedFeedback(own["click"], *np.zeros((2, own["click"].size)), own["visitor"]))

            def again(source: Rows, own: Rows) -> list[float]:
                drawn, mean = judged(source, target(own)), float(own["click"].mean())
                return [offline_eval.value(offline_eval.resolve(e).contributions(drawn)) - mean for e in ESTIMATORS]

            for name_of, lower, upper in zip(ESTIMATORS, *resampled(again, source, own, options.replicates), strict=True):
                estimator = offline_eval.resolve(name_of)
                found = offline_eval.estimate(feedback, estimator)
                apart = offline_eval.interval(offline_eval.between_logs(estimator.contributions(feedback), truth))
                table.append(
                    {
                        **{"campaign": campaign, "target": name, "from": other, "estimator": estimator.name},
                        **{"estimate": found.value, "own": offline_eval.value(truth), "difference": apart.value, "verdict": found.verdict},
                        **{"delta": [apart.lower, apart.upper], "both logs resampled": [lower, upper]},
                        **{"clicks": int(source["click"].sum()), "ess": found.diagnostics.ess, "clusters": found.diagnostics.users},
                    }
                )
                if not options.json:
                    print(table[-1], flush=True)
    print(json.dumps({"benchmark": "ope_open_bandit", "replicates": options.replicates, "rows": table}))


if __name__ == "__main__":
    main()
