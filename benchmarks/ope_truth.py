"""Every estimator and interval against known truth: bias, error, coverage, width and cost; the tables in docs/off_policy.md.

python benchmarks/ope_truth.py --json                 # 200 replications a cell: minutes
python benchmarks/ope_truth.py --small --json         # seconds; for CI
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from sklearn.linear_model import LinearRegression

import offline_eval
from offline_eval.scoring import score
from offline_eval.truth import Bandit, RetentionProcess, softmax_policy
from recrl.core.objective import Signal
from recrl.core.streams import Purpose, Streams

SIGNAL = Signal("reward", discount_within=0.95, discount_across=0.8)
HORIZON, ROWS, DAY = 12, 10, 3
MILD, HEAVY = 0.25, 0.5  # how decided logger and target are: the spread of weights
METHODS = ("auto", "delta", "skew_t", "student_t", "hoeffding", "bernstein")
TABLE = LinearRegression(fit_intercept=False)


@dataclass(frozen=True)
class Cell:
    """One truth with the logs that hide it."""

    world: str
    users: int
    rate: float | None
    truth: float
    draw: Callable[[int], Any]
    estimators: Sequence[Any]


def cells(users: Sequence[int], rates: Sequence[float]) -> Iterator[Cell]:
    for count in users:
        for rate in rates:
            yield bandit(count, rate)
        yield process(count, MILD, "process")
        yield process(count, HEAVY, "heavy")
        yield retention(count)


def bandit(users: int, rate: float) -> Cell:
    """Rows of users of hidden kinds; models are tables that do not see the kind."""
    world, logger, target = Bandit.random(11, rate), softmax_policy(1, 4, 5, 0.7), softmax_policy(2, 4, 5, 0.7)

    def draw(number: int) -> Any:
        log = world.draw(logger, users, ROWS, number)
        return offline_eval.cross_fit(log.feedback(target), *log.features(target), model=TABLE, folds=2)

    wanted = [*("ips", "clipped_ips", "snips", "ncis", "ncis_trajectory", "replay", "dm", "dr", "sndr", "switch_dr")]
    return Cell("bandit", users, rate, world.value(target), draw, [offline_eval.REGISTRY[name] for name in wanted])


def process(users: int, sharpness: float, name: str) -> Cell:
    """Trajectories of at most HORIZON requests over sessions; fitted Q is a table without the number of steps left, so it is wrong."""
    world, logger, target = RetentionProcess.random(4), softmax_policy(3, 3, 3, sharpness), softmax_policy(6, 3, 3, sharpness)

    def draw(number: int) -> Any:
        log = world.draw(logger, users, HORIZON, number)
        return offline_eval.fitted_q(log.feedback(target, SIGNAL), *log.features(target), model=TABLE, iterations=HORIZON, folds=2)

    wanted = ("tis", "wis", "capped_wis", "pdis", "wpdis", "seq_dm", "seq_dr", "seq_wdr")
    truth = world.value(target, SIGNAL, HORIZON)
    return Cell(name, users, None, truth, draw, [offline_eval.REGISTRY[n] for n in wanted])


def retention(users: int) -> Cell:
    """Return within DAY days after the first session; half of the sessions are observed for 0 to 6 days only."""
    world, logger, target = RetentionProcess.random(4), softmax_policy(3, 3, 3, MILD), softmax_policy(6, 3, 3, MILD)
    curve = np.cumprod(1 - world.hazard.mean(axis=0)[:DAY])  # one curve for everybody: a poor prediction, on purpose

    def draw(number: int) -> Any:
        log = world.draw(logger, users, 60, number)
        days = Streams(number).integers(14, np.arange(users), 0, Purpose.CANDIDATES)
        sessions = log.first_sessions(target, np.where(days < 7, days, 30))
        n = len(sessions.days)
        return replace(sessions, logged_hazard=np.tile(world.hazard.mean(axis=0)[:DAY], (n, 1)), target_survival=np.tile(curve, (n, 1)))

    kinds = (offline_eval.NaiveRetention, offline_eval.IPCW, offline_eval.KaplanMeier, offline_eval.SurvivalDR)
    return Cell("retention", users, None, float(world.retention(target)[DAY - 1]), draw, [kind(DAY) for kind in kinds])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.02, 0.1, 0.5])
    parser.add_argument("--replications", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="100 users, one rate, 30 replications")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.small:
        options.users, options.rates, options.replications = [100], [0.1], 30
    started, rows = time.process_time(), []

    warnings.filterwarnings("ignore", message="fitted Q evaluation has not settled")
    for cell in cells(options.users, options.rates):
        found = score(cell.draw, cell.truth, cell.estimators, METHODS, replications=options.replications, seed=options.seed)
        for entry in found:
            known = {name: None if isinstance(x, float) and np.isnan(x) else x for name, x in asdict(entry).items()}
            rows.append({"world": cell.world, "users": cell.users, "rate": cell.rate, **known})
            if not options.json and entry.method == "auto":
                print(
                    f"{cell.world:9} {cell.users:5} {cell.rate or '':4} {entry.estimator:15} truth {entry.truth:.4f}"
                    f" bias {entry.bias:+.4f} +- {entry.bias_error:.4f} rmse {entry.rmse:.4f} cover {entry.coverage:6.1%}"
                    f" width {entry.width:.4f} {entry.estimate_ms:.2f} ms",
                    flush=True,
                )
    result = {"benchmark": "ope_truth", "replications": options.replications, "core_seconds": time.process_time() - started, "rows": rows}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
